//! The vocabulary that crosses the wall: events into the machines, actions out of them.
//!
//! The contract: `handle(now, event, &mut actions)` appends actions in the order in which they are to be performed.
//! The shell performs every action, and reports what comes of it as another event.

use std::sync::Arc;

use crate::frame::{ClientFrame, Code};
use crate::id::{MessageId, NodeId, Sequence, SessionId, UserId};
use crate::peer::{Message, Peer, PresenceState, Refusal, ToCore, ToCores, ToEdge};
use crate::placement::Placement;
use crate::storage::{StorageEvent, StorageRequest};

/// Into the edge half.
#[derive(Debug)]
pub enum EdgeEvent<'a> {
    /// A connection was accepted; it has not said HELLO. `session` is free until the machine is told `Gone`.
    Opened(SessionId),
    /// A frame of a client. The first is HELLO, at the home executor of its user.
    Frame(SessionId, ClientFrame<'a>),
    /// What a client sent is no frame.
    Garbage(SessionId, Code),
    /// More bytes wait for this client than `out_bytes_max`.
    Overfull(SessionId),
    /// The connection has ended, or was handed over to another executor before its HELLO.
    Gone(SessionId),
    /// From a core or another edge.
    Peer(ToEdge),
    /// The link to this node is up: the first of it, or again.
    LinkUp(NodeId),
    /// The link to this node was lost, with everything on it. Of a node that was never up: it cannot be reached now.
    LinkDown(NodeId),
    /// This core will stop soon: another replica is preferred where there is one.
    Leaving(NodeId),
    /// Who keeps what has changed.
    Placement(Arc<Placement>),
    /// The node is asked to stop: clients move away within this many milliseconds.
    Drain {
        /// Over which time reconnects are spread.
        within_ms: u32,
    },
    /// The node stops now: every client is closed with `draining`.
    Stop,
    /// Time has passed.
    Tick,
}

/// Into the core half.
#[derive(Debug)]
pub enum CoreEvent {
    /// From an edge or another core.
    Peer(NodeId, ToCore),
    /// From an edge or another core, to all executors of this one.
    Cores(NodeId, ToCores),
    /// From the storage engine.
    Storage(StorageEvent),
    /// Recovery has told everything that it found.
    Recovered,
    /// The link to this node is up: the first of it, or again.
    LinkUp(NodeId),
    /// The link to this node was lost, with everything on it. Of a node that was never up: it cannot be reached now.
    LinkDown(NodeId),
    /// Who keeps what has changed.
    Placement(Arc<Placement>),
    /// The node stops soon: nothing waits in memory from now on. See [`crate::core_node::CoreNode::has_left`].
    Leave,
    /// Time has passed.
    Tick,
}

/// What a client hears when its connection is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Farewell {
    /// Why.
    pub code: Code,
    /// How long it is to stay away, in ms; 0 for no wish.
    pub wait_ms: u32,
    /// For people.
    pub reason: &'static str,
}

/// Out of both halves.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// WELCOME to a client: the limits and names that the shell knows, and what was negotiated.
    Welcome {
        /// To whom.
        session: SessionId,
        /// The user who logged in.
        user: UserId,
        /// The capabilities that both sides have.
        capabilities: u64,
        /// The server's clock, in ms since the Unix epoch.
        clock_ms: u64,
    },
    /// DELIVER a run of messages to a client.
    Deliver {
        /// To whom.
        session: SessionId,
        /// The number of the first delivery on its connection; the others have those behind it.
        sequence: Sequence,
        /// What.
        messages: Vec<Message>,
    },
    /// CONFIRM a run of sequences to a client.
    Confirm {
        /// To whom.
        session: SessionId,
        /// How far the messages came.
        level: Level,
        /// First and last sequence of the run.
        run: (Sequence, Sequence),
    },
    /// REFUSED to a client.
    Refuse {
        /// To whom.
        session: SessionId,
        /// Which SEND.
        sequence: Sequence,
        /// Why.
        refusal: Refusal,
    },
    /// PRESENCE to a client.
    Presence {
        /// To whom.
        session: SessionId,
        /// The number of its LOOKUP or WATCH.
        request: u32,
        /// About whom.
        user: UserId,
        /// What is known.
        state: PresenceState,
    },
    /// PONG to a client.
    Pong {
        /// To whom.
        session: SessionId,
        /// The token of its PING.
        token: u64,
    },
    /// DRAIN to a client.
    Drain {
        /// To whom.
        session: SessionId,
        /// After which time it is to reconnect.
        wait_ms: u32,
    },
    /// CLOSE to a client, then the end of the connection. The machine has forgotten the session; `Gone` still follows.
    Close {
        /// Whom.
        session: SessionId,
        /// Why.
        farewell: Farewell,
    },
    /// To another half, executor or node.
    Peer(Peer),
    /// A link to this node is wanted. Answered by `LinkUp`, or by `LinkDown` and, where the shell goes on trying (as it
    /// does for cores), by `LinkUp` later. Wanting it twice is wanting it once.
    Connect {
        /// Which node.
        node: NodeId,
        /// A core that may know its address; `None` for a node of the placement.
        via: Option<NodeId>,
    },
    /// To the storage engine.
    Storage(StorageRequest),
    /// A message was lost to a damaged disk: for the log of the operator and the counters.
    Lost {
        /// Whose.
        user: UserId,
        /// Which.
        id: MessageId,
    },
}

/// How far a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// On the disks of that many nodes.
    Stored {
        /// How many.
        copies: u8,
    },
    /// Acknowledged by the recipient's client.
    Delivered,
}
