//! Reasons on the wire: the `code` of CLOSE and REFUSED (`docs/protocol.md`, section 8).
//! Numbers are stable and never reused; a test compares this list with the table of the document.

use std::fmt;

/// A reason for CLOSE or REFUSED. A number from a newer peer may be none of these, so frames carry the bare `u16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Code {
    /// Nothing is wrong.
    Normal = 0,
    /// A frame could not be decoded, or not at this point.
    ProtocolError = 1,
    /// A frame larger than `frame_bytes_max`.
    FrameTooLarge = 2,
    /// No common protocol version.
    Version = 3,
    /// The user id of HELLO is not valid.
    BadUser = 4,
    /// The token is missing, invalid or expired.
    Unauthorized = 5,
    /// No HELLO within `hello_ms_max`.
    HelloTimeout = 6,
    /// Nothing was heard for `silent_ms_max`.
    Silent = 7,
    /// The user logged in again elsewhere.
    TakenOver = 8,
    /// The server stops; reconnect after `wait_ms`.
    Draining = 9,
    /// More unanswered messages than the window.
    WindowExceeded = 10,
    /// The client does not read what it asked for.
    SlowReader = 11,
    /// The server failed; reconnect after `wait_ms`.
    Internal = 12,
    /// A body larger than `body_bytes_max`.
    BodyTooLarge = 20,
    /// The recipient's id is not valid.
    BadRecipient = 21,
    /// No UUIDv7, too far ahead, or too old.
    BadId = 22,
    /// The recipient's inbox has reached a limit of count or bytes.
    InboxFull = 23,
    /// A limit of the server was reached.
    Busy = 24,
    /// The nodes that own the user cannot be reached.
    Unavailable = 25,
    /// The server cannot store messages at present.
    DiskFull = 26,
    /// More than `pairs_max` recipients with unanswered or undelivered messages.
    TooManyRecipients = 27,
    /// The message waited longer than the inbox keeps messages.
    Expired = 28,
}

impl Code {
    /// Every code, in ascending order of numbers.
    pub const ALL: [Self; 22] = [
        Self::Normal,
        Self::ProtocolError,
        Self::FrameTooLarge,
        Self::Version,
        Self::BadUser,
        Self::Unauthorized,
        Self::HelloTimeout,
        Self::Silent,
        Self::TakenOver,
        Self::Draining,
        Self::WindowExceeded,
        Self::SlowReader,
        Self::Internal,
        Self::BodyTooLarge,
        Self::BadRecipient,
        Self::BadId,
        Self::InboxFull,
        Self::Busy,
        Self::Unavailable,
        Self::DiskFull,
        Self::TooManyRecipients,
        Self::Expired,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The code of a number; `None` for a number that this version does not know.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.number() == number)
    }

    /// The name in the table of section 8, for logs, metrics and `reason`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::ProtocolError => "protocol_error",
            Self::FrameTooLarge => "frame_too_large",
            Self::Version => "version",
            Self::BadUser => "bad_user",
            Self::Unauthorized => "unauthorized",
            Self::HelloTimeout => "hello_timeout",
            Self::Silent => "silent",
            Self::TakenOver => "taken_over",
            Self::Draining => "draining",
            Self::WindowExceeded => "window_exceeded",
            Self::SlowReader => "slow_reader",
            Self::Internal => "internal",
            Self::BodyTooLarge => "body_too_large",
            Self::BadRecipient => "bad_recipient",
            Self::BadId => "bad_id",
            Self::InboxFull => "inbox_full",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::DiskFull => "disk_full",
            Self::TooManyRecipients => "too_many_recipients",
            Self::Expired => "expired",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_and_the_code_have_the_same_table() {
        let document = include_str!("../../../docs/protocol.md");
        let (_, section) = document.split_once("\n## 8. Codes\n").expect("section 8");
        let written: Vec<(u16, &str)> = section.lines().filter_map(row).collect();
        let known: Vec<(u16, &str)> = Code::ALL.iter().map(|code| (code.number(), code.name())).collect();
        assert_eq!(written, known);
    }

    fn row(line: &str) -> Option<(u16, &str)> {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let number = cells.next()?.parse().ok()?;
        Some((number, cells.next()?.trim_matches('`')))
    }

    #[test]
    fn numbers_lead_back_to_their_codes() {
        for number in 0..=u16::MAX {
            let listed = Code::ALL.into_iter().find(|code| code.number() == number);
            assert_eq!(Code::from_number(number), listed);
        }
        assert_eq!(Code::from_number(13), None);
        assert_eq!(Code::InboxFull.to_string(), "inbox_full");
    }
}
