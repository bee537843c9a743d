//! The text protocol of NATS clients. A user subscribes to `m.<user>`. Core: nothing is acknowledged. JetStream: a stream
//! takes every `m.>`; a publication names the reply subject `r.<user>.<number>`, and the stream's answer there confirms it.

use super::{Incoming, Level, Wire};
use std::io::Write;

const INBOX: &str = "1";
const REPLIES: &str = "2";
/// Longer lines are not expected, bytes: INFO is the longest.
const LINE_BYTES_MAX: usize = 64 << 10;

/// One connection.
#[derive(Debug, Default)]
pub struct Nats {
    is_stream: bool,
    user: String,
    sent: u64,
    pongs_due: u32,
    is_welcome: bool,
}

/// MSG's first line.
struct Message<'a> {
    subject: &'a str,
    subscription: &'a str,
    bytes: usize,
}

impl Nats {
    /// `is_stream`: a JetStream stream takes what is published.
    pub fn new(is_stream: bool) -> Self {
        Self { is_stream, ..Self::default() }
    }

    fn on_line(&mut self, line: &str, on: &mut impl FnMut(Incoming<'_>)) {
        match line {
            "PING" => self.pongs_due += 1,
            "PONG" if !self.is_welcome => {
                self.is_welcome = true;
                on(Incoming::Welcome { window_messages: u64::MAX, window_bytes: u64::MAX });
            }
            _ if line.starts_with("-ERR") => on(Incoming::Closed(line.to_owned())),
            _ => {}
        }
    }

    fn on_reply(message: &Message<'_>, payload: &[u8], on: &mut impl FnMut(Incoming<'_>)) -> Result<(), String> {
        let number = message.subject.rsplit('.').next().and_then(|number| number.parse().ok());
        let number: u64 = number.ok_or_else(|| format!("a reply to {:?}", message.subject))?;
        if payload.windows(7).any(|word| word == b"\"error\"") {
            let reason = format!("refused: {}", String::from_utf8_lossy(payload));
            on(Incoming::Refused { number, reason });
        } else {
            on(Incoming::Confirmed { first: number, last: number, level: Level::Stored });
        }
        Ok(())
    }
}

impl Wire for Nats {
    fn confirms(&self) -> bool {
        self.is_stream
    }

    fn logs_in(&self) -> bool {
        true
    }

    fn login(&mut self, user: &str, _token: &[u8], out: &mut Vec<u8>) {
        self.user = user.to_owned();
        let hello =
            r#"CONNECT {"verbose":false,"pedantic":false,"lang":"rust","version":"1","protocol":1,"name":"iris-perf"}"#;
        let _vec = write!(out, "{hello}\r\nSUB m.{user} {INBOX}\r\n");
        if self.is_stream {
            let _vec = write!(out, "SUB r.{user}.* {REPLIES}\r\n");
        }
        out.extend_from_slice(b"PING\r\n");
    }

    #[inline]
    fn send(&mut self, recipient: &[u8], body: &[u8], _now_ns: u64, out: &mut Vec<u8>) {
        self.sent += 1;
        out.extend_from_slice(b"PUB m.");
        out.extend_from_slice(recipient);
        let _vec = match self.is_stream {
            true => write!(out, " r.{}.{} {}\r\n", self.user, self.sent, body.len()),
            false => write!(out, " {}\r\n", body.len()),
        };
        out.extend_from_slice(body);
        out.extend_from_slice(b"\r\n");
    }

    #[inline]
    fn acknowledge(&mut self, out: &mut Vec<u8>) {
        for _ in 0..std::mem::take(&mut self.pongs_due) {
            out.extend_from_slice(b"PONG\r\n");
        }
    }

