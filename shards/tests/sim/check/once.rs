//! Promise 2: once by id. An application never takes the same message twice, and takes what was sent to it.

use super::{Verdict, ensure};
use crate::ledger::{ClientIx, Ledger, MessageIx};

/// A client's application takes a message.
pub fn take(ledger: &Ledger, client: ClientIx, message: MessageIx) -> Verdict {
    let note = &ledger.notes[message];
    ensure(note.taken == 0, "once", || format!("user {client} took message {message} twice: {note:?}"))
}

/// DELIVER to a client, as a server wrote it.
pub fn deliver(ledger: &Ledger, client: ClientIx, found: Option<MessageIx>, body: &[u8]) -> Verdict {
    let Some(message) = found else {
        return ensure(false, "once", || format!("user {client} was sent a message that nobody sent"));
    };
    let note = &ledger.notes[message];
    ensure(note.to == client, "once", || format!("user {client} was sent message {message} of another: {note:?}"))?;
    ensure(body == ledger.body(message), "once", || format!("the body of message {message} has changed: {note:?}"))
}
