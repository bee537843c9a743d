//! MQTT 3.1.1 (OASIS, 2014), as little of it as users need: a clean session that subscribes to `m/<user>`, PUBLISH of QoS 0
//! (nothing is acknowledged) or 1 (PUBACK by the server: it has taken the message; it says nothing of the recipient).

use super::{Incoming, Level, Wire};

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 9;
const SUBSCRIPTION_REFUSED: u8 = 0x80;
/// Packet ids are 1 to this, in turn.
const IDS: u64 = 65_535;
/// Larger packets are not expected, bytes.
const PACKET_BYTES_MAX: usize = 32 << 20;

/// One connection.
#[derive(Debug)]
pub struct Mqtt {
    qos: u8,
    sent: u64,
    confirmed: u64,
    /// Packet ids of messages taken and not acknowledged.
    taken: Vec<[u8; 2]>,
}

impl Mqtt {
    /// `qos`: 0 or 1.
    pub fn new(qos: u8) -> Self {
        Self { qos, sent: 0, confirmed: 0, taken: Vec::new() }
    }

    #[inline]
    fn on_publish<'a>(&mut self, flags: u8, rest: &'a [u8]) -> Result<&'a [u8], String> {
        let short = || "a PUBLISH that is too short".to_owned();
        let (topic_bytes, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let rest = rest.get(usize::from(u16::from_be_bytes(*topic_bytes))..).ok_or_else(short)?;
        if flags & 0b110 == 0 {
            return Ok(rest);
        }
        let (id, body) = rest.split_first_chunk().ok_or_else(short)?;
        self.taken.push(*id);
        Ok(body)
    }

    /// The server acknowledges in the order of sending, so that the id says the number.
    fn on_puback(&mut self, rest: &[u8]) -> Result<Incoming<'static>, String> {
        let id = rest.first_chunk().map(|id| u16::from_be_bytes(*id)).ok_or("a PUBACK that is too short")?;
        let number = self.confirmed + 1;
        if id != id_of(number) {
            return Err(format!("PUBACK of {id}, {} was next", id_of(number)));
        }
        self.confirmed = number;
        Ok(Incoming::Confirmed { first: number, last: number, level: Level::Accepted })
    }

    fn on_packet<'a>(&mut self, head: u8, rest: &'a [u8]) -> Result<Option<Incoming<'a>>, String> {
        match head >> 4 {
            PUBLISH => self.on_publish(head & 0xf, rest).map(|body| Some(Incoming::Message(body))),
            PUBACK => self.on_puback(rest).map(Some),
            CONNACK if rest.get(1) != Some(&0) => Ok(Some(Incoming::Closed(format!("CONNACK says {rest:?}")))),
            SUBACK if rest.get(2).is_none_or(|&code| code == SUBSCRIPTION_REFUSED) => {
                Ok(Some(Incoming::Closed(format!("SUBACK says {rest:?}"))))
            }
            SUBACK => Ok(Some(Incoming::Welcome { window_messages: IDS, window_bytes: u64::MAX })),
            _ => Ok(None),
        }
    }
}

impl Wire for Mqtt {
    fn confirms(&self) -> bool {
        self.qos > 0
    }

    fn logs_in(&self) -> bool {
        true
    }

    /// CONNECT with a clean session and no keep-alive, and SUBSCRIBE behind it at once, which 3.1.4 of the standard allows.
    fn login(&mut self, user: &str, _token: &[u8], out: &mut Vec<u8>) {
        let mut connect = b"\0\x04MQTT\x04\x02\0\0".to_vec();
        string(&[user.as_bytes()], &mut connect);
        packet(CONNECT, &connect, out);
        let mut subscribe = vec![0, 1];
        string(&[b"m/", user.as_bytes()], &mut subscribe);
        subscribe.push(self.qos);
        packet(SUBSCRIBE, &subscribe, out);
    }

    #[inline]
    fn send(&mut self, recipient: &[u8], body: &[u8], _now_ns: u64, out: &mut Vec<u8>) {
        self.sent += 1;
        let id_bytes = usize::from(self.qos) * 2;
        out.push(PUBLISH << 4 | self.qos << 1);
        length(2 + 2 + recipient.len() + id_bytes + body.len(), out);
        string(&[b"m/", recipient], out);
        if self.qos > 0 {
            out.extend_from_slice(&id_of(self.sent).to_be_bytes());
        }
        out.extend_from_slice(body);
    }

