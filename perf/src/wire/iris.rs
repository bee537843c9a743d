//! The client protocol of Iris (`docs/protocol.md`), by the codec of `iris-shards`.

use super::{Incoming, Level, Wire};
use iris_shards::frame::{
    self, ClientFrame, Code, Decoded, Hello, LEVEL_DELIVERED, LEVEL_STORED, ServerFrame, decode_server,
};
use iris_shards::id::{MessageId, Sequence};

/// Larger frames are not expected from a server, bytes.
pub const FRAME_BYTES_MAX: usize = 2 << 20;
const NS_PER_MS: u64 = 1_000_000;

/// One connection.
#[derive(Debug, Default)]
pub struct Iris {
    sent: u64,
    delivered: u64,
    acknowledged: u64,
    /// The server's clock at `welcome_ns`, ms.
    clock_ms: u64,
    welcome_ns: u64,
    id_ms: u64,
}

impl Wire for Iris {
    fn confirms(&self) -> bool {
        true
    }

    fn logs_in(&self) -> bool {
        true
    }

    fn login(&mut self, user: &str, token: &[u8], out: &mut Vec<u8>) {
        hello(user, token, out);
    }

    #[inline]
    fn send(&mut self, recipient: &[u8], body: &[u8], now_ns: u64, out: &mut Vec<u8>) {
        self.sent += 1;
        let elapsed_ms = now_ns.saturating_sub(self.welcome_ns) / NS_PER_MS;
        self.id_ms = self.id_ms.max(self.clock_ms + elapsed_ms);
        let id = MessageId::v7(self.id_ms, u128::from(self.sent));
        ClientFrame::Send { sequence: Sequence(self.sent), id, recipient, body }.encode(out);
    }

    #[inline]
    fn acknowledge(&mut self, out: &mut Vec<u8>) {
        if self.delivered > self.acknowledged {
            frame::acknowledge(out, &[(self.acknowledged + 1, self.delivered)]);
            self.acknowledged = self.delivered;
        }
    }

    #[inline]
    fn decode(&mut self, input: &[u8], now_ns: u64, mut on: impl FnMut(Incoming<'_>)) -> Result<usize, String> {
        let mut at = 0;
        loop {
            let decoded = decode_server(&input[at..], FRAME_BYTES_MAX).map_err(|error| error.to_string())?;
            let Decoded::Frame { frame, used } = decoded else { return Ok(at) };
            at += used;
            match frame {
                ServerFrame::Deliver(message) => {
                    self.on_deliver(message.sequence)?;
                    on(Incoming::Message(message.body));
                }
                other => self.on_other(&other, now_ns, &mut on)?,
            }
        }
    }
}

impl Iris {
    #[inline]
    fn on_deliver(&mut self, sequence: Sequence) -> Result<(), String> {
        self.delivered += 1;
        if sequence.0 == self.delivered {
            return Ok(());
        }
        Err(format!("DELIVER has sequence {}, {} was next", sequence.0, self.delivered))
    }

    fn on_other(
        &mut self,
        frame: &ServerFrame<'_>,
        now_ns: u64,
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), String> {
        match *frame {
            ServerFrame::Confirm { level, ranges, .. } => {
                let level = level_of(level)?;
                ranges.into_iter().for_each(|(first, last)| on(Incoming::Confirmed { first, last, level }));
            }
            ServerFrame::Welcome(welcome) => {
                (self.clock_ms, self.welcome_ns) = (welcome.clock, now_ns);
                let (messages, bytes) = (welcome.window_messages.into(), welcome.window_bytes.into());
                on(Incoming::Welcome { window_messages: messages, window_bytes: bytes });
            }
            ServerFrame::Refused { sequence, code, wait_ms, reason } => {
                let reason = format!("refused with {}, wait {wait_ms} ms: {reason}", name_of(code));
                on(Incoming::Refused { number: sequence.0, reason });
            }
            ServerFrame::Close { code, reason, .. } => {
                on(Incoming::Closed(format!("closed with {}: {reason}", name_of(code))));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Appends HELLO.
pub fn hello(user: &str, token: &[u8], out: &mut Vec<u8>) {
    let (version_min, version_max) = (frame::VERSION, frame::VERSION);
    let agent = concat!("iris-perf/", env!("CARGO_PKG_VERSION"));
    let user = user.as_bytes();
    ClientFrame::Hello(Hello { version_min, version_max, capabilities: 0, user, token, agent }).encode(out);
}

fn level_of(level: u8) -> Result<Level, String> {
    match level {
        LEVEL_STORED => Ok(Level::Stored),
        LEVEL_DELIVERED => Ok(Level::Delivered),
        other => Err(format!("CONFIRM of the unknown level {other}")),
    }
}

/// The name of a code.
pub fn name_of(code: u16) -> String {
    Code::from_number(code).map_or_else(|| format!("code {code}"), |code| code.name().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use iris_shards::frame::{Deliver, confirm, decode_client, deliver};

    fn message(sequence: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let id = MessageId::v7(1, 1);
        deliver(&mut bytes, &Deliver { sequence: Sequence(sequence), id, sent_at: 0, sender: "a", body: b"hi" });
        bytes
    }

    #[test]
    fn acknowledges_what_was_decoded_once() {
        let mut wire = Iris::default();
        let mut input = [message(1), message(2)].concat();
        confirm(&mut input, LEVEL_STORED, 1, &[(1, 3), (5, 5)]);
        let whole = input.len();
        input.extend_from_slice(&[0, 0, 0]);
        let mut heard = 0;
        assert_eq!(wire.decode(&input, 0, |_| heard += 1), Ok(whole));
        assert_eq!(heard, 4);
        let (mut out, mut wanted) = (Vec::new(), Vec::new());
        wire.acknowledge(&mut out);
        wire.acknowledge(&mut out);
        frame::acknowledge(&mut wanted, &[(1, 2)]);
        assert_eq!(out, wanted);
    }

    #[test]
    fn a_skipped_delivery_is_an_error() {
        assert!(Iris::default().decode(&message(2), 0, |_| ()).is_err());
    }

    #[test]
    fn ids_strictly_increase_even_if_the_clock_stands() {
        let mut wire = Iris { clock_ms: 1_000, ..Iris::default() };
        let ids: Vec<MessageId> = [5, 5, 3, 9].iter().map(|ms| id_at(&mut wire, ms * NS_PER_MS)).collect();
        assert!(ids.is_sorted_by(|a, b| a < b) && ids[0].is_v7() && ids[0].time_ms() == 1_005);
    }

    fn id_at(wire: &mut Iris, now_ns: u64) -> MessageId {
        let mut out = Vec::new();
        wire.send(b"b", b"x", now_ns, &mut out);
        match decode_client(&out, 4_096) {
            Ok(Decoded::Frame { frame: ClientFrame::Send { id, .. }, .. }) => id,
            other => panic!("{other:?}"),
        }
    }
}
