//! What edges and cores say to each other, over a link, the mesh, or within one executor.
//!
//! The same messages travel on every way; each way is first in, first out, and loses a suffix or nothing
//! (delivery rule 16). Bodies are shared, never copied.

use crate::frame::Code;
use crate::id::{
    Body, ExecutorId, Grant, Key, Location, Login, MessageId, NodeId, Phase, ReturnAddress, Sequence, Slot, UserId,
};

/// A message on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Sender and id.
    pub key: Key,
    /// When the sender's edge took it, in ms since the Unix epoch.
    pub sent_at: u64,
    /// The body.
    pub body: Body,
}

/// Why a message was not taken, and when trying again makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The stable code.
    pub code: Code,
    /// Milliseconds to wait before trying again; 0: trying again is useless.
    pub wait_ms: u32,
}

/// Who asked about a user's presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// The session that asked.
    pub login: Login,
    /// Its number for the question.
    pub request: u32,
}

/// What is known about a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PresenceState {
    /// Not connected; last seen at this time (ms since the Unix epoch), 0 if never.
    Offline {
        /// When the user was last seen to leave.
        last_seen: u64,
    },
    /// Connected.
    Online,
    /// The user's cores cannot be reached, or a limit was reached.
    Unknown,
}

/// To the core half of a node, at the home executor of the slot named by the action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToCore {
    /// A session begins, or is told again after a link or a lease was lost.
    Register {
        /// The user.
        user: UserId,
        /// Its login.
        login: Login,
        /// The phase of the session.
        phase: Phase,
        /// Whether this core is to send from the inbox, and the number that its deliveries are to carry.
        drain: Option<u32>,
        /// Whether this core was told of the session before. Then a higher login that it knows is a newer one, and not
        /// a clock that was ahead.
        again: bool,
    },
    /// A session has ended; counts only if this login is the one registered.
    Unregister {
        /// The user.
        user: UserId,
        /// Its login.
        login: Login,
    },
    /// The phase of a session has grown (delivery rules 5 and 17).
    PhaseGrown {
        /// The user.
        user: UserId,
        /// Its login.
        login: Login,
        /// The new phase.
        phase: Phase,
    },
    /// A message for the inbox (delivery rule 8).
    Append {
        /// The recipient.
        user: UserId,
        /// The message.
        message: Message,
        /// Where confirmations go.
        origin: ReturnAddress,
    },
    /// The recipient's client has taken these.
    Ack {
        /// The recipient.
        user: UserId,
        /// What was taken; a list, never "up to".
        keys: Vec<Key>,
    },
    /// Tell me about a user, once or from now on.
    Lookup {
        /// About whom.
        user: UserId,
        /// Who asks.
        asker: Asker,
        /// Whether changes are to be told too.
        watch: bool,
    },
    /// Tell me no more.
    Unwatch {
        /// About whom.
        user: UserId,
        /// Who asked.
        login: Login,
    },
    /// From the core of another replica.
    Replica(FromReplica),
}

/// From the core of another replica of the same slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromReplica {
    /// An entry that the other side keeps.
    Entry {
        /// The recipient.
        user: UserId,
        /// The message.
        message: Message,
        /// Whether it is on the other side's disk.
        flushed: bool,
    },
    /// An entry is on the other side's disk.
    Flushed {
        /// The recipient.
        user: UserId,
        /// Which.
        key: Key,
        /// The other side waits for the same word about it.
        asks: bool,
    },
    /// An entry was taken.
    Tombstone {
        /// The recipient.
        user: UserId,
        /// Which.
        key: Key,
        /// When, in ms since the Unix epoch.
        taken_at: u64,
    },
    /// What the other side has of a slot, told before `Offered`.
    Digest {
        /// The slot.
        slot: Slot,
        /// Independent of order: equal sets have equal digests. 0 for nothing.
        digest: u64,
    },
    /// To one executor, behind the digests of its slots: one executor of the other side has nothing else of these shards
    /// (delivery rule 14).
    Offered {
        /// Which executor says so.
        executor: ExecutorId,
        /// The round of the claims that this answers; another round's is void.
        round: u32,
        /// The shards.
        shards: Vec<u32>,
    },
    /// To one executor, behind the questions of one executor: it wants nothing more of what was offered.
    Compared {
        /// Which executor says so.
        executor: ExecutorId,
        /// The round that was offered.
        round: u32,
        /// The shards.
        shards: Vec<u32>,
    },
    /// Send everything of this slot.
    Want {
        /// The slot.
        slot: Slot,
    },
    /// The answer to `Want` and to `NoRoom`: everything of this slot was sent, or nothing more of it comes.
    Done {
        /// The slot.
        slot: Slot,
    },
    /// The disk of the other side had no room for a copy: do not wait for it, and send it nothing, until it wants everything
    /// of this slot.
    NoRoom {
        /// The slot.
        slot: Slot,
    },
}

