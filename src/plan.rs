//! The capacity calculator of the seed (sections 7 and 10) with its corrections: what a number of daily users needs.
//!
//! Pure arithmetic. In: demand, fleet, targets, and perhaps figures of `iris-perf capacity`. Out: nodes, cost and
//! utilisation by layer, with everything that was assumed or left out. Counts are integer ceilings; a share is exact.

pub mod measured;
pub mod seed;
pub mod sizing;

use serde::Serialize;
use std::fmt;
use thiserror::Error;

/// Seconds of a day.
const DAY_SECONDS: f64 = 86_400.0;
/// Counts are at most this, so that no product overflows.
pub const COUNT_MAX: u64 = 1_000_000_000_000;
/// A single edge is never enough: clients need another one to go to.
pub const EDGES_MIN: u64 = 2;
/// With `f` of `N` nodes lost the rest stay under this.
pub const OVERLOADED: f64 = 0.9;

/// A share of one, in millionths, so that counts made of it are exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    /// As a number from 0 to 1.
    #[must_use]
    pub fn value(self) -> f64 {
        f64::from(self.0) / 1e6
    }

    /// That share of a count, rounded up.
    #[must_use]
    pub fn of(self, count: u64) -> u64 {
        (u128::from(count) * u128::from(self.0)).div_ceil(1_000_000) as u64
    }

    /// So many hundredths.
    #[must_use]
    pub const fn percent(percent: u32) -> Self {
        Share(percent * 10_000)
    }
}

impl std::str::FromStr for Share {
    type Err = String;

    /// `0.1` or `10%`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
        match number.parse::<f64>() {
            Ok(number) if (0.0..=unit).contains(&number) => Ok(Share((number / unit * 1e6).round() as u32)),
            _ => Err("a share is a number from 0 to 1, such as 0.1, or 0% to 100%".into()),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.value() * 100.0)
    }
}

/// What users do.
#[derive(Debug, Clone, PartialEq)]
pub struct Demand {
    /// Daily active users.
    pub dau: u64,
    /// Of them connected at the peak.
    pub concurrent: Share,
    /// Messages that a user sends in a day.
    pub messages_per_user_day: f64,
    /// Logins of a user in a day.
    pub logins_per_user_day: f64,
    /// The busiest second against the mean of the day.
    pub peak_factor: f64,
    /// Messages whose recipient is away.
    pub stored: Share,
    /// How long such a message waits, on average, days.
    pub retention_days: f64,
    /// Bytes of a message.
    pub body_bytes: u64,
}

impl Default for Demand {
    fn default() -> Self {
        Demand {
            dau: 1_000_000,
            concurrent: Share::percent(10),
            messages_per_user_day: 50.0,
            logins_per_user_day: 10.0,
            peak_factor: 3.0,
            stored: Share::percent(30),
            retention_days: 1.0,
            body_bytes: 256,
        }
    }
}

impl Demand {
    /// Connections at the peak.
    #[must_use]
    pub fn concurrent_users(&self) -> u64 {
        self.concurrent.of(self.dau)
    }

    /// Messages sent per second, on average.
    #[must_use]
    pub fn messages_per_second(&self) -> f64 {
        self.dau as f64 * self.messages_per_user_day / DAY_SECONDS
    }

    /// Logins per second, on average.
    #[must_use]
    pub fn logins_per_second(&self) -> f64 {
        self.dau as f64 * self.logins_per_user_day / DAY_SECONDS
    }

    /// Messages that wait for their recipients, each counted once.
    #[must_use]
    pub fn messages_waiting(&self) -> f64 {
        self.messages_per_second() * self.stored.value() * self.retention_days * DAY_SECONDS
    }
}

/// One kind of machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Machine {
    /// Dollars a month.
    pub price: f64,
    /// CPUs.
    pub cpus: f64,
    /// Bytes of memory.
    pub memory_bytes: f64,
    /// Bytes of disk.
    pub disk_bytes: f64,
    /// Bits per second in each direction.
    pub network_bits: f64,
}

