//! Consul or etcd, and what a cluster is told about it. Consul has access control: nodes have a token with the rules of
//! `docs/discovery.md` and no others.

use super::Engine;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// May do everything.
const ROOT: &str = "0d5f7b1c-5c3a-4e6e-9a7d-6f6d5b1c2a3e";
/// Of the nodes.
pub const NODES: &str = "4f1f2a0e-93d4-4c59-8f0f-2f4a0a6f5b10";
/// May read what nodes read, and register nothing.
pub const READER: &str = "9a0c5c86-6a1b-4b6e-8a56-3f5f1f1f7d12";
/// Of what writes shard maps.
pub const PUBLISHER: &str = "b8b1f3a6-0a53-4a8f-9b5e-7d3b9b1f0c11";
/// How the clusters of tests are called.
pub const CLUSTER: &str = "tested";
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module.
pub struct Registry {
    pub engine: Engine,
    /// How the cluster is called.
    cluster: &'static str,
}

impl Registry {
    pub fn up(kind: &'static str, test: &str) -> Option<Registry> {
        Registry::up_for(CLUSTER, kind, test)
    }

    pub fn up_for(cluster: &'static str, kind: &'static str, test: &str) -> Option<Registry> {
        let options = ["--token", ROOT].map(str::to_owned);
        let engine = Engine::with(kind, test, if kind == "consul" { &options } else { &[] })?;
        let registry = Registry { engine, cluster };
        registry.allow();
        Some(registry)
    }

    fn is_consul(&self) -> bool {
        self.engine.kind() == "consul"
    }

    pub fn start(&mut self) {
        self.engine.start();
        self.allow();
    }

    /// Makes the tokens, unless they are there.
    fn allow(&self) {
        if !self.is_consul() {
            return;
        }
        let cluster = self.cluster;
        let node = |may: &str| {
            format!(
                r#"service "iris-{cluster}" {{ policy = "{may}" }} node_prefix "" {{ policy = "read" }}
                key "iris-shards/{cluster}" {{ policy = "read" }}"#
            )
        };
        let publisher = format!(r#"key "iris-shards/{cluster}" {{ policy = "write" }}"#);
        let tokens =
            [("nodes", node("write"), NODES), ("reader", node("read"), READER), ("publisher", publisher, PUBLISHER)];
        for (name, rules, secret) in tokens {
            let policy = json!({"Name": name, "Rules": rules});
            let token = json!({"SecretID": secret, "Policies": [{"Name": name}]});
            let known = self.ask(Method::GET, &format!("v1/acl/policy/name/{name}"), "");
            if known.0 == 200 {
                continue;
            }
            for (path, body) in [("v1/acl/policy", policy), ("v1/acl/token", token)] {
                let (status, text) = self.ask(Method::PUT, path, &body.to_string());
                assert_eq!(status, 200, "{path}: {text}");
            }
        }
    }

    /// Asks with all rights.
    pub fn ask(&self, method: Method, path: &str, body: &str) -> (u16, String) {
        let url = format!("{}/{path}", self.engine.field("http"));
        let client = Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client");
        let question = client.request(method, url).header("X-Consul-Token", ROOT).body(body.to_owned());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let response = question.send().await.expect("an answer");
            (response.status().as_u16(), response.text().await.expect("a text"))
        })
    }

    /// The fields of `cluster` by which its nodes follow it.
    pub fn fields(&self) -> String {
        self.fields_with(NODES)
    }

    pub fn fields_with(&self, token: &str) -> String {
        let (kind, address, cluster) = (self.engine.kind(), self.engine.field("http"), self.cluster);
        let token = if self.is_consul() { format!("token: \"{token}\"") } else { String::new() };
        format!("name: \"{cluster}\", discovery: {kind}, {kind}: (address: \"{address}\", {token})")
    }

    /// Writes the shard map as it stands, whatever is there.
    pub fn put_map(&self, text: &str) {
        let (status, told) = match self.is_consul() {
            true => self.ask(Method::PUT, &format!("v1/kv/iris-shards/{}", self.cluster), text),
            false => self.put(&format!("iris/{}/shards", self.cluster), text),
        };
        assert_eq!(status, 200, "{told}");
    }

    /// Etcd asks for a login from now on, and this user may do what `docs/discovery.md` says.
    pub fn ask_for_login(&self, user: &str, password: &str) {
        let prefix = format!("iris/{}/", self.cluster);
        let end = format!("iris/{}0", self.cluster);
        let permission = json!({"permType": "READWRITE", "key": packed(&prefix), "range_end": packed(&end)});
        for (call, body) in [
            ("user/add", json!({"name": "root", "password": ROOT})),
            ("role/add", json!({"name": "root"})),
            ("user/grant", json!({"user": "root", "role": "root"})),
            ("user/add", json!({"name": user, "password": password})),
            ("role/add", json!({"name": "nodes"})),
            ("role/grant", json!({"name": "nodes", "perm": permission})),
            ("user/grant", json!({"user": user, "role": "nodes"})),
            ("enable", json!({})),
        ] {
            let (status, text) = self.ask(Method::POST, &format!("v3/auth/{call}"), &body.to_string());
            assert_eq!(status, 200, "{call}: {text}");
        }
    }

    /// A key of etcd.
    pub fn put(&self, key: &str, value: &str) -> (u16, String) {
        self.ask(Method::POST, "v3/kv/put", &json!({"key": packed(key), "value": packed(value)}).to_string())
    }

    /// Forgets the history of etcd.
    pub fn compact(&self) {
        let (_, text) = self.ask(Method::POST, "v3/kv/range", &json!({"key": packed("a")}).to_string());
        let found: Value = serde_json::from_str(&text).expect("JSON");
        let body = json!({"revision": found["header"]["revision"], "physical": true});
        let (status, text) = self.ask(Method::POST, "v3/kv/compaction", &body.to_string());
        assert_eq!(status, 200, "{text}");
    }
}

fn packed(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// Time in which something has to happen, measured by what the machine gave: while others had its CPUs, the clock stands,
/// but not for long.
pub struct Due {
    begun: Instant,
    stalled_us: u64,
}

/// The longest that a busy machine is waited for.
const STALLED_MAX: Duration = Duration::from_secs(15);

impl Due {
    pub fn now() -> Due {
        Due { begun: Instant::now(), stalled_us: stalled_us() }
    }

    /// Panics if more time has gone.
    pub fn within(&self, time: Duration, what: &str) {
        let took = self.begun.elapsed();
        let stalled = Duration::from_micros(stalled_us() - self.stalled_us).min(STALLED_MAX);
        eprintln!("{what}: {} ms (some task waited for a CPU in {} of them)", took.as_millis(), stalled.as_millis());
        assert!(took <= time + stalled, "{what} took {took:?}, of which the machine was busy for {stalled:?}");
    }
}

/// How long some task of the machine waited for a CPU, since it started. 0 where the kernel does not tell.
fn stalled_us() -> u64 {
    let text = std::fs::read_to_string("/proc/pressure/cpu").unwrap_or_default();
    let total = text.lines().next().and_then(|some| some.rsplit_once("total=")?.1.parse().ok());
    total.unwrap_or(0)
}
