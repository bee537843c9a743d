//! A cluster that speaks TLS and asks for certificates.

use glommio::LocalExecutor;
use iris::storage::cassandra::{CassandraOptions, TlsFiles, connect, first_copies, schema};

use super::engines::{Engine, certificates};
use super::store::{Kind, Store, keys};

#[test]
fn certificates_are_asked_for_and_checked() {
    let (folder, host) = (tempfile::tempdir().unwrap(), certificates::any_host());
    certificates::write_all(folder.path(), host);
    let options = ["--host", &host.to_string(), "--tls", folder.path().to_str().unwrap()].map(str::to_owned);
    let Some(engine) = Engine::with("cassandra", "Cassandra by TLS", &options) else { return };
    let by = |ca: &str, identity: Option<&str>| {
        let mut options = CassandraOptions::new(vec![engine.field("address").to_owned()], "iris_tls");
        let file = |name: &str| folder.path().join(name);
        options.tls = Some(TlsFiles { ca: Some(file(ca)), identity: identity.map(file) });
        options
    };
    let good = by("ca.pem", Some("node.both.pem"));
    init(&good);
    LocalExecutor::default().run(async {
        let mut store = Store::open(Kind::Cassandra(Box::new(good), 0xcafe)).await;
        let (bob, keys) = (store.user(1), keys("alice", 0..10));
        store.stored(&bob, &keys).await;
        assert_eq!(store.inbox(&bob).await.len(), 10);
    });
    let told = |options: &CassandraOptions| first_copies(options).unwrap_err();
    assert!(told(&by("ca.pem", None)).may_pass(), "the server may be corrected");
    assert!(told(&by("ca.pem", Some("stranger.both.pem"))).may_pass());
    let strange = told(&by("other-ca.pem", Some("node.both.pem"))).to_string();
    assert!(strange.contains("certificate"), "{strange}");
    let missing = told(&by("none.pem", None));
    let wanted = format!("node.cassandra.tls.ca: {}: ", folder.path().join("none.pem").display());
    assert!(missing.to_string().starts_with(&wanted) && !missing.may_pass(), "{missing}");
}

fn init(options: &CassandraOptions) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let replicas = vec![("datacenter1".to_owned(), 1)];
    let init = schema::Init { keyspace: options.keyspace.clone(), replicas, keep_days: 30 };
    let mut options = options.clone();
    options.request_ms_max = 60_000;
    runtime.block_on(async {
        schema::init(&connect(&options).await.unwrap(), &init).await.unwrap();
    });
}
