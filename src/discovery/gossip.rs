//! Gossip: nodes tell each other who is there, over UDP; the shell around [`swim`].
//!
//! Owns the socket, looks the addresses to join by up, and keeps the time. Counterpart of the process groups of the seed.
//! Bounds: datagrams of 1,400 bytes; what one node says about itself, 560 (the configuration refuses more).

mod datagram;
mod member;
mod roster;
mod swim;

use super::publish::Publisher;
use super::view::Known;
use super::{Command, DiscoveryError, reachable};
use crate::clock::unix_ms;
use crate::config::{Config, Discovery};
use crate::random;
use datagram::DATAGRAM_BYTES_MAX;
use std::net::SocketAddr;
use std::time::Duration;
use swim::Swim;
use tokio::net::{UdpSocket, lookup_host};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

/// News are gathered for this time before a placement is made of them.
const GATHER: Duration = Duration::from_millis(50);
/// Between two look-ups of the addresses to join by.
const LOOK_UP_EVERY: Duration = Duration::from_secs(10);
/// How often those who are near are told that this node is gone, and the pause between.
const FAREWELLS: u32 = 5;
const FAREWELL_PAUSE: Duration = Duration::from_millis(40);
/// A node that found nobody for this time warns.
const LONELY: Duration = Duration::from_secs(5);

/// A node's part in the gossip, before it begins.
pub struct Gossip {
    socket: std::net::UdpSocket,
    seeds: Vec<String>,
    swim: Swim,
}

impl Gossip {
    /// Takes the address that the configuration names.
    pub fn bind(config: &Config, own: &Known) -> Result<Self, DiscoveryError> {
        let Discovery::Gossip { seeds, listen, advertise } = &config.cluster.discovery else {
            unreachable!("gossip is started where the configuration says so")
        };
        let failed = |error| DiscoveryError::Listen { address: *listen, error };
        let socket = std::net::UdpSocket::bind(listen).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let known: Vec<SocketAddr> = seeds.iter().filter_map(|seed| seed.parse().ok()).collect();
        let address = match advertise {
            Some(address) => *address,
            None => reachable(socket.local_addr().map_err(failed)?, &known),
        };
        let swim = Swim::new(&config.cluster, own, address, unix_ms(), random::number());
        tracing::info!(%address, seeds = seeds.join(", "), "gossip");
        Ok(Gossip { socket, seeds: seeds.clone(), swim })
    }

    /// Takes part until the node leaves or drops its end of `commands`.
    pub async fn run(self, publisher: Publisher, commands: mpsc::Receiver<Command>) {
        let sockets = self.socket.try_clone().and_then(|sender| Ok((sender, UdpSocket::from_std(self.socket)?)));
        let (sender, receiver) = match sockets {
            Ok(sockets) => sockets,
            Err(error) => return tracing::error!("discovery: gossip ends: {error}"),
        };
        let (found, seeds) = mpsc::channel(1);
        let may_be_first = self.seeds.is_empty();
        let lookup = tokio::spawn(look_up(self.seeds, found));
        let turns = Turns {
            sender,
            swim: self.swim,
            publisher,
            start: Instant::now(),
            publish_at: None,
            claims_end_ms: None,
            may_be_alone: may_be_first,
            lonely_at: None,
        };
        turns.run(receiver, commands, seeds).await;
        lookup.abort();
    }
}

/// Looks names up again and again: they may move. On a thread of the runtime, so that a slow resolver holds nothing up.
async fn look_up(names: Vec<String>, found: mpsc::Sender<Vec<SocketAddr>>) {
    loop {
        let mut addresses = Vec::new();
        for name in &names {
            match lookup_host(name).await {
                Ok(some) => addresses.extend(some),
                Err(error) => tracing::warn!("discovery: cannot look up {name} of cluster.seeds: {error}"),
            }
        }
        if found.send(addresses).await.is_err() || names.iter().all(|name| name.parse::<SocketAddr>().is_ok()) {
            return;
        }
        sleep(LOOK_UP_EVERY).await;
    }
}

