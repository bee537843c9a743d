//! Consul over HTTP: a service with a TTL check per core, blocking queries, and the shard map in the KV store.
//!
//! Index rules as documented ("Blocking Queries"): an index that falls, or is 0, begins anew. Any server may answer
//! (`stale`), so that following costs the leader nothing.

use super::registry::{Away, Entry, LEASE, REQUEST, Seen, pause};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tokio::time::sleep;

const SERVICE: &str = "consul";
/// How long a query waits for a change, and how much longer Consul may take (a sixteenth, as documented).
const WAIT: Duration = Duration::from_secs(50);
const WAIT_MAX: Duration = Duration::from_secs(60);
/// No more than so many answers in a second, when everything changes all the time.
const REST: Duration = Duration::from_millis(100);
/// Consul takes services away that are critical for so long; less is not accepted.
const DEREGISTER_MIN: Duration = Duration::from_secs(60);
/// The longest value of a service's `Meta`.
const META_MAX: usize = 512;

/// An agent or server of Consul.
#[derive(Debug)]
pub struct Consul {
    client: Client,
    base: String,
    token: crate::config::Token,
    cluster: String,
    claim: Duration,
}

impl Consul {
    /// `address`: such as `http://127.0.0.1:8500`.
    pub fn new(address: &str, token: &crate::config::Token, cluster: &str, claim: Duration) -> Self {
        let base = address.trim_end_matches('/').to_owned();
        Consul { client: Client::new(), base, token: token.clone(), cluster: cluster.to_owned(), claim }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base)).timeout(REQUEST);
        match self.token.reveal() {
            "" => request,
            token => request.header("X-Consul-Token", token),
        }
    }

    fn service(&self) -> String {
        format!("iris-{}", self.cluster)
    }

    fn id(&self, own: &Entry) -> String {
        format!("{}-{}", self.service(), own.name)
    }

    fn map_path(&self) -> String {
        format!("/v1/kv/iris-shards/{}", self.cluster)
    }

    pub(super) async fn register(&self, own: &Entry) -> Result<(), Away> {
        if own.shards.len() > META_MAX {
            let text = format!("node.shards has {} bytes, at most {META_MAX}: use a shard map", own.shards.len());
            return Err(Away::Unexpected { service: SERVICE, text });
        }
        let (host, port) = own.address.rsplit_once(':').unwrap_or((&own.address, "0"));
        let body = json!({
            "ID": self.id(own),
            "Name": self.service(),
            "Address": host.trim_matches(['[', ']']),
            "Port": port.parse::<u16>().unwrap_or_default(),
            "Tags": [own.role],
            "Meta": {
                "name": own.name, "address": own.address, "region": own.region, "zone": own.zone, "role": own.role,
                "shards": own.shards, "num_shards": own.num_shards.to_string(), "leaving": own.leaving.to_string(),
            },
            "Check": {
                "CheckID": self.id(own),
                "TTL": format!("{}s", LEASE.as_secs()),
                "Status": "passing",
                "DeregisterCriticalServiceAfter": format!("{}s", self.claim.max(DEREGISTER_MIN).as_secs()),
            },
        });
        let request = self.request(Method::PUT, "/v1/agent/service/register?replace-existing-checks=true");
        answer(request.body(body.to_string())).await.map(drop)
    }

    pub(super) async fn keep(&self, own: &Entry) -> Result<bool, Away> {
        let path = format!("/v1/agent/check/pass/{}", self.id(own));
        match answer(self.request(Method::PUT, &path)).await {
            Ok(_) => Ok(true),
            // Its data was wiped, or it was started anew.
            Err(Away::Refused { status: 404 | 500, .. }) => Ok(false),
            Err(away) => Err(away),
        }
    }

    pub(super) async fn leave(&self, own: &Entry) -> Result<(), Away> {
        answer(self.request(Method::PUT, &format!("/v1/agent/service/deregister/{}", self.id(own)))).await.map(drop)
    }

    /// Two queries wait side by side; what one of them has is told with what the other had.
    pub(super) async fn watch(&self, to: Sender<Result<Seen, Away>>) {
        let (mut services, mut map) =
            (Query::new(format!("/v1/health/service/{}", self.service())), Query::new(self.map_path()));
        let mut seen = Seen::default();
        loop {
            let changed = match (services.index, map.index) {
                (0, _) => self.ask(&mut services).await.map(|value| Changed::Services(value.unwrap_or_default())),
                (_, 0) => self.ask(&mut map).await.map(Changed::Map),
                _ => tokio::select! {
                    found = self.ask(&mut services) => found.map(|value| Changed::Services(value.unwrap_or_default())),
                    found = self.ask(&mut map) => found.map(Changed::Map),
                },
            };
            let told = match changed {
                Ok(Changed::Services(value)) => cores_of(&value).map(|cores| seen.cores = cores),
                Ok(Changed::Map(value)) => map_of(value).map(|(_, map)| seen.map = map),
                Err(away) => Err(away),
            };
            let has_failed = told.is_err();
            // Before both are known, a map that is not known yet must not look like none.
            let is_whole = services.index > 0 && map.index > 0;
            if (has_failed || is_whole) && to.send(told.map(|()| seen.clone())).await.is_err() {
                return;
            }
            if has_failed {
                (services.index, map.index) = (0, 0);
                pause().await;
            } else if is_whole {
                sleep(REST).await;
            }
        }
    }

    /// Waits for another answer than the last one. `None`: there is nothing of that name.
    async fn ask(&self, query: &mut Query) -> Result<Option<Value>, Away> {
        let path = match query.index {
            0 => format!("{}?stale", query.path),
            index => format!("{}?stale&index={index}&wait={}s", query.path, WAIT.as_secs()),
        };
        let request = self.request(Method::GET, &path).timeout(if query.index == 0 { REQUEST } else { WAIT_MAX });
        let response = request.send().await.map_err(unreachable)?;
        let header = response.headers().get("X-Consul-Index").and_then(|index| index.to_str().ok()?.parse().ok());
        let index = header.unwrap_or(0).max(1);
        let value = match response.status() {
            StatusCode::NOT_FOUND => None,
            _ => Some(value_of(response).await?),
        };
        query.index = if index < query.index { 0 } else { index };
        Ok(value)
    }

    pub(super) async fn map(&self) -> Result<(u64, Option<String>), Away> {
        match answer(self.request(Method::GET, &format!("{}?consistent", self.map_path()))).await {
            Ok(value) => map_of(Some(value)),
            Err(Away::Refused { status: 404, .. }) => Ok((0, None)),
            Err(away) => Err(away),
        }
    }

    pub(super) async fn put_map(&self, version: u64, map: &str) -> Result<bool, Away> {
        let path = format!("{}?cas={version}", self.map_path());
        let value = answer(self.request(Method::PUT, &path).body(map.to_owned())).await?;
        Ok(value == Value::Bool(true))
    }
}

