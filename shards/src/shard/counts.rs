//! What a core half counts.

/// The shards that an executor of a cluster has a part of; none where a node is alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeptShards {
    /// Those that this node keeps.
    pub kept: u64,
    /// Of these, the ones whose other replicas are all there and have everything.
    pub in_step: u64,
}

/// Counters of the core half, never reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CoreCounts {
    /// Messages put into an inbox.
    pub appended: u64,
    /// Messages for which `stored` was told, or would have been if the sender were still there.
    pub stored: u64,
    /// Messages of an inbox that were taken.
    pub taken: u64,
    /// Messages sent from an inbox.
    pub drained: u64,
    /// Messages that were there already.
    pub repeated: u64,
    /// Messages dropped because they were too old.
    pub expired: u64,
    /// Messages lost to a damaged disk.
    pub damaged: u64,
    /// Refusals because an inbox was full.
    pub inbox_full: u64,
    /// Refusals because the disk was full.
    pub disk_full: u64,
    /// Refusals because too many bytes waited for the disk.
    pub busy: u64,
    /// Refusals because too few replicas could be reached.
    pub unavailable: u64,
    /// Inboxes that were read from a store that all cores share.
    pub loads: u64,
    /// Messages that another core had seen taken, or expire.
    pub gone: u64,
    /// Times that the oldest tombstone was forgotten for lack of room.
    pub tombstones_full: u64,
}
