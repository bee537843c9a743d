//! Consul over HTTP: an instance of a service with a TTL check per core, blocking queries, and the shard map in the KV store.
//!
//! Index rules as documented ("Blocking Queries"): it is 1 at least, and one that falls begins anew. Any server may answer
//! (`stale`), so that following costs the leader nothing.

use super::http::Http;
use super::{Away, Entry, LEASE, News, REQUEST, chance, pause};
use crate::config::{Registry, Token};
use crate::discovery::DiscoveryError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tokio::time::sleep;

const SERVICE: &str = "consul";
const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");
const INDEX: &str = "x-consul-index";
/// The token may not see all of what was found.
const FILTERED: &str = "x-consul-results-filtered-by-acls";
/// What a server says that has lost the others may be old, or nothing.
const KNOWS_LEADER: &str = "x-consul-knownleader";
/// How long a query waits for a change, and by chance up to so much longer: a fleet's queries shall not end together.
/// Consul itself adds a sixteenth.
const WAIT: Duration = Duration::from_secs(45);
const WAIT_SPREAD: Duration = Duration::from_secs(10);
const WAIT_MAX: Duration = Duration::from_secs(65);
/// No more than ten answers in a second, when everything changes all the time.
const REST: Duration = Duration::from_millis(100);
/// Consul takes instances away that are critical for so long; it does not accept less.
const DEREGISTER_MIN: Duration = Duration::from_secs(60);

/// An agent or a server.
#[derive(Debug)]
pub struct Consul {
    http: Http,
    /// The name of the service.
    name: String,
    cluster: String,
    claim: Duration,
}

/// An answer.
struct Found {
    /// `None`: there is nothing of that name.
    value: Option<Value>,
    index: Option<u64>,
    knows_leader: bool,
}

impl Consul {
    /// Nothing is asked yet.
    pub fn new(at: &Registry, token: &Token, cluster: &str, claim: Duration) -> Result<Self, DiscoveryError> {
        let mut headers = HeaderMap::new();
        if !token.reveal().is_empty() {
            let wrong = |_| DiscoveryError::Http("the token has characters that no header can have".to_owned());
            let mut value = HeaderValue::from_str(token.reveal()).map_err(wrong)?;
            value.set_sensitive(true);
            headers.insert(TOKEN, value);
        }
        let http = Http::new(SERVICE, at, headers)?;
        Ok(Consul { http, name: format!("iris-{cluster}"), cluster: cluster.to_owned(), claim })
    }

    fn id(&self, own: &Entry) -> String {
        format!("{}-{}", self.name, own.name)
    }

    fn map_path(&self) -> [&str; 4] {
        ["v1", "kv", "iris-shards", &self.cluster]
    }

