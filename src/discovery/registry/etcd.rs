//! etcd over its JSON gateway: a key under a lease per core, a watch from the revision that was read, and the shard map.
//!
//! A watch that was compacted away or lost begins anew with a read; nothing is missed, since each watch begins at the
//! revision behind the one that was read. One that is silent is not trusted for ever.

use super::http::Http;
use super::{Away, Entry, LEASE, News, REQUEST, chance, pause};
use crate::config::{Registry, Token};
use crate::discovery::{DiscoveryError, locked};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, timeout};

const SERVICE: &str = "etcd";
/// The kind of an event; that of others may be missing.
const DELETE: &str = "DELETE";
/// How etcd says that somebody has to log in first, or again.
const LOGIN_WANTED: [&str; 2] = ["user name is empty", "invalid auth token"];
/// The member ends the watch when it has lost the others: then it would see nothing.
const NEEDS_LEADER: (&str, &str) = ("Grpc-Metadata-hasleader", "true");
/// Behind a watch that says nothing for so long, the member is asked whether it is there.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// A watch is begun anew after this time, and by chance up to as much later.
const WATCH_MAX: Duration = Duration::from_secs(300);
/// What a watch says in one line: all that a slow follower has missed.
const LINE_BYTES_MAX: usize = 64 << 20;

/// A member, or what stands before several.
#[derive(Debug)]
pub struct Etcd {
    http: Http,
    user: String,
    password: Token,
    /// What a login gave; it ends, and is then asked for again.
    ticket: Mutex<Option<HeaderValue>>,
    prefix: String,
    /// 0: none.
    lease: AtomicI64,
}

/// Why a watch has ended.
enum Ended {
    Away(Away),
    /// To begin anew.
    Stale(&'static str),
    /// Nobody wants to know.
    Unheard,
}

impl From<Away> for Ended {
    fn from(away: Away) -> Self {
        Ended::Away(away)
    }
}

impl Etcd {
    /// Nothing is asked yet.
    pub fn new(at: &Registry, (user, password): (&str, &Token), cluster: &str) -> Result<Self, DiscoveryError> {
        Ok(Etcd {
            http: Http::new(SERVICE, at, HeaderMap::new())?,
            user: user.to_owned(),
            password: password.clone(),
            ticket: Mutex::default(),
            prefix: format!("iris/{cluster}/"),
            lease: AtomicI64::new(0),
        })
    }

    /// A question, with what the login gave.
    fn question(&self, path: &[&str], body: &Value) -> RequestBuilder {
        let question = self.http.question(Method::POST, path).body(body.to_string());
        match locked(&self.ticket).clone() {
            Some(ticket) => question.header(AUTHORIZATION, ticket),
            None => question,
        }
    }

    /// Logs in when that is asked for.
    async fn ask(&self, call: (&str, &str), body: &Value) -> Result<Value, Away> {
        match self.ask_once(call, body).await {
            Err(Away::Refused { text, .. })
                if !self.user.is_empty() && LOGIN_WANTED.iter().any(|w| text.contains(w)) =>
            {
                self.log_in().await?;
                self.ask_once(call, body).await
            }
            asked => asked,
        }
    }

    async fn log_in(&self) -> Result<(), Away> {
        locked(&self.ticket).take();
        let told = json!({"name": self.user, "password": self.password.reveal()});
        let answer = self.ask_once(("auth", "authenticate"), &told).await?;
        let ticket = answer["token"].as_str().and_then(|token| HeaderValue::from_str(token).ok());
        let mut ticket = ticket.ok_or_else(|| self.http.unexpected("a login without a token"))?;
        ticket.set_sensitive(true);
        *locked(&self.ticket) = Some(ticket);
        Ok(())
    }

    async fn ask_once(&self, (group, call): (&str, &str), body: &Value) -> Result<Value, Away> {
        let text = self.http.answer(self.question(&["v3", group, call], body)).await?;
        // A stream's first answer, where the gateway has one for a single question.
        self.parsed(text.lines().next().unwrap_or_default())
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
        let value = json!(own).to_string();
        let body = json!({"key": packed(&key), "value": packed(&value), "lease": lease.to_string()});
        let put = self.ask(("kv", "put"), &body).await;
        if put.is_err() {
            // It may have ended meanwhile.
            self.lease.store(0, Ordering::Relaxed);
        }
        put.map(drop)
    }