impl Default for Machine {
    /// The seed's t3.medium.
    fn default() -> Self {
        Machine { price: 30.0, cpus: 2.0, memory_bytes: 4e9, disk_bytes: 100e9, network_bits: 1e9 }
    }
}

/// What the nodes are, and how much each is to carry.
#[derive(Debug, Clone, PartialEq)]
pub struct Fleet {
    /// Connections that an edge carries; measured figures take its place.
    pub connections_per_edge: u64,
    /// Users of a shard; measured figures take its place.
    pub users_per_shard: u64,
    /// Nodes of a shard.
    pub replicas: u64,
    /// Edges of a region at most.
    pub edges_per_region: u64,
    /// Edges of a region, and nodes of a shard, that may be lost at the same time.
    pub may_fail: u64,
    /// An edge.
    pub edge: Machine,
    /// A core node.
    pub core: Machine,
    /// What is taken off the edges' price (spot instances).
    pub edge_discount: Share,
}

impl Default for Fleet {
    fn default() -> Self {
        Fleet {
            connections_per_edge: 100_000,
            users_per_shard: 100_000,
            replicas: 2,
            edges_per_region: 50,
            may_fail: 1,
            edge: Machine::default(),
            core: Machine::default(),
            edge_discount: Share(0),
        }
    }
}

/// How much of a resource is to be used in ordinary times: the upper ends of the seed's bands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Targets {
    /// CPU time.
    pub cpu: Share,
    /// Memory.
    pub memory: Share,
    /// Network.
    pub network: Share,
    /// Disk.
    pub disk: Share,
}

impl Default for Targets {
    fn default() -> Self {
        Targets {
            cpu: Share::percent(85),
            memory: Share::percent(90),
            network: Share::percent(80),
            disk: Share::percent(85),
        }
    }
}

/// Everything that a plan is made from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inputs {
    /// What users do.
    pub demand: Demand,
    /// What the nodes are.
    pub fleet: Fleet,
    /// How full they may be.
    pub targets: Targets,
}

/// Inputs that make no plan. The operator's fault: each names the flag to change.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlanError {
    /// Nothing can be divided by it.
    #[error("{flag} is 0: it has to be at least 1")]
    Zero {
        /// The flag.
        flag: &'static str,
    },
    /// Larger than the arithmetic goes.
    #[error("{flag} is {value}: the calculator goes up to {COUNT_MAX}")]
    TooLarge {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: u64,
    },
    /// Not a number, or below zero.
    #[error("{flag} has to be a positive number")]
    NotPositive {
        /// The flag.
        flag: &'static str,
    },
    /// No edge of a region would be left.
    #[error(
        "--may-fail {may_fail} leaves no edge of a region of {edges}: raise --edges-per-region or lower --may-fail"
    )]
    NoneLeft {
        /// How many may be lost.
        may_fail: u64,
        /// How many there are.
        edges: u64,
    },
    /// One user, or nothing at all, is more than the machine has.
    #[error("the {layer}'s {resource} is too small: even an idle node leaves no room ({machine})")]
    TooSmall {
        /// `edge` or `core`.
        layer: &'static str,
        /// Of what there is too little.
        resource: &'static str,
        /// The flag that describes the machine.
        machine: &'static str,
    },
}

