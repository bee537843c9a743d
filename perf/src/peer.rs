//! Whom Iris is compared with. `raw` is part of this crate; the others are real servers, which `scripts/peers` starts.

mod jetstream;
pub mod raw;
pub mod script;

use crate::wire::{Iris, Mqtt, Nats, Raw, Resp, Spoken};
use anyhow::{Result, bail};
use std::net::SocketAddr;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Peer {
    /// A node of Iris.
    Iris,
    /// The plain epoll relay: the limit.
    Raw,
    /// NATS core: nothing is acknowledged.
    Nats,
    /// NATS with a stream in files; it is on disk within two minutes.
    Jetstream,
    /// The same, on disk before it is acknowledged.
    JetstreamAlways,
    /// mosquitto, at most once.
    MosquittoQos0,
    /// mosquitto, at least once.
    MosquittoQos1,
    /// ejabberd (XMPP).
    Ejabberd,
    /// Redis streams, on disk before they are acknowledged.
    RedisStreams,
}

impl Peer {
    /// Its name in results, and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Iris => "iris",
            Self::Raw => "raw",
            Self::Nats => "nats",
            Self::Jetstream => "jetstream",
            Self::JetstreamAlways => "jetstream-always",
            Self::MosquittoQos0 => "mosquitto-qos0",
            Self::MosquittoQos1 => "mosquitto-qos1",
            Self::Ejabberd => "ejabberd",
            Self::RedisStreams => "redis-streams",
        }
    }

    /// Whether `scripts/peers` starts it.
    pub fn is_scripted(self) -> bool {
        !matches!(self, Self::Iris | Self::Raw)
    }

    /// A connection's protocol.
    pub fn wire(self, body_bytes: usize, is_gated: bool) -> Spoken {
        match self {
            Self::Iris => Spoken::Iris(Iris::default()),
            Self::Raw => Spoken::Raw(Raw::new(body_bytes, is_gated)),
            Self::Nats => Spoken::Nats(Nats::new(false)),
            Self::Jetstream | Self::JetstreamAlways => Spoken::Nats(Nats::new(true)),
            Self::MosquittoQos0 => Spoken::Mqtt(Mqtt::new(0)),
            Self::MosquittoQos1 => Spoken::Mqtt(Mqtt::new(1)),
            Self::Ejabberd => Spoken::Xmpp(Box::default()),
            Self::RedisStreams => Spoken::Resp(Resp::default()),
        }
    }

    /// What a fresh server needs before users come.
    pub fn prepare(self, address: SocketAddr) -> Result<()> {
        match self {
            Self::Jetstream | Self::JetstreamAlways => jetstream::create(address),
            _ => Ok(()),
        }
    }

    /// Refuses a scenario that this peer cannot do, and says why.
    pub fn plays(self, scenario: &str) -> Result<()> {
        let (can, why): (&[&str], _) = match self {
            Self::Iris => return Ok(()),
            Self::Raw => (&["relay", "saturate"], "it knows no users and keeps nothing"),
            Self::Nats | Self::MosquittoQos0 | Self::MosquittoQos1 | Self::Ejabberd => {
                (&["relay", "saturate", "fan-in", "slow", "login", "idle"], "it promises nothing about disks")
            }
            Self::Jetstream | Self::JetstreamAlways => {
                let why = "only its publications are acknowledged";
                (&["relay", "saturate", "fan-in", "stored", "login", "idle"], why)
            }
            Self::RedisStreams => (&["stored", "login", "idle"], "nobody listens here"),
        };
        if can.contains(&scenario) {
            return Ok(());
        }
        bail!("{} has no scenario {scenario} ({why}); it has: {}", self.name(), can.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn names_are_those_of_the_command_line() {
        for peer in Peer::value_variants() {
            let written = peer.to_possible_value().map(|value| value.get_name().to_owned());
            assert_eq!(written.as_deref(), Some(peer.name()));
        }
    }

    #[test]
    fn refusals_name_what_there_is() {
        let words = Peer::Raw.plays("stored").expect_err("raw keeps nothing").to_string();
        assert!(words.starts_with("raw has no scenario stored") && words.ends_with("relay, saturate"), "{words}");
        assert!(Peer::Iris.plays("stored").is_ok() && Peer::RedisStreams.plays("stored").is_ok());
    }
}