/// A query that is asked again and again.
struct Query {
    path: String,
    /// 0: ask without waiting.
    index: u64,
}

impl Query {
    fn new(path: String) -> Self {
        Query { path, index: 0 }
    }
}

enum Changed {
    Services(Value),
    Map(Option<Value>),
}

fn unreachable(cause: reqwest::Error) -> Away {
    let mut text = cause.to_string();
    if let Some(inner) = std::error::Error::source(&cause) {
        text += &format!(": {inner}");
    }
    Away::Unreachable { service: SERVICE, cause: text }
}

async fn answer(request: RequestBuilder) -> Result<Value, Away> {
    value_of(request.send().await.map_err(unreachable)?).await
}

/// An empty body is `null`.
async fn value_of(response: Response) -> Result<Value, Away> {
    let status = response.status();
    let text = response.text().await.map_err(unreachable)?;
    if !status.is_success() {
        let text = text.chars().filter(|letter| !letter.is_control()).take(200).collect();
        return Err(Away::Refused { service: SERVICE, status: status.as_u16(), text });
    }
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    let bad = |cause: serde_json::Error| Away::Unexpected { service: SERVICE, text: cause.to_string() };
    serde_json::from_str(&text).map_err(bad)
}

/// A node that somebody registered by hand, without what Iris needs, is passed over.
fn cores_of(value: &Value) -> Result<Vec<(Entry, bool)>, Away> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(list.iter().filter_map(core_of).collect())
}

fn core_of(value: &Value) -> Option<(Entry, bool)> {
    let meta = &value["Service"]["Meta"];
    let text = |name: &str| meta[name].as_str().map(str::to_owned);
    let entry = Entry {
        name: text("name")?,
        address: text("address")?,
        region: text("region").unwrap_or_default(),
        zone: text("zone").unwrap_or_default(),
        role: text("role")?,
        shards: text("shards")?,
        num_shards: text("num_shards")?.parse().ok()?,
        leaving: text("leaving").as_deref() == Some("true"),
    };
    let checks = value["Checks"].as_array()?;
    Some((entry, checks.iter().all(|check| check["Status"] != "critical")))
}

fn map_of(value: Option<Value>) -> Result<(u64, Option<String>), Away> {
    let Some(value) = value else { return Ok((0, None)) };
    let bad = || Away::Unexpected { service: SERVICE, text: "a key without a value".to_owned() };
    let first = value.get(0).ok_or_else(bad)?;
    let bytes = super::etcd::unpacked(first["Value"].as_str().unwrap_or_default()).ok_or_else(bad)?;
    Ok((first["ModifyIndex"].as_u64().unwrap_or(0), Some(bytes)))
}
