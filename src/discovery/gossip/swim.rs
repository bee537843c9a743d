//! SWIM (Das, Gupta, Motivala 2002, with Lifeguard's suspicion as foca has it) without I/O: one node's part in it.
//!
//! In: datagrams, the time, addresses to join by, the wish to leave. Out: datagrams, and who is known. Time is an
//! argument in milliseconds, and chance comes from a seed, so that tests run clusters in one thread.

use super::datagram::{BadDatagram, PAYLOAD_BYTES_MAX, Seal};
use super::member::{About, Member, MemberCodec};
use super::roster::Roster;
use crate::config::Cluster;
use crate::discovery::view::{Known, NodeState};
use foca::{Foca, NoCustomBroadcast, Notification, PeriodicParams, Runtime, Timer};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

/// While nobody is known to know this node, it introduces itself this often.
const JOIN_MS: u64 = 1_000;
/// Later, to one of the addresses to join by where nobody is up: so that two halves find each other again.
const REJOIN_MS: u64 = 5_000;
/// For this time after it got in, a node asks everybody it hears of whom they know.
const LEARN_MS: u64 = 5_000;
/// But not more of them than this: periodic questions find the rest.
const ASKED_MAX: usize = 256;
/// Addresses that are tried at a time.
const TRIED_MAX: usize = 8;

/// One node in SWIM.
pub struct Swim {
    foca: Foca<Member, MemberCodec, SmallRng, NoCustomBroadcast>,
    out: Out,
    timers: BTreeMap<(u64, u64), Timer<Member>>,
    timer_count: u64,
    seal: Seal,
    seeds: Vec<SocketAddr>,
    next_seed: usize,
    introduce_ms: u64,
    learn_until_ms: u64,
    /// Who was asked whom they know, and which start of them.
    asked: BTreeMap<SocketAddr, u64>,
    roster: Roster,
    /// The cluster's size that foca was configured for.
    size: u32,
}

/// What foca wants, until it is taken.
#[derive(Default)]
struct Out {
    sends: Vec<(SocketAddr, Vec<u8>)>,
    timers: Vec<(Timer<Member>, Duration)>,
    /// Whether somebody knows this node.
    is_in: bool,
    has_got_in: bool,
    is_changed: bool,
}

impl Runtime<Member> for &mut Out {
    fn notify(&mut self, notification: Notification<'_, Member>) {
        self.is_changed = true;
        match notification {
            Notification::Active => (self.is_in, self.has_got_in) = (true, true),
            Notification::Idle | Notification::Defunct | Notification::Rejoin(_) => self.is_in = false,
            _ => {}
        }
    }

    fn send_to(&mut self, to: Member, data: &[u8]) {
        self.sends.push((to.address, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Member>, after: Duration) {
        self.timers.push((event, after));
    }
}

impl Swim {
    /// A node that is at `address`, started at `boot_ms`, and knows nobody.
    pub fn new(cluster: &Cluster, own: &Known, address: SocketAddr, boot_ms: u64, seed: u64) -> Self {
        let about = Some(About::of(own).into());
        let own = Member { address, boot: boot_ms, renewal: 0, version: 0, about };
        let size = 8;
        Swim {
            foca: Foca::new(own, settings(size), SmallRng::seed_from_u64(seed), MemberCodec),
            out: Out { is_changed: true, ..Out::default() },
            timers: BTreeMap::new(),
            timer_count: 0,
            seal: Seal::new(cluster),
            seeds: Vec::new(),
            next_seed: 0,
            introduce_ms: 0,
            learn_until_ms: 0,
            asked: BTreeMap::new(),
            roster: Roster::new(cluster.claim_ms),
            size,
        }
    }

    /// Addresses to join by. Its own is left out. They are tried at once, unless the node is in.
    pub fn set_seeds(&mut self, seeds: Vec<SocketAddr>) {
        let own = self.foca.identity().address;
        self.seeds = seeds.into_iter().filter(|&seed| seed != own).collect();
        if !self.out.is_in {
            self.introduce_ms = 0;
        }
    }

    /// A datagram came in.
    pub fn on_datagram(&mut self, now_ms: u64, datagram: &[u8]) -> Result<(), BadDatagram> {
        let payload = self.seal.open(datagram)?;
        let result = self.foca.handle_data(payload, &mut self.out);
        self.after(now_ms);
        match result {
            Err(foca::Error::Decode(_) | foca::Error::MalformedPacket | foca::Error::DataTooBig) => {
                Err(BadDatagram::Length)
            }
            // The others say what is usual when news is old.
            _ => Ok(()),
        }
    }

    /// The time of [`Swim::next_ms`] has come, or any other.
    pub fn on_time(&mut self, now_ms: u64) {
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now_ms) {
            let timer = entry.remove();
            self.logged(|foca, out| foca.handle_timer(timer, out));
            self.after(now_ms);
        }
        if now_ms >= self.introduce_ms {
            self.introduce_ms = now_ms + if self.out.is_in { REJOIN_MS } else { JOIN_MS };
            self.introduce();
            self.after(now_ms);
        }
    }

    /// When [`Swim::on_time`] is due.
    pub fn next_ms(&self) -> u64 {
        self.timers.first_key_value().map_or(u64::MAX, |(key, _)| key.0).min(self.introduce_ms)
    }

    /// Tells that this node will go.
    pub fn drain(&mut self, now_ms: u64) {
        let own = self.foca.identity();
        let Some(about) = own.about.as_deref().filter(|about| !about.is_leaving) else { return };
        let saying = own.saying(About { is_leaving: true, ..about.clone() });
        self.out.is_changed = true;
        self.out.is_in = false;
        self.introduce_ms = now_ms + JOIN_MS;
        self.logged(|foca, out| foca.change_identity(saying, out));
        self.after(now_ms);
    }

    /// Tells that this node is gone, to some; again each time. It takes no part any more.
    pub fn leave(&mut self, now_ms: u64) {
        self.drain(now_ms);
        self.logged(|foca, out| foca.leave_cluster(out));
        self.after(now_ms);
        self.introduce_ms = u64::MAX;
    }

    /// Datagrams to send.
    pub fn take_sends(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        std::mem::take(&mut self.out.sends).into_iter().map(|(to, bytes)| (to, self.seal.seal(&bytes))).collect()
    }

    /// Whether the answer of [`Swim::known`] may have changed since this was asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.out.is_changed)
    }