/// To the core half of every executor of a node: what concerns no single slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToCores {
    /// From an edge executor: its presences are alive.
    Refresh(ExecutorId),
    /// From a core executor: how it stands to some shards.
    Claims(Box<Claims>),
}

/// How one executor of a core stands to some shards (delivery rule 18).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Which executor says so.
    pub executor: ExecutorId,
    /// How many executors that node has.
    pub executors: u16,
    /// Which round of that executor; `Offered` answers it. 0: nothing is to be offered.
    pub round: u32,
    /// The other side is to tell its own claims of these shards.
    pub asks: bool,
    /// One for each shard.
    pub claims: Vec<Claim>,
}

/// How one executor of a core stands to one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The shard.
    pub shard: u32,
    /// Who keeps it, as that node sees it. Ascending.
    pub replicas: Vec<NodeId>,
    /// What it is to them.
    pub standing: Standing,
}

/// What an executor of a core is to a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It does not keep it, and has nothing of it.
    Outside,
    /// It does not keep it any more, its log says so, and what is left of it is handed over.
    Handing,
    /// It does not keep it any more, and its log does not say so yet.
    Leaving,
    /// It keeps it, and its log has no mark.
    Joining,
    /// It keeps it, its log has the mark, and somebody who kept it before has not agreed to the present replicas.
    Unsettled,
    /// It keeps it, its log has the mark, and everybody who kept it before has agreed to the present replicas.
    Settled,
}

/// To the edge half of one executor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToEdge {
    /// A core knows a higher login of the user; stamp again (delivery rule 10).
    Outnumbered {
        /// The session.
        to: Login,
        /// The core that says so.
        core: NodeId,
        /// The login it knows.
        known: Login,
    },
    /// A higher login has replaced this session.
    Replaced {
        /// The session to end.
        to: Login,
    },
    /// An entry of the inbox.
    Deliver {
        /// The recipient's session.
        to: Login,
        /// The core that drains.
        core: NodeId,
        /// The number of the registration that asked for it (delivery rule 13).
        drain: u32,
        /// The message.
        message: Message,
    },
    /// A run of messages of one pair, straight from the sender's edge (delivery rule 5).
    Direct {
        /// The recipient's session and phase.
        to: Grant,
        /// The messages, in the order of sending.
        messages: Vec<Message>,
        /// Where confirmations and bounces of the first go; the others have the sequences behind it.
        origin: ReturnAddress,
    },
    /// A run of messages of one pair is on disk on that many nodes.
    Stored {
        /// The first of them.
        to: ReturnAddress,
        /// The last sequence of the run.
        last: Sequence,
        /// The highest id of the run.
        newest: MessageId,
        /// How many nodes.
        copies: u8,
    },
    /// A run of messages of one pair was acknowledged by the recipient's client.
    Delivered {
        /// The first of them.
        to: ReturnAddress,
        /// The last sequence of the run.
        last: Sequence,
        /// From a core that has nothing older of this sender: up to which id that holds, and the grant.
        grant: Option<Box<(MessageId, Grant)>>,
    },
    /// A direct message was not taken (delivery rule 3).
    Bounce {
        /// Which.
        to: ReturnAddress,
    },
    /// A core did not take a message.
    Refused {
        /// Which.
        to: ReturnAddress,
        /// Why.
        refusal: Refusal,
    },
    /// The answer to LOOKUP or WATCH, or a change.
    Presence {
        /// Who asked.
        to: Asker,
        /// About whom.
        user: UserId,
        /// What is known.
        state: PresenceState,
    },
    /// The lease of this edge executor ended at that core: register again what is there.
    LeaseEnded {
        /// Which core.
        core: NodeId,
    },
}

/// A message between nodes or executors, with its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// To the core half of `node`, at the home executor of `slot`.
    Core {
        /// Which core.
        node: NodeId,
        /// Whose slot.
        slot: Slot,
        /// What.
        message: ToCore,
    },
    /// To the core half of every executor of `node`.
    Cores {
        /// Which core.
        node: NodeId,
        /// What.
        message: ToCores,
    },
    /// To the edge half of one executor (`at.session` tells nothing more than the message does).
    Edge {
        /// Which executor.
        at: Location,
        /// What.
        message: ToEdge,
    },
}
