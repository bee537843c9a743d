//! The tables, and `iris storage init`, which makes them.
//!
//! `inbox` holds messages by (user, day), in the order in which each node wrote them; `taken` the keys that were taken;
//! `users` where the rows of a user begin, so that a page is read behind what is dead and never through it.

use std::collections::{BTreeMap, BTreeSet};

use scylla::client::session::Session;
use scylla::errors::ExecutionError;

use super::fault::StorageFault;

/// What `SimpleStrategy` has for the name of a data centre.
pub const ALL: &str = "replication_factor";
/// Of the tables.
pub const FORMAT: i32 = 1;

/// What `init` is told.
#[derive(Debug, Clone)]
pub struct Init {
    /// Where the tables are made.
    pub keyspace: String,
    /// Data centres, and how many copies each keeps.
    pub replicas: Vec<(String, u8)>,
    /// After how many days what nobody takes is dropped: the time windows of compaction depend on it.
    pub keep_days: u32,
}

/// A data centre without nodes would keep nothing, and the driver would find nobody to ask.
pub fn check_data_centres(session: &Session, replicas: &[(String, u8)]) -> Result<(), StorageFault> {
    let cluster = session.get_cluster_state();
    let known: BTreeSet<String> = cluster.get_nodes_info().iter().filter_map(|node| node.datacenter.clone()).collect();
    match replicas.iter().find(|(name, _)| !known.contains(name)) {
        Some((name, _)) => {
            Err(StorageFault::NoSuchDataCentre { name: name.clone(), known: known.into_iter().collect() })
        }
        None => Ok(()),
    }
}

/// Makes what is missing, and says so; what is there stays.
pub async fn init(session: &Session, init: &Init) -> Result<Vec<String>, StorageFault> {
    let name = checked(&init.keyspace)?;
    let mut done = Vec::new();
    let there =
        !rows(session, &format!("SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = '{name}'"))
            .await?
            .is_empty();
    if there {
        done.push(format!("keyspace {name} is there already; its replication was not changed"));
    } else {
        let mut copies = String::new();
        for (data_center, count) in &init.replicas {
            if data_center.contains(['\'', '\\']) {
                return Err(StorageFault::Name { name: data_center.clone() });
            }
            copies += &format!(", '{data_center}': {count}");
        }
        run(
            session,
            &format!(
                "CREATE KEYSPACE IF NOT EXISTS {name} WITH replication = {{'class': 'NetworkTopologyStrategy'{copies}}}"
            ),
        )
        .await?;
        done.push(format!("keyspace {name} made{}", copies.replace(", '", ", in '")));
    }
    for (table, definition) in tables(&name, init.keep_days) {
        let query = format!(
            "SELECT table_name FROM system_schema.tables WHERE keyspace_name = '{name}' AND table_name = '{table}'"
        );
        if rows(session, &query).await?.is_empty() {
            run(session, &definition).await?;
            done.push(format!("table {name}.{table} made"));
        } else {
            done.push(format!("table {name}.{table} is there already"));
        }
    }
    run(session, &format!("INSERT INTO {name}.about (key, value) VALUES ('format', {FORMAT}) IF NOT EXISTS")).await?;
    Ok(done)
}

/// Whether the tables are those of this version.
pub async fn check(session: &Session, keyspace: &str) -> Result<(), StorageFault> {
    let name = checked(keyspace)?;
    let found = match rows(session, &format!("SELECT value FROM {name}.about WHERE key = 'format'")).await {
        Ok(found) => found.first().copied(),
        Err(StorageFault::Request(cause)) if is_unknown(&cause) => None,
        Err(fault) => return Err(fault),
    };
    match found {
        Some(FORMAT) => Ok(()),
        Some(found) => Err(StorageFault::Format { keyspace: name, found }),
        None => Err(StorageFault::NoTables { keyspace: name }),
    }
}