struct Turns {
    sender: std::net::UdpSocket,
    swim: Swim,
    publisher: Publisher,
    start: Instant,
    /// When what was gathered is told.
    publish_at: Option<Instant>,
    /// When the claims of a dead core end next.
    claims_end_ms: Option<u64>,
    /// It has no address to join by, and nobody joined it yet.
    may_be_alone: bool,
    /// When to warn that nobody answers.
    lonely_at: Option<Instant>,
}

impl Turns {
    async fn run(
        mut self,
        socket: UdpSocket,
        mut commands: mpsc::Receiver<Command>,
        mut seeds: mpsc::Receiver<Vec<SocketAddr>>,
    ) {
        let mut buffer = [0; DATAGRAM_BYTES_MAX + 1];
        loop {
            self.on_time();
            tokio::select! {
                received = socket.recv_from(&mut buffer) => match received {
                    Ok((length, from)) => self.on_datagram(&buffer[..length], from),
                    // Of a datagram that could not be delivered; reading goes on.
                    Err(error) => tracing::debug!("gossip: {error}"),
                },
                () = sleep_until(self.next()) => {}
                Some(seeds) = seeds.recv() => self.swim.set_seeds(seeds),
                command = commands.recv() => match command {
                    Some(Command::Drain) => self.swim.drain(self.now_ms()),
                    Some(Command::Leave(told)) => return self.leave(told).await,
                    None => return,
                },
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    fn next(&self) -> Instant {
        // Milliseconds are cut off: a moment later it is surely the time.
        let at = |ms: u64| self.start + Duration::from_millis(ms + 1);
        let soon = self.now_ms() + 60_000;
        let own = [self.publish_at, self.lonely_at, self.publisher.warn_at(), self.claims_end_ms.map(at)];
        own.into_iter().flatten().fold(at(self.swim.next_ms().min(soon)), Instant::min)
    }

    fn on_datagram(&mut self, bytes: &[u8], from: SocketAddr) {
        if let Err(error) = self.swim.on_datagram(self.now_ms(), bytes) {
            let count = self.publisher.refuse_datagram();
            // The first, and then each time that there are twice as many.
            if count.is_power_of_two() {
                tracing::warn!(%from, count, "discovery: a datagram is refused: {error}");
            }
        }
    }

    /// Whatever happened: what is due, what is to be sent, what is to be told.
    fn on_time(&mut self) {
        let (now, now_ms) = (Instant::now(), self.now_ms());
        self.swim.on_time(now_ms);
        self.send();
        if self.swim.take_changed() {
            self.publish_at.get_or_insert(now + GATHER);
        }
        let is_due = self.publish_at.is_some_and(|at| at <= now);
        if is_due || self.claims_end_ms.is_some_and(|end_ms| end_ms <= now_ms) {
            let (known, faults) = self.swim.known(now_ms);
            self.publish_at = self.publish_at.filter(|_| !is_due);
            self.claims_end_ms = self.swim.claims_end_ms(now_ms);
            self.publisher.publish(known, faults);
        }
        if self.publisher.warn_at().is_some_and(|at| at <= now) {
            self.publisher.warn();
        }
        self.mind_loneliness(now);
    }

    fn mind_loneliness(&mut self, now: Instant) {
        if self.swim.is_in() {
            (self.lonely_at, self.may_be_alone) = (None, false);
            return self.publisher.away(None);
        }
        if !self.may_be_alone && *self.lonely_at.get_or_insert(now + LONELY) <= now {
            self.lonely_at = Some(now + LONELY);
            self.publisher.away(Some("no other node answers".to_owned()));
        }
    }

    fn send(&mut self) {
        for (to, bytes) in self.swim.take_sends() {
            // A datagram may be lost anyway.
            if let Err(error) = self.sender.send_to(&bytes, to) {
                tracing::debug!(%to, "gossip: cannot send: {error}");
            }
        }
    }

    async fn leave(mut self, told: crossbeam_channel::Sender<()>) {
        for _ in 0..FAREWELLS {
            self.swim.leave(self.now_ms());
            self.send();
            sleep(FAREWELL_PAUSE).await;
        }
        // Nobody waits any more: then it took too long.
        told.send(()).ok();
    }
}

#[cfg(test)]
mod tests;