    async fn grant(&self) -> Result<i64, Away> {
        let granted = self.ask(("lease", "grant"), &json!({"TTL": LEASE.as_secs().to_string()})).await?;
        let lease = number(&granted["ID"]).ok_or_else(|| self.http.unexpected("a lease without a number"))?;
        self.lease.store(lease, Ordering::Relaxed);
        Ok(lease)
    }

    pub(super) async fn keep(&self) -> Result<bool, Away> {
        let lease = self.lease.load(Ordering::Relaxed);
        let kept = self.ask(("lease", "keepalive"), &json!({"ID": lease.to_string()})).await?;
        // One that has ended has no time left.
        let is_alive = number(&kept["result"]["TTL"]).is_some_and(|seconds| seconds > 0);
        if !is_alive {
            self.lease.store(0, Ordering::Relaxed);
        }
        Ok(is_alive)
    }

    pub(super) async fn leave(&self) -> Result<(), Away> {
        let lease = self.lease.swap(0, Ordering::Relaxed);
        self.ask(("lease", "revoke"), &json!({"ID": lease.to_string()})).await.map(drop)
    }

    /// Reads and follows, until nobody wants to know.
    pub(super) async fn watch(&self, news: &Sender<News>) {
        loop {
            let Err(ended) = self.follow(news).await else { continue };
            match ended {
                Ended::Unheard => return,
                Ended::Stale(why) => tracing::info!("discovery: what etcd has is read anew: {why}"),
                Ended::Away(away) => {
                    if news.send(News::Cores(Err(away))).await.is_err() {
                        return;
                    }
                }
            }
            pause().await;
        }
    }

    /// Reads everything, and follows what changes, for some minutes.
    async fn follow(&self, news: &Sender<News>) -> Result<(), Ended> {
        let (mut keys, revision) = self.read().await?;
        self.tell(&keys, news).await?;
        let mut lines = self.begin(revision + 1).await?;
        let end = Instant::now() + WATCH_MAX + chance(WATCH_MAX);
        while Instant::now() < end {
            let Ok(line) = timeout(SILENCE_MAX, lines.next(&self.http)).await else {
                self.ask(("kv", "range"), &json!({"key": packed(&self.map_key()), "count_only": true})).await?;
                continue;
            };
            let line = self.parsed(&line?)?;
            let result = &line["result"];
            if number(&result["compact_revision"]).is_some_and(|revision| revision > 0) {
                return Err(Ended::Stale("the watch was compacted away"));
            }
            if result["canceled"] == true || line.get("error").is_some() {
                return Err(Ended::Stale("the watch was ended"));
            }
            for (at, event) in result["events"].as_array().into_iter().flatten().enumerate() {
                // Who left has said so, and that has to be seen before.
                if at > 0 && event["type"] == DELETE {
                    self.tell(&keys, news).await?;
                }
                apply(&mut keys, event);
            }
            self.tell(&keys, news).await?;
        }
        Ok(())
    }

    async fn begin(&self, revision: i64) -> Result<Lines, Away> {
        let wanted = json!({"create_request": {
            "key": packed(&self.prefix), "range_end": packed(&behind(&self.prefix)), "start_revision": revision.to_string(),
        }});
        let (name, value) = NEEDS_LEADER;
        let question = self.question(&["v3", "watch"], &wanted).header(name, value);
        let late = |_| self.http.unexpected("no watch in time");
        let response = timeout(REQUEST, self.http.send(question)).await.map_err(late)??;
        Ok(Lines { response: self.http.good(response).await?, rest: Vec::new(), searched: 0 })
    }

    async fn tell(&self, keys: &BTreeMap<String, String>, news: &Sender<News>) -> Result<(), Ended> {
        let map_key = self.map_key();
        let nodes = keys.iter().filter(|(key, _)| **key != map_key);
        let cores = nodes.filter_map(|(_, value)| Some((serde_json::from_str(value).ok()?, true))).collect();
        let map = keys.get(&map_key).cloned();
        for some in [News::Map(Ok(map)), News::Cores(Ok(cores))] {
            news.send(some).await.map_err(|_| Ended::Unheard)?;
        }
        Ok(())
    }