impl Inputs {
    /// Whether a plan can be made from them.
    pub fn check(&self) -> Result<(), PlanError> {
        let (demand, fleet) = (&self.demand, &self.fleet);
        for (flag, value) in [
            ("--dau", demand.dau),
            ("--connections-per-edge", fleet.connections_per_edge),
            ("--users-per-shard", fleet.users_per_shard),
            ("--replicas", fleet.replicas),
            ("--edges-per-region", fleet.edges_per_region),
        ] {
            match value {
                0 => return Err(PlanError::Zero { flag }),
                1..=COUNT_MAX => {}
                _ => return Err(PlanError::TooLarge { flag, value }),
            }
        }
        if fleet.may_fail >= fleet.edges_per_region {
            return Err(PlanError::NoneLeft { may_fail: fleet.may_fail, edges: fleet.edges_per_region });
        }
        for (flag, value) in [
            ("--messages-per-user-day", demand.messages_per_user_day),
            ("--logins-per-user-day", demand.logins_per_user_day),
            ("--peak-factor", demand.peak_factor),
            ("--retention-days", demand.retention_days),
            ("--edge-price", fleet.edge.price),
            ("--core-price", fleet.core.price),
        ] {
            if !value.is_finite() || value < 0.0 {
                return Err(PlanError::NotPositive { flag });
            }
        }
        for (flag, share) in self.targets.flags() {
            if share.0 == 0 {
                return Err(PlanError::NotPositive { flag });
            }
        }
        Ok(())
    }

    /// Nodes of a shard that may be lost: one has to be left.
    #[must_use]
    pub fn replicas_may_fail(&self) -> u64 {
        self.fleet.may_fail.min(self.fleet.replicas - 1)
    }
}

impl Targets {
    fn flags(&self) -> [(&'static str, Share); 4] {
        [
            ("--cpu-target", self.cpu),
            ("--memory-target", self.memory),
            ("--network-target", self.network),
            ("--disk-target", self.disk),
        ]
    }
}

/// `(N-f)/N × 90%`: how full nodes may be in ordinary times, so that without `failed` of them the rest stay under 90%.
#[must_use]
pub fn ordinary_max(nodes: u64, failed: u64) -> f64 {
    if nodes == 0 { 0.0 } else { nodes.saturating_sub(failed) as f64 / nodes as f64 * OVERLOADED }
}

/// How many of everything: the fields of the seed's calculator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Daily active users.
    pub dau: u64,
    /// Connections at the peak.
    pub concurrent_users: u64,
    /// Edges.
    pub edge_nodes: u64,
    /// Shards.
    pub core_shards: u64,
    /// Core nodes.
    pub core_nodes: u64,
    /// Regions.
    pub regions: u64,
}

impl Counts {
    /// The seed's formula: integer ceilings, at least two edges.
    #[must_use]
    pub fn by_density(demand: &Demand, fleet: &Fleet) -> Self {
        let concurrent_users = demand.concurrent_users();
        let edge_nodes = concurrent_users.div_ceil(fleet.connections_per_edge).max(EDGES_MIN);
        let core_shards = demand.dau.div_ceil(fleet.users_per_shard);
        Counts {
            dau: demand.dau,
            concurrent_users,
            edge_nodes,
            core_shards,
            core_nodes: core_shards * fleet.replicas,
            regions: edge_nodes.div_ceil(fleet.edges_per_region),
        }
    }

    /// Edges of the largest region, when regions are alike.
    #[must_use]
    pub fn edges_of_a_region(&self) -> u64 {
        self.edge_nodes.div_ceil(self.regions)
    }
}

/// Dollars a month, by layer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cost {
    /// All edges.
    pub edge: f64,
    /// All core nodes.
    pub core: f64,
    /// Both.
    pub total: f64,
    /// Both, for each daily user.
    pub per_user: f64,
    /// Edges, for each connection at the peak.
    pub edge_per_connection: f64,
}

impl Cost {
    /// What that many nodes cost.
    #[must_use]
    pub fn of(counts: &Counts, fleet: &Fleet) -> Self {
        let edge = counts.edge_nodes as f64 * fleet.edge.price * (1.0 - fleet.edge_discount.value());
        let core = counts.core_nodes as f64 * fleet.core.price;
        let total = edge + core;
        Cost {
            edge,
            core,
            total,
            per_user: total / counts.dau as f64,
            edge_per_connection: edge / counts.concurrent_users.max(1) as f64,
        }
    }
}

#[cfg(test)]
mod tests;
