//! Judges where a registry (Consul or etcd) answers, and what it is shown.
//!
//! Certificates are read when discovery starts; here only their place is known.

use super::check::Check;
use super::cluster::Place;
use super::fault::Problem;
use super::shards::shards_text;
use super::used::{Cluster, Discovery};
use super::written::{self, Tls, Written};
use reqwest::Url;
use std::net::IpAddr;
use std::path::PathBuf;

/// The longest value that Consul keeps beside a service.
const CONSUL_VALUE_BYTES_MAX: usize = 512;
/// Where nothing else can be asked: the faults are told before.
const NOWHERE: &str = "http://127.0.0.1:0";

/// Where a registry answers, and by which certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// http or https, host and port, and nothing else.
    pub address: Url,
    /// PEM file of those that are trusted; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// PEM file with this node's certificate and key; `None`: it shows none.
    pub identity: Option<PathBuf>,
}

impl Check<'_> {
    pub fn consul(&mut self, written: &Written) -> Discovery {
        let consul = &written.cluster.consul;
        let at = self.registry("cluster.consul", &consul.address, &consul.tls, written.node.insecure);
        if !consul.token.reveal().bytes().all(|byte| byte.is_ascii_graphic()) {
            self.fault("cluster.consul.token", Problem::BadToken);
        }
        Discovery::Consul { at, token: consul.token.clone() }
    }

    pub fn etcd(&mut self, written: &Written) -> Discovery {
        let etcd = &written.cluster.etcd;
        let at = self.registry("cluster.etcd", &etcd.address, &etcd.tls, written.node.insecure);
        if etcd.user.is_empty() && !etcd.password.reveal().is_empty() {
            self.fault(
                "cluster.etcd.password",
                Problem::Needed("a password is a user's: write cluster.etcd.user, too"),
            );
        }
        Discovery::Etcd { at, user: etcd.user.clone(), password: etcd.password.clone() }
    }

    fn registry(&mut self, group: &str, address: &str, tls: &Tls, insecure: bool) -> Registry {
        let field = format!("{group}.address");
        let url = registry_url(address);
        match &url {
            None => self.fault(&field, Problem::BadRegistry(without_password(address))),
            Some(url) if url.scheme() == "http" && !insecure && !is_here(url) => {
                self.fault(&field, Problem::InsecureRegistry(address.to_owned()));
            }
            Some(_) => {}
        }
        let is_plain = url.as_ref().is_some_and(|url| url.scheme() == "http");
        let mut file = |name: &str, path: &written::Path| {
            let written::Path::Is(path) = path else { return None };
            let field = format!("{group}.tls.{name}");
            if is_plain {
                self.fault(&field, Problem::NeedlessTls(address.to_owned()));
            }
            Some(PathBuf::from(self.text(&field, path, 4_095)))
        };
        let (ca, identity) = (file("ca", &tls.ca), file("identity", &tls.identity));
        Registry { address: url.unwrap_or_else(nowhere), ca, identity }
    }

    /// To be asked when everything else of the node is known.
    pub fn consul_length(&mut self, place: &Place, cluster: &Cluster) {
        let Discovery::Consul { .. } = cluster.discovery else { return };
        let length = place.shards.as_deref().map_or(0, |ranges| shards_text(ranges).len());
        if length > CONSUL_VALUE_BYTES_MAX {
            self.fault("node.shards", Problem::TooLongForConsul { length, max: CONSUL_VALUE_BYTES_MAX });
        }
    }
}

/// Without a path, a query, or a password, which would be printed.
fn registry_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    let is_nobody = url.username().is_empty() && url.password().is_none();
    let is_http = matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty());
    (is_bare && is_nobody && is_http && url.port() != Some(0)).then_some(url)
}

/// What may be printed of something that is no address: before an `@` there is most likely a password.
fn without_password(text: &str) -> String {
    text.rsplit_once('@').map_or_else(|| text.to_owned(), |(_, host)| format!("…@{host}"))
}

fn nowhere() -> Url {
    match Url::parse(NOWHERE) {
        Ok(url) => url,
        Err(error) => unreachable!("{NOWHERE}: {error}"),
    }
}

/// Whether it is on this machine.
fn is_here(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}
