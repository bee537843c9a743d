//! XMPP (RFC 6120, 6121), as little of it as users need: SASL PLAIN, a resource, chat messages to a full address. Nothing is
//! acknowledged. XML carries no binary bytes, so the head of a body travels in hexadecimal; its padding is text already.

use super::{Incoming, Wire};
use crate::body::HEAD_BYTES;
use std::io::Write;

/// The server's name. `scripts/peers` configures it.
const DOMAIN: &str = "localhost";
const RESOURCE: &str = "p";
const HEX: &[u8; 16] = b"0123456789abcdef";
/// Larger elements are not expected, bytes.
const ELEMENT_BYTES_MAX: usize = 1 << 20;

/// One connection.
#[derive(Debug, Default)]
pub struct Xmpp {
    user: String,
    password: Vec<u8>,
    is_authenticated: bool,
    /// What the server's words call for.
    owed: Vec<u8>,
    body: Vec<u8>,
}

/// Something whole at the top level of the stream.
enum Item<'a> {
    /// The header, a declaration, white space.
    Nothing,
    /// The end of the stream.
    End,
    /// An element with everything in it.
    Element { name: &'a [u8], text: &'a [u8] },
}

impl Xmpp {
    fn header(out: &mut Vec<u8>) {
        let names = "xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'";
        let _vec = write!(out, "<stream:stream to='{DOMAIN}' {names} version='1.0'>");
    }

    fn on_features(&mut self) {
        if self.is_authenticated {
            let bind = "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>";
            let _vec = write!(self.owed, "<iq type='set' id='b'>{bind}<resource>{RESOURCE}</resource></bind></iq>");
            return;
        }
        let proof = [b"\0", self.user.as_bytes(), b"\0", &self.password].concat();
        self.owed.extend_from_slice(b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>");
        base64(&proof, &mut self.owed);
        self.owed.extend_from_slice(b"</auth>");
    }

    fn on_element(&mut self, name: &[u8], text: &[u8], on: &mut impl FnMut(Incoming<'_>)) -> Result<(), String> {
        let words = || String::from_utf8_lossy(text).into_owned();
        match name {
            b"message" if has(text, b"<error") => on(Incoming::Closed(words())),
            b"message" => {
                self.take(text)?;
                on(Incoming::Message(&self.body));
            }
            b"stream:features" => self.on_features(),
            b"success" => {
                self.is_authenticated = true;
                Self::header(&mut self.owed);
            }
            b"iq" if has(text, b"<jid>") => {
                on(Incoming::Welcome { window_messages: u64::MAX, window_bytes: u64::MAX });
            }
            b"iq" | b"failure" | b"stream:error" => on(Incoming::Closed(words())),
            _ => {}
        }
        Ok(())
    }

    /// Makes the body again of its text.
    fn take(&mut self, text: &[u8]) -> Result<(), String> {
        let (start, end) = (find(text, b"<body>"), find(text, b"</body>"));
        let inside =
            start.zip(end).and_then(|(start, end)| text.get(start + 6..end)).ok_or("a message without body")?;
        self.body.clear();
        let (head, padding) = inside.split_at(inside.len().min(HEAD_BYTES * 2));
        for pair in head.chunks_exact(2) {
            let digit = |at: usize| (pair[at] as char).to_digit(16).ok_or("a head that is not hexadecimal");
            self.body.push((digit(0)? << 4 | digit(1)?) as u8);
        }
        self.body.extend_from_slice(padding);
        Ok(())
    }
}

impl Wire for Xmpp {
    fn confirms(&self) -> bool {
        false
    }

    fn logs_in(&self) -> bool {
        true
    }

    fn login(&mut self, user: &str, token: &[u8], out: &mut Vec<u8>) {
        self.user = user.to_owned();
        self.password = if token.is_empty() { b"x".to_vec() } else { token.to_vec() };
        out.extend_from_slice(b"<?xml version='1.0'?>");
        Self::header(out);
    }

    #[inline]
    fn send(&mut self, recipient: &[u8], body: &[u8], _now_ns: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"<message to='");
        out.extend_from_slice(recipient);
        let _vec = write!(out, "@{DOMAIN}/{RESOURCE}' type='chat'><body>");
        let (head, padding) = body.split_at(HEAD_BYTES.min(body.len()));
        for byte in head {
            out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]]);
        }
        out.extend_from_slice(padding);
        out.extend_from_slice(b"</body></message>");
    }

    #[inline]
    fn acknowledge(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.owed);
    }

    fn decode(&mut self, input: &[u8], _now_ns: u64, mut on: impl FnMut(Incoming<'_>)) -> Result<usize, String> {
        let mut at = 0;
        while let Some((item, used)) = item(&input[at..]) {
            at += used;
            match item {
                Item::Nothing => {}
                Item::End => on(Incoming::Closed("the server ended the stream".to_owned())),
                Item::Element { name, text } => self.on_element(name, text, &mut on)?,
            }
        }
        if input.len() - at > ELEMENT_BYTES_MAX { Err("an element without end".to_owned()) } else { Ok(at) }
    }
}

