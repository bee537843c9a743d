//! The statements, and the driver's session that runs them. Each attempt is bounded in time and never repeated by the
//! driver: that is the storage thread's affair, for all statements may be repeated.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use iris_shards::id::{Body, Key, MessageId, UserId};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::ExecutionError;
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::policies::retry::FallthroughRetryPolicy;
use scylla::policies::speculative_execution::SimpleSpeculativeExecutionPolicy;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::serialize::row::SerializeRow;
use scylla::statement::Consistency;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;

use super::fault::StorageFault;
use super::job::{Group, Row, Slice, Step};
use super::options::CassandraOptions;
use super::place::{At, DAY_MS, bucket_of_ms, written_us};
use super::schema;
use crate::tls;

/// Rows per answer of the cluster.
const PAGE_ROWS: i32 = 1_000;
/// ScyllaDB takes a hundred in one query.
const KEYS_PER_QUERY: usize = 64;

/// A node that does not answer in this time: others are asked, too.
const ASK_OTHERS_MS: u64 = 500;
/// How often an idle connection is tried, and how long it may not answer before it is given up.
const ALIVE_INTERVAL: Duration = Duration::from_secs(2);
const ALIVE_TIMEOUT: Duration = Duration::from_secs(4);

type Values<'a> = Box<dyn SerializeRow + Send + Sync + 'a>;
type Result<T> = std::result::Result<T, StorageFault>;

/// A connection to the cluster, with everything prepared.
pub struct Connected {
    session: Session,
    known: PreparedStatement,
    floor: PreparedStatement,
    entry: PreparedStatement,
    taken: PreparedStatement,
    dead: PreparedStatement,
    dead_up_to: PreparedStatement,
    read: PreparedStatement,
    rows: PreparedStatement,
    user: PreparedStatement,
    taken_of: PreparedStatement,
    until: PreparedStatement,
    reserve: PreparedStatement,
    keep_s: i32,
    taken_s: i32,
    keep_days: i32,
}

/// A session, whatever the tables.
pub async fn connect(options: &CassandraOptions) -> Result<Session> {
    let mut places = DefaultPolicy::builder().token_aware(true);
    if let Some(data_centre) = &options.data_centre {
        places = places.prefer_datacenter(data_centre.clone());
    }
    let profile = ExecutionProfile::builder()
        .consistency(options.consistency.of_writes())
        .request_timeout(Some(Duration::from_millis(options.request_ms_max)))
        .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
        .load_balancing_policy(places.build())
        .speculative_execution_policy(Some(Arc::new(asked_again())))
        .build();
    let mut builder = SessionBuilder::new()
        .known_nodes(&options.hosts)
        .default_execution_profile_handle(profile.into_handle())
        .connection_timeout(Duration::from_millis(options.request_ms_max))
        .keepalive_interval(ALIVE_INTERVAL)
        .keepalive_timeout(ALIVE_TIMEOUT)
        // Of the schema only where each key is: so a statement goes to a node that has it.
        .fetch_full_schema_metadata(false);
    if let Some((name, password)) = &options.login {
        builder = builder.user(name, password.reveal());
    }
    if let Some(files) = &options.tls {
        let tls = tls::client(files.ca.as_deref(), files.identity.as_deref())?;
        builder = builder.tls_context(Some(Arc::new(tls)));
    }
    let failed = |cause| StorageFault::Connect { hosts: options.hosts.join(", "), cause: Box::new(cause) };
    builder.build().await.map_err(failed)
}

/// A node that stands still refuses nothing: what it does not answer is asked of others meanwhile. All statements may be
/// repeated.
fn asked_again() -> SimpleSpeculativeExecutionPolicy {
    SimpleSpeculativeExecutionPolicy { max_retry_count: 2, retry_interval: Duration::from_millis(ASK_OTHERS_MS) }
}

