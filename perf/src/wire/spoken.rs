//! The protocol of one connection, whichever it is. The match costs every peer alike.

use super::{Incoming, Iris, Mqtt, Nats, Raw, Resp, Wire, Xmpp};

/// One connection's protocol.
#[derive(Debug)]
pub enum Spoken {
    /// Iris.
    Iris(Iris),
    /// Frames of one size.
    Raw(Raw),
    /// NATS, core or JetStream.
    Nats(Nats),
    /// MQTT 3.1.1.
    Mqtt(Mqtt),
    /// XMPP; boxed, as it is much larger than the others.
    Xmpp(Box<Xmpp>),
    /// Redis.
    Resp(Resp),
}

macro_rules! spoken {
    ($self:expr, $wire:ident => $does:expr) => {
        match $self {
            Spoken::Iris($wire) => $does,
            Spoken::Raw($wire) => $does,
            Spoken::Nats($wire) => $does,
            Spoken::Mqtt($wire) => $does,
            Spoken::Xmpp($wire) => $does,
            Spoken::Resp($wire) => $does,
        }
    };
}

impl Wire for Spoken {
    fn confirms(&self) -> bool {
        spoken!(self, wire => wire.confirms())
    }

    fn logs_in(&self) -> bool {
        spoken!(self, wire => wire.logs_in())
    }

    fn login(&mut self, user: &str, token: &[u8], out: &mut Vec<u8>) {
        spoken!(self, wire => wire.login(user, token, out));
    }

    #[inline]
    fn send(&mut self, recipient: &[u8], body: &[u8], now_ns: u64, out: &mut Vec<u8>) {
        spoken!(self, wire => wire.send(recipient, body, now_ns, out));
    }

    #[inline]
    fn acknowledge(&mut self, out: &mut Vec<u8>) {
        spoken!(self, wire => wire.acknowledge(out));
    }

    #[inline]
    fn decode(&mut self, input: &[u8], now_ns: u64, on: impl FnMut(Incoming<'_>)) -> Result<usize, String> {
        spoken!(self, wire => wire.decode(input, now_ns, on))
    }
}