    #[inline]
    fn acknowledge(&mut self, out: &mut Vec<u8>) {
        for id in self.taken.drain(..) {
            out.extend_from_slice(&[PUBACK << 4, 2, id[0], id[1]]);
        }
    }

    #[inline]
    fn decode(&mut self, input: &[u8], _now_ns: u64, mut on: impl FnMut(Incoming<'_>)) -> Result<usize, String> {
        let mut at = 0;
        while let Some((start, end)) = bounds(&input[at..])? {
            if let Some(incoming) = self.on_packet(input[at], &input[at + start..at + end])? {
                on(incoming);
            }
            at += end;
        }
        Ok(at)
    }
}

#[inline]
fn id_of(number: u64) -> u16 {
    ((number - 1) % IDS + 1) as u16
}

fn packet(head: u8, rest: &[u8], out: &mut Vec<u8>) {
    out.push(head);
    length(rest.len(), out);
    out.extend_from_slice(rest);
}

#[inline]
fn string(parts: &[&[u8]], out: &mut Vec<u8>) {
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&(bytes as u16).to_be_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// Seven bits a byte, the lowest first.
#[inline]
fn length(mut bytes: usize, out: &mut Vec<u8>) {
    while bytes > 0x7f {
        out.push(bytes as u8 & 0x7f | 0x80);
        bytes >>= 7;
    }
    out.push(bytes as u8);
}

/// Where the first packet's rest begins and ends; none if it is not whole.
#[inline]
fn bounds(input: &[u8]) -> Result<Option<(usize, usize)>, String> {
    let mut bytes = 0;
    for (at, byte) in input.iter().enumerate().skip(1) {
        bytes |= usize::from(byte & 0x7f) << (7 * (at - 1));
        if at > 4 || bytes > PACKET_BYTES_MAX {
            return Err("a packet that is too long".to_owned());
        }
        if byte & 0x80 == 0 {
            let (start, end) = (at + 1, at + 1 + bytes);
            return Ok((input.len() >= end).then_some((start, end)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(wire: &mut Mqtt, input: &[u8]) -> (usize, Vec<String>) {
        let mut heard = Vec::new();
        let used = wire.decode(input, 0, |incoming| heard.push(format!("{incoming:?}"))).expect("valid");
        (used, heard)
    }

    #[test]
    fn a_login_is_connect_and_subscribe() {
        let mut out = Vec::new();
        Mqtt::new(1).login("ab", b"", &mut out);
        assert_eq!(out, b"\x10\x0e\0\x04MQTT\x04\x02\0\0\0\x02ab\x82\x09\0\x01\0\x04m/ab\x01");
        let (used, heard) = heard(&mut Mqtt::new(1), b"\x20\x02\0\0\x90\x03\0\x01\x01\x90");
        assert_eq!((used, heard.len()), (9, 1));
        assert!(heard[0].starts_with("Welcome"));
    }

    #[test]
    fn what_one_publishes_another_takes_and_acknowledges() {
        for qos in [0, 1] {
            let (mut wire, mut out) = (Mqtt::new(qos), Vec::new());
            let body = [7; 200];
            wire.send(b"b", &body, 0, &mut out);
            assert_eq!(heard(&mut wire, &out[..out.len() - 1]).0, 0);
            let (used, heard) = heard(&mut wire, &out);
            assert_eq!((used, &heard[0]), (out.len(), &format!("{:?}", Incoming::Message(&body))));
            out.clear();
            wire.acknowledge(&mut out);
            assert_eq!(out, if qos == 0 { &b""[..] } else { b"\x40\x02\0\x01" });
        }
    }

    #[test]
    fn packet_ids_come_round() {
        assert_eq!([1, 65_535, 65_536].map(id_of), [1, 65_535, 1]);
        let mut wire = Mqtt { confirmed: 65_535, ..Mqtt::new(1) };
        let (_, heard) = heard(&mut wire, b"\x40\x02\0\x01");
        assert_eq!(heard, ["Confirmed { first: 65536, last: 65536, level: Accepted }"]);
        assert!(wire.decode(b"\x40\x02\0\x09", 0, |_| ()).is_err());
    }
}