    pub(super) async fn register(&self, own: &Entry) -> Result<(), Away> {
        let (host, port) = own.address.rsplit_once(':').unwrap_or((&own.address, "0"));
        let body = json!({
            "ID": self.id(own),
            "Name": self.name,
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
        let question = self.http.question(Method::PUT, &["v1", "agent", "service", "register"]);
        let question = question.query(&[("replace-existing-checks", "true")]).body(body.to_string());
        self.http.answer(question).await.map(drop)
    }

    pub(super) async fn keep(&self, own: &Entry) -> Result<bool, Away> {
        let question = self.http.question(Method::PUT, &["v1", "agent", "check", "pass", &self.id(own)]);
        match self.http.answer(question).await {
            Ok(_) => Ok(true),
            // Its data was wiped, or it took the instance away.
            Err(Away::Refused { status: 404 | 500, .. }) => Ok(false),
            Err(away) => Err(away),
        }
    }

    pub(super) async fn leave(&self, own: &Entry) -> Result<(), Away> {
        let question = self.http.question(Method::PUT, &["v1", "agent", "service", "deregister", &self.id(own)]);
        self.http.answer(question).await.map(drop)
    }

    /// Two queries wait side by side, until nobody wants to know.
    pub(super) async fn watch(&self, news: &Sender<News>) {
        let cores = |found: Result<Option<Value>, Away>| {
            News::Cores(found.map(|value| value.as_ref().map_or(Vec::new(), cores_of)))
        };
        let map = |found: Result<Option<Value>, Away>| {
            News::Map(found.and_then(|value| self.map_of(value.as_ref())).map(|(_, map)| map))
        };
        let (cores_path, map_path) = (["v1", "health", "service", &self.name], self.map_path());
        tokio::select! {
            () = self.follow(&cores_path, news, cores) => {}
            () = self.follow(&map_path, news, map) => {}
        }
    }

    /// Asks again and again, and tells what `of` makes of the answers.
    async fn follow(&self, path: &[&str], news: &Sender<News>, of: impl Fn(Result<Option<Value>, Away>) -> News) {
        let mut index = 0;
        loop {
            let found = self.ask(path, &mut index).await;
            let has_failed = found.is_err();
            if news.send(of(found)).await.is_err() {
                return;
            }
            if has_failed {
                index = 0;
                pause().await;
            } else {
                sleep(REST).await;
            }
        }
    }

    /// Waits for another answer than that of the index; 0: for any. `None`: there is nothing of that name.
    async fn ask(&self, path: &[&str], index: &mut u64) -> Result<Option<Value>, Away> {
        let question = self.http.question(Method::GET, path).query(&[("stale", "")]);
        let question = match *index {
            0 => question.timeout(REQUEST),
            known => {
                let wait = (WAIT + chance(WAIT_SPREAD)).as_secs();
                question.query(&[("index", known.to_string()), ("wait", format!("{wait}s"))]).timeout(WAIT_MAX)
            }
        };
        let found = self.found(question).await?;
        // Said of the answer to a query that did not wait; of others it says nothing.
        if *index == 0 && !found.knows_leader {
            return Err(self.http.unexpected("it knows no leader"));
        }
        *index = next_index(*index, found.index);
        Ok(found.value)
    }

    async fn found(&self, question: RequestBuilder) -> Result<Found, Away> {
        let response = self.http.send(question).await?;
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        // A key that is not there has an index, too.
        let index = header(INDEX).and_then(|index| index.parse().ok());
        if header(FILTERED) == Some("true") {
            let text = "the token may not read all that there is".to_owned();
            return Err(Away::Refused { service: SERVICE, status: response.status().as_u16(), text });
        }
        let knows_leader = header(KNOWS_LEADER) != Some("false");
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(Found { value: None, index, knows_leader });
        }
        let text = self.http.text(self.http.good(response).await?).await?;
        let value = serde_json::from_str(&text).map_err(|error| self.http.unexpected(&error.to_string()))?;
        Ok(Found { value: Some(value), index, knows_leader })
    }

    pub async fn map(&self) -> Result<(u64, Option<String>), Away> {
        let question = self.http.question(Method::GET, &self.map_path()).query(&[("consistent", "")]);
        let found = self.found(question.timeout(REQUEST)).await?;
        self.map_of(found.value.as_ref())
    }

    pub async fn put_map(&self, version: u64, map: &str) -> Result<bool, Away> {
        let question = self.http.question(Method::PUT, &self.map_path()).query(&[("cas", version)]);
        let answer = self.http.answer(question.body(map.to_owned())).await?;
        Ok(answer.trim() == "true")
    }

    fn map_of(&self, value: Option<&Value>) -> Result<(u64, Option<String>), Away> {
        let Some(value) = value else { return Ok((0, None)) };
        let version = value[0]["ModifyIndex"].as_u64();
        let bytes = STANDARD.decode(value[0]["Value"].as_str().unwrap_or_default()).ok();
        let map = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        match (version, map) {
            (Some(version), Some(map)) => Ok((version, Some(map))),
            _ => Err(self.http.unexpected("a key without a text")),
        }
    }
}

/// What to wait by, after an answer with this index to a query with the last one; 0: wait for nothing.
fn next_index(last: u64, told: Option<u64>) -> u64 {
    let told = told.unwrap_or(0).max(1);
    if told < last { 0 } else { told }
}

/// An instance that somebody registered by hand, without what Iris needs, is passed over.
fn cores_of(value: &Value) -> Vec<(Entry, bool)> {
    value.as_array().into_iter().flatten().filter_map(core_of).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_falls_begins_anew_and_none_is_0() {
        for (last, told, wanted) in [
            (0, Some(7), 7),
            (7, Some(7), 7),
            (7, Some(9), 9),
            (7, Some(3), 0),
            (7, Some(0), 0),
            (7, None, 0),
            (0, Some(0), 1),
            (0, None, 1),
        ] {
            assert_eq!(next_index(last, told), wanted, "{told:?} after {last}");
        }
    }

    #[test]
    fn instances_are_cores_with_what_they_say() {
        let meta = json!({
            "name": "a", "address": "a:1", "region": "tokyo", "zone": "", "role": "core", "shards": "0-4",
            "num_shards": "10", "leaving": "false",
        });
        let instance = |meta: &Value, states: &[&str]| {
            let checks: Vec<Value> = states.iter().map(|state| json!({"Status": state})).collect();
            json!({"Service": {"Meta": meta}, "Checks": checks})
        };
        for (states, is_alive) in [(vec!["passing", "passing"], true), (vec!["passing", "critical"], false)] {
            let found = cores_of(&json!([instance(&meta, &states)]));
            assert_eq!((found.len(), found[0].0.shards.as_str(), found[0].1), (1, "0-4", is_alive));
        }
        // Registered by hand, for something else.
        assert!(cores_of(&json!([instance(&json!({"name": "a"}), &["passing"]), {}])).is_empty());
        assert!(cores_of(&Value::Null).is_empty());
    }
}
