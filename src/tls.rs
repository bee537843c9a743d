//! TLS towards services of the operator's own (registries, Cassandra): whom we trust, and what we show.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("tls.{file}: {}: {reason}", .path.display())]
pub struct BadCertificates {
    /// `ca` or `identity`.
    pub file: &'static str,
    /// As configured; empty where it is not about a file.
    pub path: PathBuf,
    /// What is wrong.
    pub reason: String,
}

/// A client that trusts those in the PEM file `ca` (without one: those of the system), and shows the certificate in the
/// PEM file `identity`, which has its key, too.
pub fn client(ca: Option<&Path>, identity: Option<&Path>) -> Result<ClientConfig, BadCertificates> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| bad("ca", Path::new(""), error.to_string()))?;
    let builder = builder.with_root_certificates(roots(ca)?);
    let Some(path) = identity else { return Ok(builder.with_no_client_auth()) };
    let bad = |reason: String| bad("identity", path, reason);
    let key = PrivateKeyDer::from_pem_file(path).map_err(|error| bad(error.to_string()))?;
    let chain = certificates(path).map_err(bad)?;
    builder.with_client_auth_cert(chain, key).map_err(|error| bad(error.to_string()))
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, BadCertificates> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        // Systems have some that rustls cannot read.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    };
    let bad = |reason: String| bad("ca", path, reason);
    for certificate in certificates(path).map_err(bad)? {
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = found.map_err(|error| error.to_string())?;
    if found.is_empty() { Err("there is no certificate in it".to_owned()) } else { Ok(found) }
}

fn bad(file: &'static str, path: &Path, reason: String) -> BadCertificates {
    BadCertificates { file, path: path.to_owned(), reason }
}
