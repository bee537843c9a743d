//! The storage contract: one suite for every engine, through `Engine` as an executor drives it.
//!
//! The log runs always. Cassandra runs where `IRIS_ENGINES` names a data folder of `scripts/engines` in which it is up;
//! elsewhere its tests say that they were skipped, and why.
#![allow(clippy::unwrap_used)]

#[path = "contract/away.rs"]
mod away;
#[path = "contract/bench.rs"]
mod bench;
#[path = "contract/cluster.rs"]
mod cluster;
#[path = "contract/rules.rs"]
mod rules;
#[path = "contract/store.rs"]
mod store;

use glommio::LocalExecutor;

use self::cluster::Cluster;
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

fn on_log(rule: impl AsyncFnOnce(Store)) {
    let dir = tempfile::tempdir().unwrap();
    LocalExecutor::default().run(async {
        let store = Store::open(Kind::log(dir.path())).await;
        rule(store).await;
    });
}

fn on_cassandra(rule: impl AsyncFnOnce(Store)) {
    let Some(cluster) = Cluster::found() else { return };
    LocalExecutor::default().run(async {
        let store = Store::open(Kind::Cassandra(cluster.options())).await;
        rule(store).await;
    });
}
