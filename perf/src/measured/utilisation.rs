//! How much of each resource a run used, and which of them bound it. The bands are those of the seed: below 70% a resource
//! is stranded, 70–90% is where it should be, above 90% nothing is left for a peak or a lost node.

use crate::report::Fields;

/// Used below this share, a resource is stranded.
const STRANDED: f64 = 0.7;
/// Used above this share, it has no reserve.
const FULL: f64 = 0.9;

/// What ended the growth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The server's CPUs, or one thread of it.
    Cpu,
    /// The machine's memory.
    Memory,
    /// The network card.
    Nic,
    /// The disk.
    Disk,
    /// This generator.
    Generator,
    /// Latency broke before any resource was full.
    Latency,
}

impl Bound {
    /// For results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Nic => "nic",
            Self::Disk => "disk",
            Self::Generator => "generator",
            Self::Latency => "latency",
        }
    }

    /// What to change.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Cpu => "more cores for the server (--executors), or more nodes; the other resources are stranded",
            Self::Memory => "more memory, or fewer connections for each node",
            Self::Nic => "a faster network card, or more nodes; the CPUs are stranded",
            Self::Disk => "a faster disk, a disk for each executor, or more nodes",
            Self::Generator => {
                "the generator was the limit, not the server: run it on another machine, or with more --threads"
            }
            Self::Latency => {
                "no resource was full: one busy executor, scheduling, or the disk's answers; look at the longest turns"
            }
        }
    }
}

/// Shares of each resource, 1 is all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Utilisation {
    cpu: Option<f64>,
    busiest_thread: Option<f64>,
    memory: Option<f64>,
    nic: Option<f64>,
    disk: Option<f64>,
}

impl Utilisation {
    /// By a run's figures. `cpus`: those that the server may use.
    pub fn of(figures: &Fields, cpus: usize, nic_gbit: Option<f64>) -> Self {
        let machine = |name: &str| figures.group("machine").and_then(|machine| machine.number(name));
        let wall = figures.number("wall_seconds").unwrap_or(1.0).max(1e-9);
        let bits = machine("loopback_bytes_per_second").map(|bytes| bytes * 8.0);
        Self {
            cpu: figures.number("server_cpu_seconds").map(|seconds| seconds / wall / cpus.max(1) as f64),
            busiest_thread: figures.number("server_busiest_thread_seconds").map(|seconds| seconds / wall),
            memory: machine("memory_percent").map(|percent| percent / 100.0),
            nic: bits.zip(nic_gbit).map(|(bits, gbit)| bits / (gbit * 1e9)),
            disk: machine("disk_percent").map(|percent| percent / 100.0),
        }
    }

    fn resources(&self) -> [(Bound, &'static str, Option<f64>); 5] {
        [
            (Bound::Cpu, "cpu", self.cpu),
            (Bound::Cpu, "busiest_thread", self.busiest_thread),
            (Bound::Memory, "memory", self.memory),
            (Bound::Nic, "nic", self.nic),
            (Bound::Disk, "disk", self.disk),
        ]
    }

    /// The resource that is used most, if it is not stranded.
    pub fn bound(&self) -> Bound {
        let known = self.resources().into_iter().filter_map(|(bound, _, share)| Some((bound, share?)));
        let most = known.max_by(|a, b| a.1.total_cmp(&b.1));
        most.filter(|(_, share)| *share >= STRANDED).map_or(Bound::Latency, |(bound, _)| bound)
    }

    /// `{cpu: {percent, band}, …}`.
    pub fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        for (_, name, share) in self.resources() {
            let mut one = Fields::default();
            one.put("percent", share.map(|share| (share * 1_000.0).round() / 10.0));
            one.put("band", share.map(band));
            fields.put_group(name, one);
        }
        fields
    }
}

fn band(share: f64) -> &'static str {
    match share {
        share if share < STRANDED => "stranded",
        share if share <= FULL => "in band",
        _ => "over",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(cpu: f64, disk: f64) -> Utilisation {
        Utilisation { cpu: Some(cpu), busiest_thread: None, memory: Some(0.1), nic: None, disk: Some(disk) }
    }

    #[test]
    fn the_fullest_resource_binds_unless_all_are_stranded() {
        assert_eq!([used(0.95, 0.8).bound(), used(0.75, 0.8).bound()], [Bound::Cpu, Bound::Disk]);
        assert_eq!(used(0.5, 0.2).bound(), Bound::Latency);
        assert_eq!([band(0.5), band(0.8), band(0.95)], ["stranded", "in band", "over"]);
    }

    #[test]
    fn shares_follow_from_the_figures() {
        let (mut figures, mut machine) = (Fields::default(), Fields::default());
        figures.put("wall_seconds", 2.0);
        figures.put("server_cpu_seconds", 3.0);
        machine.put("loopback_bytes_per_second", 125_000_000);
        figures.put_group("machine", machine);
        let used = Utilisation::of(&figures, 2, Some(10.0));
        assert_eq!((used.cpu, used.nic, used.disk), (Some(0.75), Some(0.1), None));
    }
}