    #[inline]
    fn decode(&mut self, input: &[u8], _now_ns: u64, mut on: impl FnMut(Incoming<'_>)) -> Result<usize, String> {
        let mut at = 0;
        while let Some((line, start)) = line(input, at)? {
            let Some(message) = message(line)? else {
                self.on_line(line, &mut on);
                at = start;
                continue;
            };
            let end = start + message.bytes;
            if input.len() < end + 2 {
                break;
            }
            let payload = &input[start..end];
            match message.subscription {
                INBOX => on(Incoming::Message(payload)),
                _ => Self::on_reply(&message, payload, &mut on)?,
            }
            at = end + 2;
        }
        Ok(at)
    }
}

/// The line that starts at `at`, without its end, and where the next begins; none if it is not whole.
#[inline]
fn line(input: &[u8], at: usize) -> Result<Option<(&str, usize)>, String> {
    let rest = &input[at..];
    let Some(length) = rest.iter().position(|&byte| byte == b'\n') else {
        return if rest.len() > LINE_BYTES_MAX { Err("a line without end".to_owned()) } else { Ok(None) };
    };
    let text = std::str::from_utf8(&rest[..length]).map_err(|error| error.to_string())?;
    Ok(Some((text.trim_end_matches('\r'), at + length + 1)))
}

/// `MSG <subject> <subscription> [reply] <bytes>`.
#[inline]
fn message(line: &str) -> Result<Option<Message<'_>>, String> {
    let Some(rest) = line.strip_prefix("MSG ") else { return Ok(None) };
    let mut words = rest.split(' ');
    let (subject, subscription, last) = (words.next(), words.next(), words.next_back());
    let message = subject.zip(subscription).zip(last.and_then(|bytes| bytes.parse().ok()));
    let ((subject, subscription), bytes) = message.ok_or_else(|| format!("{line:?} is no MSG"))?;
    Ok(Some(Message { subject, subscription, bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(wire: &mut Nats, input: &[u8]) -> (usize, Vec<String>) {
        let mut heard = Vec::new();
        let used = wire.decode(input, 0, |incoming| heard.push(format!("{incoming:?}"))).expect("valid");
        (used, heard)
    }

    #[test]
    fn publications_and_messages() {
        let mut wire = Nats::new(false);
        let mut out = Vec::new();
        wire.send(b"bob", b"hi", 0, &mut out);
        assert_eq!(out, b"PUB m.bob 2\r\nhi\r\n");
        let input = b"INFO {}\r\nPING\r\nPONG\r\nMSG m.a 1 2\r\nhi\r\nMSG m.a 1 r.b.1 2\r\n\r\n\r\nMSG m.a 1 5\r\nhal";
        let (used, heard) = heard(&mut wire, input);
        assert_eq!(used, input.len() - 16);
        assert_eq!(heard[1..], ["Message([104, 105])", "Message([13, 10])"]);
        assert!(heard[0].starts_with("Welcome"));
        out.clear();
        wire.acknowledge(&mut out);
        wire.acknowledge(&mut out);
        assert_eq!(out, b"PONG\r\n");
    }

    #[test]
    fn a_stream_confirms_by_number() {
        let mut wire = Nats::new(true);
        let mut out = Vec::new();
        wire.login("a", b"", &mut out);
        assert!(out.ends_with(b"SUB m.a 1\r\nSUB r.a.* 2\r\nPING\r\n"));
        out.clear();
        wire.send(b"bob", b"hi", 0, &mut out);
        assert_eq!(out, b"PUB m.bob r.a.1 2\r\nhi\r\n");
        let (_, heard) = heard(&mut wire, b"MSG r.a.1 2 2\r\n{}\r\nMSG r.a.2 2 11\r\n{\"error\":1}\r\n");
        assert_eq!(heard[0], "Confirmed { first: 1, last: 1, level: Stored }");
        assert!(heard[1].starts_with("Refused { number: 2"), "{heard:?}");
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(Nats::default().decode(b"MSG a\r\n", 0, |_| ()).is_err());
        assert!(Nats::default().decode(&[b'x'; LINE_BYTES_MAX + 1], 0, |_| ()).is_err());
    }
}