    /// Everything under the prefix, and the revision at which it was so.
    async fn read(&self) -> Result<(BTreeMap<String, String>, i64), Away> {
        let range = json!({"key": packed(&self.prefix), "range_end": packed(&behind(&self.prefix))});
        let found = self.ask(("kv", "range"), &range).await?;
        let revision = number(&found["header"]["revision"]).ok_or_else(|| self.http.unexpected("no revision"))?;
        Ok((found["kvs"].as_array().into_iter().flatten().filter_map(pair).collect(), revision))
    }

    pub async fn map(&self) -> Result<(u64, Option<String>), Away> {
        let found = self.ask(("kv", "range"), &json!({"key": packed(&self.map_key())})).await?;
        let first = &found["kvs"][0];
        let version = number(&first["mod_revision"]).unwrap_or(0).unsigned_abs();
        Ok((version, pair(first).map(|(_, value)| value)))
    }

    pub async fn put_map(&self, version: u64, map: &str) -> Result<bool, Away> {
        let key = packed(&self.map_key());
        let body = json!({
            "compare": [{"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": version.to_string()}],
            "success": [{"request_put": {"key": key, "value": packed(map)}}],
        });
        Ok(self.ask(("kv", "txn"), &body).await?["succeeded"] == true)
    }

    fn parsed(&self, text: &str) -> Result<Value, Away> {
        serde_json::from_str(text).map_err(|error| self.http.unexpected(&error.to_string()))
    }
}

/// The lines of a stream. Dropping a question for the next one loses nothing.
struct Lines {
    response: Response,
    rest: Vec<u8>,
    /// So much of the rest has no end of a line.
    searched: usize,
}

impl Lines {
    async fn next(&mut self, http: &Http) -> Result<String, Away> {
        loop {
            if let Some(end) = self.rest[self.searched..].iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=self.searched + end).collect();
                self.searched = 0;
                return String::from_utf8(line).map_err(|_| http.unexpected("bytes that are no text"));
            }
            self.searched = self.rest.len();
            if self.rest.len() > LINE_BYTES_MAX {
                return Err(http.unexpected("a line without an end"));
            }
            match self.response.chunk().await.map_err(|error| http.unreachable(error))? {
                Some(bytes) => self.rest.extend_from_slice(&bytes),
                None => return Err(http.unexpected("the watch has ended")),
            }
        }
    }
}

fn apply(keys: &mut BTreeMap<String, String>, event: &Value) {
    let kv = &event["kv"];
    if event["type"] == DELETE {
        if let Some(key) = kv["key"].as_str().and_then(unpacked) {
            keys.remove(&key);
        }
    } else if let Some((key, value)) = pair(kv) {
        keys.insert(key, value);
    }
}

fn pair(kv: &Value) -> Option<(String, String)> {
    Some((unpacked(kv["key"].as_str()?)?, unpacked(kv["value"].as_str().unwrap_or_default())?))
}

/// The first key that does not begin with the prefix, which ends with a slash.
fn behind(prefix: &str) -> String {
    format!("{}0", prefix.trim_end_matches('/'))
}

fn packed(text: &str) -> String {
    STANDARD.encode(text)
}

fn unpacked(text: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(text).ok()?).ok()
}

/// The gateway writes 64-bit numbers as texts.
fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_behind_the_prefix() {
        assert_eq!(behind("iris/test/"), "iris/test0");
        assert!("iris/test/\u{10ffff}" < "iris/test0" && "iris/test" < "iris/test/");
    }

    #[test]
    fn events_change_what_was_read() {
        let mut keys = BTreeMap::new();
        let event = |kind: &str, key: &str, value: &str| {
            let mut event = json!({"kv": {"key": packed(key), "value": packed(value)}});
            if !kind.is_empty() {
                event["type"] = json!(kind);
            }
            event
        };
        // PUT is the default, which the gateway leaves out.
        for event in [event("", "a", "1"), event("PUT", "b", "2"), event("", "a", "3"), event("DELETE", "b", "")] {
            apply(&mut keys, &event);
        }
        assert_eq!(keys, [("a".to_owned(), "3".to_owned())].into());
    }
}