/// How many replicas have a write that was confirmed. Tries once, and tells what an operator has to do.
pub async fn copies(options: &CassandraOptions) -> Result<u8> {
    let session = connect(options).await?;
    schema::check(&session, &options.keyspace).await?;
    let replicas = schema::replicas(&session, &options.keyspace).await?;
    let known: Vec<String> = replicas.keys().cloned().collect();
    let data_centre = match (&options.data_centre, &known[..]) {
        (Some(named), _) if known.contains(named) => named,
        (None, [only]) => only,
        (Some(_), [only]) if only == schema::ALL => only,
        _ => return Err(StorageFault::DataCentre { keyspace: options.keyspace.clone(), known }),
    };
    Ok(options.consistency.copies(&replicas, data_centre))
}

impl Connected {
    /// Connects, and checks the tables.
    pub async fn new(options: &CassandraOptions) -> Result<Self> {
        let session = connect(options).await?;
        schema::check(&session, &options.keyspace).await?;
        let (writes, reads) = (options.consistency.of_writes(), options.consistency.of_reads());
        let prepare = Prepare { session: &session, keyspace: &options.keyspace };
        let of_row = "user = ? AND bucket = ? AND writer = ?";
        Ok(Connected {
            known: prepare
                .one("UPDATE {}.users USING TIMESTAMP ? AND TTL ? SET last[?] = ? WHERE user = ?", writes)
                .await?,
            floor: prepare
                .one("UPDATE {}.users USING TIMESTAMP ? AND TTL ? SET floor[?] = ? WHERE user = ?", writes)
                .await?,
            entry: prepare
                .one(
                    "INSERT INTO {}.inbox (user, bucket, writer, at, id, sender, sent_at, bytes, body) \
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?",
                    writes,
                )
                .await?,
            taken: prepare
                .one(
                    "INSERT INTO {}.taken (user, bucket, id, sender, taken_at) VALUES (?, ?, ?, ?, ?) \
                     USING TIMESTAMP ? AND TTL ?",
                    writes,
                )
                .await?,
            dead: prepare
                .one(
                    &format!(
                        "DELETE FROM {{}}.inbox USING TIMESTAMP ? WHERE {of_row} AND at = ? AND id = ? AND sender = ?"
                    ),
                    writes,
                )
                .await?,
            dead_up_to: prepare
                .one(&format!("DELETE FROM {{}}.inbox USING TIMESTAMP ? WHERE {of_row} AND at <= ?"), writes)
                .await?,
            read: prepare
                .one(
                    &format!(
                        "SELECT at, id, sender, sent_at, body FROM {{}}.inbox WHERE {of_row} AND at >= ? AND at <= ?"
                    ),
                    reads,
                )
                .await?,
            rows: prepare
                .one(&format!("SELECT at, id, sender, sent_at, bytes FROM {{}}.inbox WHERE {of_row} AND at > ?"), reads)
                .await?,
            user: prepare.one("SELECT last, floor FROM {}.users WHERE user = ?", reads).await?,
            taken_of: prepare
                .one(
                    "SELECT id, sender, taken_at FROM {}.taken WHERE user = ? AND bucket = ? AND (id, sender) IN ?",
                    reads,
                )
                .await?,
            until: prepare.one("SELECT until FROM {}.writers WHERE writer = ?", reads).await?,
            reserve: prepare.one("INSERT INTO {}.writers (writer, executor, until) VALUES (?, ?, ?)", writes).await?,
            keep_s: seconds(options.keep_ms),
            taken_s: seconds(options.taken_ms),
            keep_days: options.keep_ms.div_ceil(DAY_MS) as i32,
            session,
        })
    }

    /// For further statements.
    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// Days that anything is kept.
    pub fn keep_days(&self) -> i32 {
        self.keep_days
    }

    /// Writes a group: one mutation, since all of it is in one partition.
    pub async fn write(&self, group: &Group, writer: i32) -> Result<()> {
        let mut batch = Batch::new(BatchType::Unlogged);
        batch.set_is_idempotent(true);
        let mut values = Vec::with_capacity(group.steps.len());
        for step in &group.steps {
            let (statement, row) = self.bound(group, step, writer);
            batch.append_statement(statement.clone());
            values.push(row);
        }
        self.session.batch(&batch, &values).await.map(drop).map_err(|cause| StorageFault::Request(Box::new(cause)))
    }