/// The first item of `input` and its length; none if it is not whole. Servers escape `>` in attributes, and no element
/// here holds another of its own name, so that this need not be an XML parser.
fn item(input: &[u8]) -> Option<(Item<'_>, usize)> {
    if input.first()?.is_ascii_whitespace() {
        return Some((Item::Nothing, 1));
    }
    let tag_end = find(input, b">")? + 1;
    let tag = &input[..tag_end];
    let name_end = tag.iter().skip(1).position(|byte| b" />\t\r\n".contains(byte))? + 1;
    let name = &tag[1.min(name_end)..name_end];
    if tag.starts_with(b"<?") || name == b"stream:stream" {
        return Some((Item::Nothing, tag_end));
    }
    if tag.starts_with(b"</") {
        return Some((Item::End, tag_end));
    }
    if tag.ends_with(b"/>") {
        return Some((Item::Element { name, text: tag }, tag_end));
    }
    let closing = [b"</", name, b">"].concat();
    let end = tag_end + find(&input[tag_end..], &closing)? + closing.len();
    Some((Item::Element { name, text: &input[..end] }, end))
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let first = from + text.get(from..)?.iter().position(|byte| *byte == word[0])?;
        if text[first..].starts_with(word) {
            return Some(first);
        }
        from = first + 1;
    }
}

fn has(text: &[u8], word: &[u8]) -> bool {
    find(text, word).is_some()
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(*chunk.get(at).unwrap_or(&0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let is_padding = digit > chunk.len();
            out.push(if is_padding { b'=' } else { DIGITS[(group >> (18 - 6 * digit) & 63) as usize] });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(wire: &mut Xmpp, input: &[u8]) -> (usize, Vec<String>) {
        let mut heard = Vec::new();
        let used = wire.decode(input, 0, |incoming| heard.push(format!("{incoming:?}"))).expect("valid");
        (used, heard)
    }

    #[test]
    fn the_login_goes_step_by_step() {
        let (mut wire, mut out) = (Xmpp::default(), Vec::new());
        wire.login("ab", b"", &mut out);
        let mut answer = |input: &[u8]| {
            let heard = heard(&mut wire, input);
            let mut out = Vec::new();
            wire.acknowledge(&mut out);
            (String::from_utf8(out).expect("text"), heard.1.len())
        };
        let features = b"<?xml version='1.0'?><stream:stream id='1'><stream:features><x/></stream:features>";
        let (said, _) = answer(features);
        assert!(said.ends_with("mechanism='PLAIN'>AGFiAHg=</auth>"), "{said}");
        assert!(answer(b"<success xmlns='s'/>").0.starts_with("<stream:stream "));
        assert!(answer(features).0.starts_with("<iq type='set'"));
        assert_eq!(answer(b"<iq id='b'><bind><jid>ab@localhost/p</jid></bind></iq>"), (String::new(), 1));
    }

    #[test]
    fn bodies_come_back_and_cut_elements_wait() {
        let (mut wire, mut out) = (Xmpp::default(), Vec::new());
        let body = [&(0..HEAD_BYTES as u8).map(|byte| byte * 11).collect::<Vec<_>>()[..], b"...."].concat();
        wire.send(b"b", &body, 0, &mut out);
        let cut = out.len();
        out.extend_from_slice(b" <message><bo");
        let (used, heard) = heard(&mut wire, &out);
        assert_eq!((used, heard), (cut + 1, vec![format!("{:?}", Incoming::Message(&body))]));
    }

    #[test]
    fn ends_and_errors_are_told() {
        let words = |input: &[u8]| heard(&mut Xmpp::default(), input).1.concat();
        assert!(words(b"</stream:stream>").starts_with("Closed"));
        assert!(words(b"<failure><not-authorized/></failure>").contains("not-authorized"));
        assert!(words(b"<message type='error'><error/></message>").starts_with("Closed"));
        assert!(Xmpp::default().decode(b"<message></message>", 0, |_| ()).is_err());
    }

    #[test]
    fn base64_is_padded() {
        let of = |bytes: &[u8]| {
            let mut out = Vec::new();
            base64(bytes, &mut out);
            String::from_utf8(out).expect("text")
        };
        assert_eq!([of(b"f"), of(b"fo"), of(b"foo"), of(b"")], ["Zg==", "Zm8=", "Zm9v", ""]);
    }
}
