//! Promise 5: the newest login wins, and presence tells the truth when nothing changes any more.

use iris_shards::peer::PresenceState;

use super::{Verdict, ensure};
use crate::connection::Connection;
use crate::ledger::{ClientIx, ConnectionIx};

/// At rest: a user has one served connection, the one its client reads.
pub fn one_session(client: ClientIx, current: Option<ConnectionIx>, connections: &[Connection]) -> Verdict {
    for (ix, connection) in connections.iter().enumerate() {
        let served = connection.client == client && connection.is_served && !connection.is_ended;
        ensure(!served || current == Some(ix), "login", || {
            format!("user {client} is at connection {current:?}, and connection {ix} is served too")
        })?;
    }
    Ok(())
}

/// `taken_over` needs somebody who takes over: another connection of the same user.
pub fn taken_over(of: ConnectionIx, connections: &[Connection]) -> Verdict {
    let client = connections[of].client;
    let others = connections.iter().enumerate().filter(|(ix, other)| *ix != of && other.client == client);
    let has_rival = others.into_iter().any(|(_, other)| other.at_home);
    ensure(has_rival, "login", || format!("connection {of} of user {client} was taken over by nobody"))
}

/// At rest: the answer to LOOKUP.
pub fn presence(about: ClientIx, online: bool, state: Option<PresenceState>) -> Verdict {
    let right = match state {
        Some(PresenceState::Online) => online,
        Some(PresenceState::Offline { .. }) => !online,
        _ => false,
    };
    ensure(right, "login", || format!("LOOKUP of user {about}: {state:?}, online is {online}"))
}
