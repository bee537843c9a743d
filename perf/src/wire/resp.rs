//! RESP 2, the protocol of Redis, to append messages to streams: XADD to `m.<recipient>`, one stream for each recipient.
//! The answer, the entry's id, confirms it as stored (the server is started with `appendfsync always`). Nobody listens.

use super::{Incoming, Level, Wire};
use std::io::Write;

/// Longer answers are not expected, bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// One connection.
#[derive(Debug, Default)]
pub struct Resp {
    answered: u64,
}

impl Wire for Resp {
    fn confirms(&self) -> bool {
        true
    }

    fn logs_in(&self) -> bool {
        true
    }

    fn login(&mut self, _user: &str, _token: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"*1\r\n$4\r\nPING\r\n");
    }

    #[inline]
    fn send(&mut self, recipient: &[u8], body: &[u8], _now_ns: u64, out: &mut Vec<u8>) {
        let _vec = write!(out, "*5\r\n$4\r\nXADD\r\n${}\r\nm.", recipient.len() + 2);
        out.extend_from_slice(recipient);
        let _vec = write!(out, "\r\n$1\r\n*\r\n$1\r\nb\r\n${}\r\n", body.len());
        out.extend_from_slice(body);
        out.extend_from_slice(b"\r\n");
    }

    #[inline]
    fn acknowledge(&mut self, _out: &mut Vec<u8>) {}

    /// Answers that came together are told together.
    #[inline]
    fn decode(&mut self, input: &[u8], _now_ns: u64, mut on: impl FnMut(Incoming<'_>)) -> Result<usize, String> {
        let (mut at, first) = (0, self.answered + 1);
        while let Some((kind, line, start)) = line(&input[at..])? {
            let mut used = start;
            match kind {
                b'+' => on(Incoming::Welcome { window_messages: u64::MAX, window_bytes: u64::MAX }),
                b'$' => {
                    let bytes: usize = line.parse().map_err(|_| format!("an answer of {line:?} bytes"))?;
                    used += bytes + 2;
                    if input.len() < at + used {
                        break;
                    }
                    self.answered += 1;
                }
                _ => on(Incoming::Closed(line.to_owned())),
            }
            at += used;
        }
        if self.answered >= first {
            on(Incoming::Confirmed { first, last: self.answered, level: Level::Stored });
        }
        Ok(at)
    }
}

/// The kind of the first answer, the rest of its first line, and where the next begins; none if it is not whole.
#[inline]
fn line(input: &[u8]) -> Result<Option<(u8, &str, usize)>, String> {
    let Some(length) = input.iter().position(|&byte| byte == b'\n') else {
        return if input.len() > ANSWER_BYTES_MAX { Err("an answer without end".to_owned()) } else { Ok(None) };
    };
    let text = std::str::from_utf8(&input[..length]).map_err(|error| error.to_string())?;
    let text = text.trim_end_matches('\r');
    let kind = *text.as_bytes().first().ok_or("an empty answer")?;
    Ok(Some((kind, text.get(1..).unwrap_or_default(), length + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_appended() {
        let mut out = Vec::new();
        Resp::default().send(b"bob", b"hi", 0, &mut out);
        assert_eq!(out, b"*5\r\n$4\r\nXADD\r\n$5\r\nm.bob\r\n$1\r\n*\r\n$1\r\nb\r\n$2\r\nhi\r\n");
    }

    #[test]
    fn answers_confirm_together() {
        let (mut wire, mut heard) = (Resp::default(), Vec::new());
        let input = b"+PONG\r\n$3\r\n1-0\r\n$3\r\n1-1\r\n$3\r\n1-";
        let used = wire.decode(input, 0, |incoming| heard.push(format!("{incoming:?}")));
        assert_eq!((used, heard.len()), (Ok(input.len() - 6), 2));
        assert_eq!(heard[1], "Confirmed { first: 1, last: 2, level: Stored }");
        heard.clear();
        let used = wire.decode(b"$3\r\n1-2\r\n-ERR no\r\n", 0, |incoming| heard.push(format!("{incoming:?}")));
        assert_eq!((used, heard[0].as_str()), (Ok(18), "Closed(\"ERR no\")"));
        assert_eq!(heard[1], "Confirmed { first: 3, last: 3, level: Stored }");
    }
}
