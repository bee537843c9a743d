//! etcd over its JSON gateway: a key under a lease per core, a watch from the revision that was read, and the shard map.
//!
//! A watch that was compacted away, lost, or silent for longer than a lease begins anew with a read; nothing is missed,
//! since each watch begins at the revision behind the one that was read.

use super::registry::{Away, Entry, LEASE, REQUEST, Seen, pause};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Client, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tokio::time::timeout;

const SERVICE: &str = "etcd";
/// A watch that says nothing for so long is begun anew: its other end may be gone.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// What a watch says in one line.
const LINE_BYTES_MAX: usize = 16 << 20;

/// A member of an etcd cluster.
#[derive(Debug)]
pub struct Etcd {
    client: Client,
    base: String,
    prefix: String,
    /// 0: none.
    lease: AtomicI64,
}

impl Etcd {
    /// `address`: such as `http://127.0.0.1:2379`.
    pub fn new(address: &str, cluster: &str) -> Self {
        let base = address.trim_end_matches('/').to_owned();
        Etcd { client: Client::new(), base, prefix: format!("iris/{cluster}/"), lease: AtomicI64::new(0) }
    }

    async fn send(&self, path: &str, body: &Value) -> Result<Response, Away> {
        let request = self.client.post(format!("{}/v3/{path}", self.base)).body(body.to_string());
        let response = timeout(REQUEST, request.send()).await;
        let response = response.map_err(|_| unreachable("no answer in time"))?.map_err(told)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await.unwrap_or_default();
        let text = text.chars().filter(|letter| !letter.is_control()).take(200).collect();
        Err(Away::Refused { service: SERVICE, status: status.as_u16(), text })
    }

    async fn ask(&self, path: &str, body: &Value) -> Result<Value, Away> {
        let response = self.send(path, body).await?;
        let text =
            timeout(REQUEST, response.text()).await.map_err(|_| unreachable("no answer in time"))?.map_err(told)?;
        // A stream's first answer, where the gateway has one for a single question.
        parsed(text.lines().next().unwrap_or_default())
    }

    fn map_key(&self) -> String {
        format!("{}shards", self.prefix)
    }

    /// Under a new lease, unless there is one.
    pub(super) async fn register(&self, own: &Entry) -> Result<(), Away> {
        let lease = match self.lease.load(Ordering::Relaxed) {
            0 => self.grant().await?,
            lease => lease,
        };
        let key = format!("{}nodes/{}", self.prefix, own.name);
        let value = serde_json::to_string(own).map_err(|cause| unexpected(&cause.to_string()))?;
        let body = json!({"key": packed(&key), "value": packed(&value), "lease": lease.to_string()});
        let put = self.ask("kv/put", &body).await;
        if put.is_err() {
            // It may have ended meanwhile.
            self.lease.store(0, Ordering::Relaxed);
        }
        put.map(drop)
    }

    async fn grant(&self) -> Result<i64, Away> {
        let granted = self.ask("lease/grant", &json!({"TTL": LEASE.as_secs().to_string()})).await?;
        let lease = number(&granted["ID"]).ok_or_else(|| unexpected("a lease without a number"))?;
        self.lease.store(lease, Ordering::Relaxed);
        Ok(lease)
    }

    pub(super) async fn keep(&self) -> Result<bool, Away> {
        let lease = self.lease.load(Ordering::Relaxed);
        let kept = self.ask("lease/keepalive", &json!({"ID": lease.to_string()})).await?;
        // A lease that has ended has no time left.
        let is_alive = number(&kept["result"]["TTL"]).is_some_and(|seconds| seconds > 0);
        if !is_alive {
            self.lease.store(0, Ordering::Relaxed);
        }
        Ok(is_alive)
    }

    pub(super) async fn leave(&self) -> Result<(), Away> {
        let lease = self.lease.swap(0, Ordering::Relaxed);
        self.ask("lease/revoke", &json!({"ID": lease.to_string()})).await.map(drop)
    }

    pub(super) async fn watch(&self, to: Sender<Result<Seen, Away>>) {
        loop {
            let Err(ended) = self.follow(&to).await else { return };
            if let Some(away) = ended {
                if to.send(Err(away)).await.is_err() {
                    return;
                }
                pause().await;
            }
        }
    }

