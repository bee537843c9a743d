//! The storage contract: one suite for every engine, through `Engine` as an executor drives it.
//!
//! The log runs always, Cassandra where `scripts/engines` can start it; elsewhere its tests say that they were skipped, and
//! why.
#![allow(clippy::unwrap_used)]

#[path = "contract/away.rs"]
mod away;
#[path = "contract/bench.rs"]
mod bench;
mod engines;
#[path = "contract/rules.rs"]
mod rules;
#[path = "contract/shared_rules.rs"]
mod shared_rules;
#[path = "contract/store.rs"]
mod store;
#[path = "contract/tls.rs"]
mod tls;

use glommio::LocalExecutor;

use std::sync::{Once, PoisonError, RwLock};

use self::engines::cassandra::Cassandra;
use self::store::{Kind, Store};

/// Each rule is a test of each engine.
macro_rules! contract {
    ($($rule:ident)*) => {
        mod log {
            use super::*;
            $(#[test] fn $rule() { on_log(rules::$rule) })*
        }
        mod cassandra {
            use super::*;
            $(#[test] fn $rule() { on_cassandra(rules::$rule) })*
        }
    };
}

contract! {
    flushes_are_told_in_the_order_of_appends
    a_page_is_read_as_it_was_written
    bodies_of_all_sizes_come_back
    what_is_told_is_there_after_kill
    what_is_there_after_kill_is_a_prefix_of_each_inbox
    an_acknowledgement_is_of_one_message
    what_is_taken_stays_away
    what_was_taken_is_remembered
    a_key_that_comes_again_replaces
    the_mark_is_behind_what_it_counts_on
    closing_waits_for_everything
    an_emptied_inbox_is_filled_again
}

/// And these of those that all cores share.
mod shared {
    use super::*;
    macro_rules! shared {
        ($($rule:ident)*) => { $(#[test] fn $rule() { on_cassandra(shared_rules::$rule) })* };
    }
    shared! {
        what_one_core_stores_is_loaded_by_another
        a_load_sees_what_was_appended_before_and_not_what_is_behind
        of_two_rows_of_a_key_one_is_told_and_one_is_left
        what_is_found_is_told_to_who_appends_it_again
        what_another_core_took_is_gone
        taken_keys_are_told_and_others_are_not
    }
}

fn on_log(rule: impl AsyncFnOnce(Store)) {
    let dir = tempfile::tempdir().unwrap();
    LocalExecutor::default().run(async {
        let store = Store::open(Kind::log(dir.path())).await;
        rule(store).await;
    });
}

fn on_cassandra(rule: impl AsyncFnOnce(Store)) {
    let Some((_, kind)) = cassandra() else { return };
    let _running = NODES.read().unwrap_or_else(PoisonError::into_inner);
    LocalExecutor::default().run(async {
        let store = Store::open(kind).await;
        rule(store).await;
    });
}

/// Who writes stops nodes that others use.
static NODES: RwLock<()> = RwLock::new(());

/// The cluster that all tests here share, and an engine of it.
fn cassandra() -> Option<(&'static Cassandra, Kind)> {
    const KEYSPACE: &str = "iris_contract";
    static MADE: Once = Once::new();
    let cluster = Cassandra::shared("the storage contract on Cassandra")?;
    MADE.call_once(|| cluster.init(KEYSPACE));
    Some((cluster, Kind::Cassandra(Box::new(cluster.options(KEYSPACE)), 0xcafe)))
}
