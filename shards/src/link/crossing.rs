//! Which of several links between two nodes lives (`docs/peer-protocol.md`, section 4; delivery rule 16): crossing dials, and
//! links that died at one end only. Pure: what the acceptor has is an argument, and the caller does what is decided.
//! [`on_hello`] judges a HELLO, whose sender has proven nothing yet: nothing may be closed for it. [`on_proof`] judges the
//! same HELLO again when its PROOF is right; then the new link takes the place of the old one and of the own dial.

use super::{Hello, LinkName, RefuseCode};
use crate::id::NodeId;

/// How far the own attempt to reach the other node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Dial {
    /// There is none.
    #[default]
    None,
    /// The other node has seen nothing of it, and perhaps never will: it is no reason to refuse what is there.
    Connecting,
    /// HELLO was sent; ACCEPT has not come.
    Greeted,
}

/// A link that is up here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Up {
    /// The link.
    pub name: LinkName,
    /// Which start of the other node is at its other end.
    pub boot: u64,
}

/// Whether HELLO is answered with ACCEPT, or refused. `own` is this node, `dial` its own attempt to reach the other one, and
/// `up` the link that it has with it.
///
/// Errors: [`RefuseCode::Crossed`] where there is a better attempt or link, [`RefuseCode::SameName`] where a later start of
/// the other node is linked.
pub fn on_hello(own: NodeId, hello: &Hello, dial: Dial, up: Option<&Up>) -> Result<(), RefuseCode> {
    if dial == Dial::Greeted && own < hello.party.node {
        return Err(RefuseCode::Crossed);
    }
    on_proof(hello, up)
}

/// Whether the link is up, now that the other node has proven itself. Then `up` is closed first, its unread bytes dropped,
/// and so is the own dial, however far it is. Errors: as [`on_hello`].
pub fn on_proof(hello: &Hello, up: Option<&Up>) -> Result<(), RefuseCode> {
    let Some(Up { name, boot }) = up else { return Ok(()) };
    let party = &hello.party;
    if party.boot != *boot {
        return if party.boot > *boot { Ok(()) } else { Err(RefuseCode::SameName) };
    }
    let is_older = name.dialer == party.node && name.attempt < hello.attempt;
    if is_older || hello.last == Some(*name) { Ok(()) } else { Err(RefuseCode::Crossed) }
}

/// Whether the own dial may send HELLO, or is to wait: `accepted` counts the other node's HELLOs that were answered with
/// ACCEPT and are neither proven nor given up. Two nodes that answer each other's would end with a link each.
#[must_use]
pub fn may_greet(accepted: usize, up: Option<&Up>) -> bool {
    accepted == 0 && up.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Party;

    const OWN: NodeId = NodeId(5);
    const OTHER: NodeId = NodeId(9);

    fn hello(node: NodeId, boot: u64, attempt: u64, last: Option<LinkName>) -> Hello {
        let (region, address) = (String::new(), String::new());
        let (is_edge, is_core, executors) = (true, true, 1);
        let party = Party { node, name: "n".into(), region, address, is_edge, is_core, executors, boot };
        let (version_min, version_max, cluster, cluster_hash) = (1, 1, "c".into(), 0);
        Hello { version_min, version_max, cluster, cluster_hash, party, attempt, last, nonce: [0; 32] }
    }

    #[test]
    fn of_two_dials_that_of_the_lower_node_lives() {
        let theirs = hello(OTHER, 1, 1, None);
        assert_eq!(on_hello(OWN, &theirs, Dial::Greeted, None), Err(RefuseCode::Crossed));
        assert_eq!(on_hello(NodeId(10), &theirs, Dial::Greeted, None), Ok(()));
        assert_eq!(on_hello(OWN, &theirs, Dial::Connecting, None), Ok(()));
        assert_eq!(on_hello(OWN, &theirs, Dial::None, None), Ok(()));
        assert_eq!(on_proof(&theirs, None), Ok(()));
    }

    #[test]
    fn a_link_is_replaced_by_a_later_attempt_or_start_and_by_who_says_it_is_dead() {
        let dialled = Up { name: LinkName { dialer: OTHER, boot: 3, attempt: 7 }, boot: 3 };
        let own = Up { name: LinkName { dialer: OWN, boot: 1, attempt: 2 }, boot: 3 };
        let cases = [
            (dialled, hello(OTHER, 3, 8, None), Ok(())),
            (dialled, hello(OTHER, 3, 7, None), Err(RefuseCode::Crossed)),
            (dialled, hello(OTHER, 3, 6, None), Err(RefuseCode::Crossed)),
            (dialled, hello(OTHER, 3, 6, Some(dialled.name)), Ok(())),
            (own, hello(OTHER, 3, 8, None), Err(RefuseCode::Crossed)),
            (own, hello(OTHER, 3, 8, Some(dialled.name)), Err(RefuseCode::Crossed)),
            (own, hello(OTHER, 3, 8, Some(own.name)), Ok(())),
            (own, hello(OTHER, 4, 1, None), Ok(())),
            (dialled, hello(OTHER, 4, 1, None), Ok(())),
            (own, hello(OTHER, 2, 8, Some(own.name)), Err(RefuseCode::SameName)),
        ];
        for (up, hello, verdict) in cases {
            assert_eq!(on_proof(&hello, Some(&up)), verdict, "{hello:?} where {up:?} is up");
            assert_eq!(on_hello(OWN, &hello, Dial::None, Some(&up)), verdict);
        }
    }

    #[test]
    fn a_dial_waits_for_what_was_accepted() {
        let up = Up { name: LinkName { dialer: OTHER, boot: 3, attempt: 7 }, boot: 3 };
        assert!(may_greet(0, None) && !may_greet(1, None) && !may_greet(0, Some(&up)));
    }
}