    /// Everybody, this node included, and what does not fit together.
    pub fn known(&self, now_ms: u64) -> (Vec<Known>, Vec<String>) {
        let (mut known, faults) = self.roster.known(now_ms);
        if let Some(about) = &self.foca.identity().about {
            let state = if about.is_leaving { NodeState::Leaving } else { NodeState::Alive };
            known.retain(|node| node.name != about.name);
            known.push(about.known(state));
        }
        (known, faults)
    }

    /// When a dead core's claims end next.
    pub fn claims_end_ms(&self, now_ms: u64) -> Option<u64> {
        self.roster.next_ms(now_ms)
    }

    /// Whether another node knows this one.
    pub fn is_in(&self) -> bool {
        self.out.is_in
    }

    /// Foca's errors that are left are of one datagram or one timer: it says itself that it goes on.
    fn logged(
        &mut self,
        act: impl FnOnce(&mut Foca<Member, MemberCodec, SmallRng, NoCustomBroadcast>, &mut Out) -> Result<(), foca::Error>,
    ) {
        if let Err(error) = act(&mut self.foca, &mut self.out) {
            tracing::debug!("gossip: {error}");
        }
    }

    /// Takes what foca left behind.
    fn after(&mut self, now_ms: u64) {
        for (timer, after) in self.out.timers.drain(..) {
            self.timer_count += 1;
            let at_ms = now_ms + after.as_millis() as u64;
            self.timers.insert((at_ms, self.timer_count), timer);
        }
        if std::mem::take(&mut self.out.has_got_in) {
            self.learn_until_ms = now_ms + LEARN_MS;
        }
        if self.out.is_changed {
            self.roster.update(now_ms, self.foca.iter_membership_state());
            self.resize();
            self.learn(now_ms);
        }
    }

    /// To whoever may not know this node.
    fn introduce(&mut self) {
        let mut dark: Vec<Member> =
            self.seeds.iter().filter(|seed| !self.roster.is_up(seed)).map(|&seed| Member::seed(seed)).collect();
        if !self.out.is_in {
            dark.extend(self.roster.up().cloned());
        }
        let count = dark.len().min(if self.out.is_in { 1 } else { TRIED_MAX });
        for _ in 0..count {
            self.next_seed = (self.next_seed + 1) % dark.len();
            let to = dark[self.next_seed].clone();
            self.logged(|foca, out| foca.announce(to, out));
        }
    }

    /// Asks new acquaintances whom they know: one datagram has room for a dozen only.
    fn learn(&mut self, now_ms: u64) {
        if now_ms >= self.learn_until_ms {
            return self.asked.clear();
        }
        let is_new = |member: &&Member| self.asked.get(&member.address) != Some(&member.boot);
        let room = ASKED_MAX.saturating_sub(self.asked.len());
        let new: Vec<Member> = self.roster.up().filter(is_new).take(room).cloned().collect();
        for member in new {
            self.asked.insert(member.address, member.boot);
            self.logged(|foca, out| foca.announce(member, out));
        }
    }

    /// News have to be told more often, and suspects get more time, in a larger cluster.
    fn resize(&mut self) {
        let size = self.foca.num_members() as u32 + 1;
        if size > self.size || size < self.size / 4 {
            self.size = size.max(4) * 2;
            let settings = settings(self.size);
            self.logged(|foca, _| foca.set_config(settings));
        }
    }
}

/// Foca's preset for this many nodes, looking around more often than it does: that mends what lost datagrams and
/// partitions left behind. Probes and suspicion have room for round trips of 300 ms between regions.
fn settings(size: u32) -> foca::Config {
    let every =
        |ms, nodes: NonZeroUsize| Some(PeriodicParams { frequency: Duration::from_millis(ms), num_members: nodes });
    let two = NonZeroUsize::MIN.saturating_add(1);
    foca::Config {
        max_packet_size: NonZeroUsize::new(PAYLOAD_BYTES_MAX).unwrap_or(NonZeroUsize::MIN),
        periodic_announce: every(5_000, NonZeroUsize::MIN),
        periodic_announce_to_down_members: every(5_000, two),
        ..foca::Config::new_lan(NonZeroU32::new(size).unwrap_or(NonZeroU32::MIN))
    }
}