/// Whether the cluster says that there is no such keyspace or table, rather than nothing.
fn is_unknown(cause: &ExecutionError) -> bool {
    use scylla::errors::{DbError, RequestAttemptError};
    matches!(cause, ExecutionError::LastAttemptError(RequestAttemptError::DbError(DbError::Invalid, _)))
}

/// Which data centres keep a keyspace, and how many copies each. `SimpleStrategy` knows none: [`ALL`].
pub async fn replicas(session: &Session, keyspace: &str) -> Result<BTreeMap<String, u8>, StorageFault> {
    let name = checked(keyspace)?;
    let query = format!("SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = '{name}'");
    let answer = |cause: &dyn std::fmt::Display| StorageFault::Answer(cause.to_string());
    let found = session.query_unpaged(query, ()).await.map_err(|cause| StorageFault::Request(Box::new(cause)))?;
    let found = found.into_rows_result().map_err(|cause| answer(&cause))?;
    let (replication,) =
        found.first_row::<(BTreeMap<String, String>,)>().map_err(|_| StorageFault::NoTables { keyspace: name })?;
    let copies = replication.into_iter().filter(|(name, _)| name != "class");
    Ok(copies.map(|(name, copies)| (name, copies.parse().unwrap_or(1))).collect())
}

/// A name that can be written into a statement.
fn checked(name: &str) -> Result<String, StorageFault> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    match !name.is_empty() && name.len() <= 48 && name.bytes().all(is_word) {
        true => Ok(name.to_ascii_lowercase()),
        false => Err(StorageFault::Name { name: name.to_owned() }),
    }
}

/// What expires is dropped with its whole file: about thirty windows for as long as anything is kept.
fn tables(keyspace: &str, keep_days: u32) -> [(&'static str, String); 5] {
    let days = keep_days.div_ceil(30).max(1);
    let windows = format!(
        "compaction = {{'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'DAYS', \
         'compaction_window_size': {days}}}"
    );
    let table = |columns: &str, with: &str| format!("CREATE TABLE IF NOT EXISTS {keyspace}.{columns} WITH {with}");
    [
        (
            "inbox",
            table(
                "inbox (user text, bucket int, writer int, at bigint, id blob, sender text, sent_at bigint, \
                 bytes int, body blob, PRIMARY KEY ((user, bucket), writer, at, id, sender))",
                &windows,
            ),
        ),
        (
            "taken",
            table(
                "taken (user text, bucket int, id blob, sender text, taken_at bigint, \
                 PRIMARY KEY ((user, bucket), id, sender))",
                &windows,
            ),
        ),
        (
            "users",
            table(
                "users (user text PRIMARY KEY, last map<int, int>, floor map<int, bigint>)",
                "compaction = {'class': 'LeveledCompactionStrategy'}",
            ),
        ),
        (
            "writers",
            table("writers (writer int, executor int, until bigint, PRIMARY KEY (writer, executor))", "comment = ''"),
        ),
        ("about", table("about (key text PRIMARY KEY, value int)", "comment = ''")),
    ]
}

async fn run(session: &Session, statement: &str) -> Result<(), StorageFault> {
    session.query_unpaged(statement, ()).await.map(drop).map_err(|cause| StorageFault::Request(Box::new(cause)))
}

/// The first column of what a query returns, or 0 where it is a text.
async fn rows(session: &Session, query: &str) -> Result<Vec<i32>, StorageFault> {
    use scylla::value::{CqlValue, Row};
    let found = session.query_unpaged(query, ()).await.map_err(|cause| StorageFault::Request(Box::new(cause)))?;
    let found = found.into_rows_result().map_err(|cause| StorageFault::Answer(cause.to_string()))?;
    let rows = found.rows::<Row>().map_err(|cause| StorageFault::Answer(cause.to_string()))?;
    let first = |row: Row| match row.columns.into_iter().next() {
        Some(Some(CqlValue::Int(value))) => value,
        _ => 0,
    };
    rows.map(|row| row.map(first).map_err(|cause| StorageFault::Answer(cause.to_string()))).collect()
}
