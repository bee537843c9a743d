//! Certificates of a test: whom a server trusts, and whom nobody does.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use std::fs::write;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// An address of this machine, for which a server gets its certificate.
pub fn any_host() -> Ipv4Addr {
    let [a, b, c, ..] = RandomState::new().hash_one("host").to_be_bytes();
    Ipv4Addr::new(127, a.clamp(1, 254), b, c.clamp(1, 254))
}

/// `ca.pem` and `other-ca.pem`; by the first those of `server` and `node`, by the other one that of `stranger`.
pub fn write_all(folder: &Path, host: Ipv4Addr) {
    // A certificate that is called like its issuer would be taken for one that has signed itself.
    let called = |name: &str| {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let authority = |name: &str| {
        let mut params = called(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signed");
        write(folder.join(format!("{name}.pem")), certificate.pem()).expect("written");
        Issuer::new(params, key)
    };
    let signed = |name: &str, issuer: &Issuer<'_, KeyPair>| {
        let mut params = called(name);
        params.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(host))];
        // etcd's gateway is a client of its own server.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, issuer).expect("signed");
        write(folder.join(format!("{name}.pem")), certificate.pem()).expect("written");
        write(folder.join(format!("{name}.key.pem")), key.serialize_pem()).expect("written");
        write(folder.join(format!("{name}.both.pem")), certificate.pem() + &key.serialize_pem()).expect("written");
    };
    let (ours, theirs) = (authority("ca"), authority("other-ca"));
    signed("server", &ours);
    signed("node", &ours);
    signed("stranger", &theirs);
}
