//! Edge and core halves with their sessions: relay, receiver, storing, logins, presence.

use crate::Work;
use crate::cluster::{Cluster, name_at};
use iris_shards::frame::ClientFrame;

const TURNS: u64 = 100;
pub const RELAYED_BY_16: u64 = TURNS * 2 * 16;
pub const RELAYED_BY_1: u64 = TURNS * 2;
pub const RECEIVED: u64 = TURNS * 16;
pub const STORED: u64 = TURNS * 16;
pub const LOGINS: u64 = 200;
pub const LOOKUPS: u64 = 400;

pub fn relay_16() -> Work {
    relay(16)
}

pub fn relay_1() -> Work {
    relay(1)
}

/// Two users, each on an executor of its own, who know each other.
struct Pair {
    cluster: Cluster,
    users: [usize; 2],
    names: [String; 2],
}

impl Pair {
    fn new() -> Self {
        let mut cluster = Cluster::new();
        let names = [0, 1].map(|executor| name_at("user", executor));
        let users = [0, 1].map(|at: usize| cluster.login(&names[at]));
        cluster.settle();
        let mut pair = Pair { cluster, users, names };
        pair.earn_the_direct_path();
        pair
    }

    fn earn_the_direct_path(&mut self) {
        for _ in 0..3 {
            (0..2).for_each(|at| self.send(at, 1));
            self.cluster.settle();
            (0..2).for_each(|at| self.cluster.acknowledge(self.users[at], 1));
            self.cluster.settle();
            self.cluster.pass(1_000);
        }
    }

    fn send(&mut self, from: usize, messages: u64) {
        (0..messages).for_each(|_| self.cluster.send(self.users[from], &self.names[1 - from]));
    }

    /// Confirmations heard, messages that went straight.
    fn accounts(&self) -> (u64, u64) {
        (self.cluster.confirmed, self.cluster.direct())
    }
}

/// Each answers every message with one.
fn relay(window: u64) -> Work {
    let mut pair = Pair::new();
    (0..2).for_each(|at| pair.send(at, window));
    pair.cluster.settle();
    Box::new(move |count| {
        let before = pair.accounts();
        count(&mut || {
            for _ in 0..TURNS {
                for at in 0..2 {
                    pair.cluster.acknowledge(pair.users[at], window);
                    pair.send(at, window);
                }
                pair.cluster.settle();
            }
        });
        let messages = TURNS * 2 * window;
        assert_eq!(pair.accounts(), (before.0 + messages, before.1 + messages));
        pair.cluster.pass(8);
    })
}

/// The recipient's edge alone.
pub fn receiver() -> Work {
    let mut pair = Pair::new();
    Box::new(move |count| {
        let before = pair.accounts();
        for _ in 0..TURNS {
            pair.send(0, 16);
            count(&mut || {
                pair.cluster.hand_out();
                pair.cluster.acknowledge(pair.users[1], 16);
            });
            pair.cluster.settle();
        }
        assert_eq!(pair.accounts(), (before.0 + RECEIVED, before.1 + RECEIVED));
    })
}

/// One sender, and a recipient of the other executor who never comes.
pub fn stored() -> Work {
    let mut cluster = Cluster::new();
    let sender = cluster.login(&name_at("user", 0));
    let away = name_at("away", 1);
    cluster.settle();
    Box::new(move |count| {
        let before = cluster.confirmed;
        count(&mut || {
            for _ in 0..TURNS {
                (0..16).for_each(|_| cluster.send(sender, &away));
                cluster.settle();
            }
        });
        assert_eq!(cluster.confirmed - before, STORED);
    })
}

pub fn login() -> Work {
    let mut cluster = Cluster::new();
    let names: Vec<String> = (0..LOGINS).map(|number| format!("user-{number:06}")).collect();
    Box::new(move |count| {
        count(&mut || {
            for name in &names {
                cluster.login(name);
                cluster.settle();
                cluster.leave();
                cluster.settle();
            }
        });
    })
}

pub fn presence() -> Work {
    let mut cluster = Cluster::new();
    let asker = cluster.login(&name_at("user", 0));
    let friend = name_at("friend", 1);
    cluster.login(&friend);
    cluster.settle();
    Box::new(move |count| {
        let before = cluster.answered;
        count(&mut || {
            for request in 0..LOOKUPS {
                cluster.frame(asker, ClientFrame::Lookup { request: request as u32, user: friend.as_bytes() });
                cluster.settle();
            }
        });
        assert_eq!(cluster.answered - before, LOOKUPS);
    })
}