    fn bound<'a>(&'a self, group: &'a Group, step: &'a Step, own: i32) -> (&'a PreparedStatement, Values<'a>) {
        let (user, bucket) = (group.user.as_str(), group.bucket.unwrap_or_default());
        match step {
            Step::Known { bucket } => (&self.known, Box::new((i64::from(*bucket), self.keep_s, own, *bucket, user))),
            Step::Floor { writer, at } => (&self.floor, Box::new((written_us(*at), self.keep_s, *writer, *at, user))),
            Step::Entry { at, key, sent_at, body } => {
                let (id, sender) = (key.id.bytes().to_vec(), key.sender.as_str());
                let (sent_at, bytes, written) = (*sent_at as i64, body.len() as i32, written_us(*at));
                let row = (user, bucket, own, *at, id, sender, sent_at, bytes, &body[..], written, self.keep_s);
                (&self.entry, Box::new(row))
            }
            Step::Taken { key, taken_at } => {
                let (id, sender, taken_at) = (key.id.bytes().to_vec(), key.sender.as_str(), *taken_at as i64);
                (&self.taken, Box::new((user, bucket, id, sender, taken_at, taken_at * 1_000, self.taken_s)))
            }
            Step::Dead { writer, at, key } => {
                let (id, sender) = (key.id.bytes().to_vec(), key.sender.as_str());
                (&self.dead, Box::new((written_us(*at), user, bucket, *writer, *at, id, sender)))
            }
            Step::DeadUpTo { writer, at } => {
                (&self.dead_up_to, Box::new((written_us(*at), user, bucket, *writer, *at)))
            }
        }
    }

    /// The messages of a page.
    pub async fn read(&self, slice: &Slice) -> Result<Vec<(At, Key, u64, Body)>> {
        type Found = (At, Vec<u8>, String, i64, Vec<u8>);
        let (Some((from, _)), Some((to, _))) = (slice.wanted.first(), slice.wanted.last()) else {
            return Ok(Vec::new());
        };
        let values = (slice.user.as_str(), slice.bucket, slice.writer, *from, *to);
        let rows: Vec<Found> = self.select(&self.read, &values).await?;
        let wanted = |at: &At| slice.wanted.binary_search_by_key(at, |(at, _)| *at).is_ok();
        let rows = rows.into_iter().filter(|row| wanted(&row.0));
        rows.map(|(at, id, sender, sent_at, body)| Ok((at, key_of(&id, &sender)?, sent_at as u64, body.into())))
            .collect()
    }

    /// Where the rows of each writer begin, and in which bucket its newest are.
    pub async fn user(&self, user: &UserId) -> Result<Vec<(i32, At, i32)>> {
        type Map<V> = Option<BTreeMap<i32, V>>;
        let rows: Vec<(Map<i32>, Map<At>)> = self.select(&self.user, &(user.as_str(),)).await?;
        let Some((last, floor)) = rows.into_iter().next() else { return Ok(Vec::new()) };
        let floor = floor.unwrap_or_default();
        let last = last.unwrap_or_default().into_iter();
        Ok(last.map(|(writer, bucket)| (writer, floor.get(&writer).copied().unwrap_or(0), bucket)).collect())
    }

    /// The rows of one writer in one bucket, behind a floor.
    pub async fn rows(&self, user: &UserId, (bucket, writer, floor): (i32, i32, At)) -> Result<Vec<Row>> {
        type Found = (At, Vec<u8>, String, i64, i32);
        let rows: Vec<Found> = self.select(&self.rows, &(user.as_str(), bucket, writer, floor)).await?;
        let row = |(at, id, sender, sent_at, bytes): Found| {
            let key = key_of(&id, &sender)?;
            Ok(Row { writer, at, key, sent_at: sent_at as u64, body_bytes: bytes as u32 })
        };
        rows.into_iter().map(row).collect()
    }

    /// Which of these keys were taken, and when, as far as that is remembered.
    pub async fn taken_of(&self, user: &UserId, keys: &[Key]) -> Result<Vec<(Key, u64)>> {
        let mut buckets: BTreeMap<i32, Vec<(Vec<u8>, &str)>> = BTreeMap::new();
        for key in keys {
            let of_bucket = buckets.entry(bucket_of_ms(key.id.time_ms())).or_default();
            of_bucket.push((key.id.bytes().to_vec(), key.sender.as_str()));
        }
        let mut taken = Vec::new();
        for (bucket, keys) in buckets {
            for keys in keys.chunks(KEYS_PER_QUERY) {
                let values = (user.as_str(), bucket, keys);
                let rows: Vec<(Vec<u8>, String, i64)> = self.select(&self.taken_of, &values).await?;
                for (id, sender, taken_at) in rows {
                    taken.push((key_of(&id, &sender)?, taken_at as u64));
                }
            }
        }
        Ok(taken)
    }

    /// Up to where times were kept for a writer.
    pub async fn until(&self, writer: i32) -> Result<At> {
        let rows: Vec<(i64,)> = self.select(&self.until, &(writer,)).await?;
        Ok(rows.into_iter().map(|row| row.0).max().unwrap_or(0))
    }

    /// Keeps times for a writer.
    pub async fn reserve(&self, writer: i32, executor: u16, until: At) -> Result<()> {
        let values = (writer, i32::from(executor), until);
        self.session
            .execute_unpaged(&self.reserve, values)
            .await
            .map(drop)
            .map_err(|cause| StorageFault::Request(Box::new(cause)))
    }

    /// All rows, page by page.
    pub(super) async fn select<R>(
        &self,
        statement: &PreparedStatement,
        values: &(impl SerializeRow + Sync),
    ) -> Result<Vec<R>>
    where
        R: for<'f, 'm> scylla::deserialize::row::DeserializeRow<'f, 'm>,
    {
        let (mut found, mut state) = (Vec::new(), PagingState::start());
        loop {
            let page = self.session.execute_single_page(statement, values, state).await;
            let (page, next) = page.map_err(|cause: ExecutionError| StorageFault::Request(Box::new(cause)))?;
            let page = page.into_rows_result().map_err(|cause| StorageFault::Answer(cause.to_string()))?;
            for row in page.rows::<R>().map_err(|cause| StorageFault::Answer(cause.to_string()))? {
                found.push(row.map_err(|cause| StorageFault::Answer(cause.to_string()))?);
            }
            match next {
                PagingStateResponse::HasMorePages { state: next } => state = next,
                PagingStateResponse::NoMorePages => return Ok(found),
            }
        }
    }
}

/// Prepares statements, in which `{}` stands for the keyspace.
pub(super) struct Prepare<'a> {
    pub session: &'a Session,
    pub keyspace: &'a str,
}

impl Prepare<'_> {
    pub async fn one(&self, text: &str, consistency: Consistency) -> Result<PreparedStatement> {
        let text = text.replace("{}", &self.keyspace.to_ascii_lowercase());
        let mut statement = self.session.prepare(text).await.map_err(|cause| StorageFault::Prepare(Box::new(cause)))?;
        statement.set_consistency(consistency);
        statement.set_is_idempotent(true);
        statement.set_page_size(PAGE_ROWS);
        Ok(statement)
    }
}

pub(super) fn key_of(id: &[u8], sender: &str) -> Result<Key> {
    let id = id.try_into().map(MessageId::from_bytes);
    match (id, UserId::parse(sender.as_bytes())) {
        (Ok(id), Ok(sender)) => Ok(Key { id, sender }),
        _ => Err(StorageFault::Answer(format!("a row with the sender {sender:?} is not a message"))),
    }
}

fn seconds(ms: u64) -> i32 {
    ms.div_ceil(1_000).clamp(1, 20 * 365 * 86_400) as i32
}
