//! Every bound of the machines, in one place. The shell fills it from the configuration; `Default` is `conf/laptop.ron`.

/// The bounds of the edge half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeLimits {
    /// A connection says HELLO within this time, in ms, or is closed.
    pub hello_ms_max: u64,
    /// A client says something within this time, in ms, or is closed; 0 for never.
    pub silent_ms_max: u64,
    /// Unanswered messages per client. Exceeded: closed with `window_exceeded`.
    pub window_messages: u32,
    /// Bytes of bodies of unanswered messages per client. Exceeded: closed with `window_exceeded`.
    pub window_bytes: u32,
    /// The largest body, in bytes. Larger: refused with `body_too_large`.
    pub body_bytes_max: u32,
    /// Direct deliveries without an acknowledgement per client. Exceeded: they go to the inbox (rule 17).
    pub delivery_messages_max: u32,
    /// Bytes of bodies of the same.
    pub delivery_bytes_max: u32,
    /// A direct delivery is acknowledged within this time, in ms, or goes to the inbox (rule 17).
    pub delivery_ms_max: u64,
    /// Recipients per client that the router remembers. Exceeded by busy ones: refused with `too_many_recipients`.
    pub pairs_max: u32,
    /// Watched users, and lookups without an answer, per client. Exceeded: answered `unknown`.
    pub watches_max: u32,
    /// Bytes of bodies at the senders' edge per executor. Exceeded: refused with `busy`.
    pub outstanding_bytes_max: u64,
    /// How far an id may be ahead of the edge's clock, in ms. Farther: refused with `bad_id`.
    pub id_ahead_ms_max: u64,
    /// How old an id may be, in ms. Older: refused with `bad_id`.
    pub id_age_ms_max: u64,
    /// Refresh presences this often, in ms (a third of the lease).
    pub refresh_ms: u64,
    /// What `busy`, `unavailable` and `disk_full` tell clients to wait, in ms.
    pub retry_ms: u32,
}

impl Default for EdgeLimits {
    fn default() -> Self {
        EdgeLimits {
            hello_ms_max: 10_000,
            silent_ms_max: 300_000,
            window_messages: 1_024,
            window_bytes: 4 << 20,
            body_bytes_max: 64 << 10,
            delivery_messages_max: 1_024,
            delivery_bytes_max: 4 << 20,
            delivery_ms_max: 500,
            pairs_max: 1_024,
            watches_max: 1_024,
            outstanding_bytes_max: 256 << 20,
            id_ahead_ms_max: 60_000,
            id_age_ms_max: 30 * 86_400_000,
            refresh_ms: 5_000,
            retry_ms: 1_000,
        }
    }
}

/// The bounds of the core half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreLimits {
    /// Messages per inbox. Reached: refused with `inbox_full`.
    pub inbox_messages_max: u32,
    /// Bytes of bodies per inbox. Reached: refused with `inbox_full`.
    pub inbox_bytes_max: u64,
    /// How long an inbox keeps a message, in ms; at most `id_age_ms_max` of the edges. Older: dropped, counted, and
    /// `expired` is told where the sender is still there.
    pub inbox_age_ms_max: u64,
    /// Unacknowledged messages that one recipient is sent from its inbox.
    pub page_messages: u32,
    /// Bytes of bodies of the same.
    pub page_bytes: u32,
    /// An entry of a present recipient is logged when it is this old, in ms (rule 1).
    pub log_delay_ms: u64,
    /// Bytes of bodies per executor that wait for `log_delay_ms`. Reached: an inbox that grows is logged at once.
    pub unlogged_bytes_max: u64,
    /// Bytes of bodies per executor that wait for the disk. Reached: refused with `busy`.
    pub unflushed_bytes_max: u64,
    /// How long a taken message is remembered at least, in ms (rule 15), unless `tombstones_max` is reached.
    pub tombstone_keep_ms: u64,
    /// Remembered taken messages per executor. Reached: the oldest are forgotten.
    pub tombstones_max: usize,
    /// A recipient that let direct messages wait (rule 17) is not granted again for this time, in ms: until it is, its
    /// senders hear `stored` within `log_delay_ms` and need not wait for a bounce.
    pub grant_pause_ms: u64,
    /// Watchers per user. Reached: answered `unknown`.
    pub watchers_max: usize,
    /// Users without session, messages and tombstones that an executor remembers (for `last_seen`). Reached: some are
    /// forgotten.
    pub absent_users_max: usize,
    /// Of a store that all cores share: an inbox whose user is there is read again after this time, in ms. Shows what was
    /// stored by a core that has died since and that nobody knew to keep the shard.
    pub read_again_ms: u64,
    /// An edge that is not heard for this time, in ms, has no presences any more.
    pub lease_ms: u64,
    /// `stored` is said with at least this many copies (rule 8).
    pub copies_min: u8,
    /// What `busy`, `unavailable` and `disk_full` tell clients to wait, in ms.
    pub retry_ms: u32,
}

impl Default for CoreLimits {
    fn default() -> Self {
        CoreLimits {
            inbox_messages_max: 2_000_000,
            inbox_bytes_max: 4 << 30,
            inbox_age_ms_max: 30 * 86_400_000,
            page_messages: 256,
            page_bytes: 1 << 20,
            log_delay_ms: 100,
            unlogged_bytes_max: 16 << 20,
            unflushed_bytes_max: 64 << 20,
            tombstone_keep_ms: 120_000,
            tombstones_max: 50_000,
            grant_pause_ms: 10_000,
            watchers_max: 1_024,
            absent_users_max: 1_000_000,
            read_again_ms: 600_000,
            lease_ms: 15_000,
            copies_min: 1,
            retry_ms: 1_000,
        }
    }
}