    /// Reads, and follows what changes. Ends with `Ok` when nobody listens, with `Err(None)` to begin anew.
    async fn follow(&self, to: &Sender<Result<Seen, Away>>) -> Result<(), Option<Away>> {
        let (mut keys, revision) = self.read().await?;
        if to.send(Ok(seen_of(&keys, &self.map_key()))).await.is_err() {
            return Ok(());
        }
        let wanted = json!({"create_request": {
            "key": packed(&self.prefix), "range_end": packed(&behind(&self.prefix)),
            "start_revision": (revision + 1).to_string(),
        }});
        let mut lines = Lines { response: self.send("watch", &wanted).await?, rest: Vec::new() };
        loop {
            let Ok(line) = timeout(SILENCE_MAX, lines.next()).await else { return Err(None) };
            let line = parsed(&line?)?;
            let result = &line["result"];
            // Compacted away, or ended by the server.
            if result["canceled"] == true || line.get("error").is_some() {
                return Err(None);
            }
            let events = result["events"].as_array().map(Vec::as_slice).unwrap_or_default();
            events.iter().for_each(|event| apply(&mut keys, event));
            if !events.is_empty() && to.send(Ok(seen_of(&keys, &self.map_key()))).await.is_err() {
                return Ok(());
            }
        }
    }

    /// Everything under the prefix, and the revision at which it was so.
    async fn read(&self) -> Result<(BTreeMap<String, String>, i64), Away> {
        let range = json!({"key": packed(&self.prefix), "range_end": packed(&behind(&self.prefix))});
        let found = self.ask("kv/range", &range).await?;
        let revision = number(&found["header"]["revision"]).ok_or_else(|| unexpected("no revision"))?;
        let list = found["kvs"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok((list.iter().filter_map(pair).collect(), revision))
    }

    pub(super) async fn map(&self) -> Result<(u64, Option<String>), Away> {
        let found = self.ask("kv/range", &json!({"key": packed(&self.map_key())})).await?;
        let first = &found["kvs"][0];
        let version = number(&first["mod_revision"]).unwrap_or(0) as u64;
        Ok((version, pair(first).map(|(_, value)| value)))
    }

    pub(super) async fn put_map(&self, version: u64, map: &str) -> Result<bool, Away> {
        let key = packed(&self.map_key());
        let body = json!({
            "compare": [{"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": version.to_string()}],
            "success": [{"request_put": {"key": key, "value": packed(map)}}],
        });
        Ok(self.ask("kv/txn", &body).await?["succeeded"] == true)
    }
}

/// The lines of a stream.
struct Lines {
    response: Response,
    rest: Vec<u8>,
}

impl Lines {
    async fn next(&mut self) -> Result<String, Away> {
        loop {
            if let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return String::from_utf8(line).map_err(|_| unexpected("bytes that are no text"));
            }
            if self.rest.len() > LINE_BYTES_MAX {
                return Err(unexpected("a line without an end"));
            }
            match self.response.chunk().await.map_err(told)? {
                Some(bytes) => self.rest.extend_from_slice(&bytes),
                None => return Err(unreachable("the watch has ended")),
            }
        }
    }
}

fn apply(keys: &mut BTreeMap<String, String>, event: &Value) {
    let kv = &event["kv"];
    if event["type"] == "DELETE" {
        if let Some(key) = kv["key"].as_str().and_then(unpacked) {
            keys.remove(&key);
        }
    } else if let Some((key, value)) = pair(kv) {
        keys.insert(key, value);
    }
}

fn seen_of(keys: &BTreeMap<String, String>, map_key: &str) -> Seen {
    let nodes = keys.iter().filter(|(key, _)| *key != map_key);
    let cores = nodes.filter_map(|(_, value)| Some((serde_json::from_str(value).ok()?, true)));
    Seen { cores: cores.collect(), map: keys.get(map_key).cloned() }
}

fn pair(kv: &Value) -> Option<(String, String)> {
    Some((unpacked(kv["key"].as_str()?)?, unpacked(kv["value"].as_str().unwrap_or_default())?))
}

/// The first key that does not begin with the prefix, which ends with a slash.
fn behind(prefix: &str) -> String {
    let mut end = prefix.to_owned();
    end.pop();
    end.push('0');
    end
}

fn packed(text: &str) -> String {
    STANDARD.encode(text)
}

/// Text in base64.
pub(super) fn unpacked(text: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(text).ok()?).ok()
}

/// The gateway writes 64-bit numbers as texts.
fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

fn parsed(text: &str) -> Result<Value, Away> {
    serde_json::from_str(text).map_err(|cause| unexpected(&cause.to_string()))
}

fn unreachable(cause: &str) -> Away {
    Away::Unreachable { service: SERVICE, cause: cause.to_owned() }
}

fn unexpected(text: &str) -> Away {
    Away::Unexpected { service: SERVICE, text: text.to_owned() }
}

fn told(cause: reqwest::Error) -> Away {
    match std::error::Error::source(&cause) {
        Some(inner) => unreachable(&format!("{cause}: {inner}")),
        None => unreachable(&cause.to_string()),
    }
}
