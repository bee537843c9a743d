//! Confirmations to a sender: every SEND has one first answer, any may be followed by `delivered`, and first
//! confirmations of one recipient come in the order of sending (delivery rule 6).

use iris_shards::event::Level;
use iris_shards::id::Sequence;

use super::{Verdict, acknowledged, ensure};
use crate::connection::{Answer, Connection};
use crate::ledger::Ledger;
use crate::plan::Plan;

/// CONFIRM for a run of sequences, as an edge wrote it.
pub fn confirm(
    ledger: &Ledger,
    plan: &Plan,
    connection: &mut Connection,
    level: Level,
    run: (Sequence, Sequence),
) -> Verdict {
    ensure(run.0.0 >= 1 && run.0 <= run.1 && run.1.0 <= connection.sent.len() as u64, "confirmed", || {
        format!("CONFIRM of {run:?} on a connection with {} SENDs", connection.sent.len())
    })?;
    for sequence in run.0.0..=run.1.0 {
        confirm_one(ledger, plan, connection, level, sequence as usize - 1)?;
    }
    Ok(())
}

fn confirm_one(ledger: &Ledger, plan: &Plan, connection: &mut Connection, level: Level, at: usize) -> Verdict {
    let (message, before) = connection.sent[at];
    let next = match level {
        Level::Stored { .. } => Answer::Stored,
        Level::Delivered => Answer::Delivered,
    };
    let is_first = before == Answer::None;
    let is_second = before != Answer::None && next == Answer::Delivered;
    ensure(is_first || is_second, "confirmed", || format!("message {message} was {before:?}, then {next:?}"))?;
    if is_first {
        let to = ledger.notes[message].to;
        let unanswered = &connection.sent[connection.answered_below..at];
        let older = unanswered.iter().find(|(older, answer)| *answer == Answer::None && ledger.notes[*older].to == to);
        ensure(older.is_none(), "confirmed", || {
            format!(
                "message {message} was confirmed before message {:?} of the same pair",
                older.map(|(older, _)| older)
            )
        })?;
    }
    if let Level::Stored { copies } = level {
        let claimed = ledger.notes[message].claimed;
        ensure(copies >= plan.core.copies_min && copies <= claimed, "confirmed", || {
            format!("CONFIRM stored({copies}) of message {message} while cores claimed {claimed}")
        })?;
    } else {
        acknowledged::delivered(ledger, message)?;
    }
    if before != Answer::Refused {
        connection.sent[at].1 = next;
    }
    advance(connection);
    Ok(())
}

/// REFUSED, as an edge wrote it.
pub fn refuse(connection: &mut Connection, sequence: Sequence) -> Verdict {
    let count = connection.sent.len();
    let sent = connection.sent.get_mut((sequence.0 as usize).wrapping_sub(1));
    let before = sent.as_ref().map(|sent| sent.1);
    ensure(before == Some(Answer::None), "confirmed", || format!("REFUSED {sequence:?} of {count} was {before:?}"))?;
    if let Some(sent) = sent {
        sent.1 = Answer::Refused;
    }
    advance(connection);
    Ok(())
}

fn advance(connection: &mut Connection) {
    while connection.sent.get(connection.answered_below).is_some_and(|(_, answer)| *answer != Answer::None) {
        connection.answered_below += 1;
    }
}
