//! `iris plan`: what a number of daily users needs, by layer, and what it costs.

mod show;

use super::{Exit, Failure, print};
use crate::plan::measured::{Measured, MeasuredError};
use crate::plan::{Demand, Fleet, Inputs, Machine, PlanError, Share, Targets, seed, sizing};
use clap::Args;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Numbers may be written as 5_000_000_000, 5,000,000,000 or 5B, shares as 0.1 or 10%.

  iris plan --dau 5_000_000_000                       the seed's figures for a planet
  iris plan --dau 5B --measured measured.json         the same by what `iris-perf capacity` measured on a machine
  iris plan --seed-figures                            each number that the seed prints, beside this calculator's
";

/// Which nodes a number of daily users needs, and what they cost. Starts nothing and asks nobody.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Plan {
    /// Daily active users.
    #[arg(long, value_name = "USERS", value_parser = count, required_unless_present = "seed_figures")]
    dau: Option<u64>,
    #[command(flatten)]
    demand: DemandFlags,
    #[command(flatten)]
    fleet: FleetFlags,
    #[command(flatten)]
    targets: TargetFlags,
    /// Figures of a machine, as `iris-perf capacity --out FILE` writes them.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["connections_per_edge", "users_per_shard"])]
    measured: Option<PathBuf>,
    /// Print each number of the seed beside this calculator's, and where the seed contradicts itself.
    #[arg(long, conflicts_with_all = ["dau", "measured"])]
    seed_figures: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "What users do")]
struct DemandFlags {
    /// Share of them that is connected at the peak.
    #[arg(long, value_name = "SHARE", default_value = "0.1")]
    concurrent_ratio: Share,
    /// Messages that a user sends in a day.
    #[arg(long, value_name = "N", default_value_t = 50.0)]
    messages_per_user_day: f64,
    /// Logins of a user in a day.
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    logins_per_user_day: f64,
    /// The busiest second against the mean of the day.
    #[arg(long, value_name = "N", default_value_t = 3.0)]
    peak_factor: f64,
    /// Share of the messages whose recipient is away.
    #[arg(long, value_name = "SHARE", default_value = "0.3")]
    stored_share: Share,
    /// How long such a message waits, on average, in days.
    #[arg(long, value_name = "DAYS", default_value_t = 1.0)]
    retention_days: f64,
    /// Bytes of a message.
    #[arg(long, value_name = "BYTES", default_value = "256", value_parser = count)]
    body_bytes: u64,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "What the nodes are")]
struct FleetFlags {
    /// Connections that an edge carries. [default: 100_000]
    #[arg(long, value_name = "N", value_parser = count)]
    connections_per_edge: Option<u64>,
    /// Users of a shard. [default: 100_000]
    #[arg(long, value_name = "N", value_parser = count)]
    users_per_shard: Option<u64>,
    /// Nodes of a shard.
    #[arg(long, value_name = "N", default_value = "2", value_parser = count)]
    replicas: u64,
    /// Edges of a region at most.
    #[arg(long, value_name = "N", default_value = "50", value_parser = count)]
    edges_per_region: u64,
    /// Edges of a region, and nodes of a shard, that may be lost at the same time.
    #[arg(long, value_name = "N", default_value = "1", value_parser = count)]
    may_fail: u64,
    /// An edge, dollars a month.
    #[arg(long, value_name = "DOLLARS", default_value_t = 30.0)]
    edge_price: f64,
    /// A core node, dollars a month.
    #[arg(long, value_name = "DOLLARS", default_value_t = 30.0)]
    core_price: f64,
    /// Taken off the edges' price; the seed has 70% for spot instances.
    #[arg(long, value_name = "SHARE", default_value = "0")]
    edge_discount: Share,
    /// What an edge has: any of cpus, memory-gb, disk-gb, network-gbps.
    #[arg(long, value_name = "KEY=N,…", default_value = "cpus=2,memory-gb=4,network-gbps=1", value_parser = machine)]
    edge_machine: Machine,
    /// What a core node has.
    #[arg(long, value_name = "KEY=N,…", default_value = "cpus=2,memory-gb=4,disk-gb=100,network-gbps=1", value_parser = machine)]
    core_machine: Machine,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "How full a node may be in ordinary times")]
struct TargetFlags {
    /// CPU; the seed's band is 70-85%.
    #[arg(long, value_name = "SHARE", default_value = "0.85")]
    cpu_target: Share,
    /// Memory; the seed's band is 80-90%.
    #[arg(long, value_name = "SHARE", default_value = "0.9")]
    memory_target: Share,
    /// Network; the seed's band is 60-80%.
    #[arg(long, value_name = "SHARE", default_value = "0.8")]
    network_target: Share,
    /// Disk; the seed's band is 70-85%.
    #[arg(long, value_name = "SHARE", default_value = "0.85")]
    disk_target: Share,
}

impl Plan {
    pub fn run(self) -> Result<(), Failure> {
        if self.seed_figures {
            return self.compare_with_the_seed();
        }
        let measured = self.measured.as_deref().map(Measured::read).transpose()?;
        let plan = sizing::plan(&self.inputs(), measured.as_ref())?;
        if self.json {
            let json = serde_json::to_string(&plan).map_err(|error| Failure::new(Exit::Failed, error))?;
            return Ok(print(&json)?);
        }
        show::plan(&plan).iter().try_for_each(|line| print(line))?;
        Ok(())
    }

    fn compare_with_the_seed(&self) -> Result<(), Failure> {
        let figures = seed::figures();
        if self.json {
            let json = serde_json::json!({"figures": figures, "corrections": seed::CORRECTIONS});
            print(&json.to_string())?;
        } else {
            show::seed(&figures).iter().try_for_each(|line| print(line))?;
        }
        match figures.iter().find(|figure| !figure.is_reproduced()) {
            Some(wrong) => Err(Failure::new(Exit::Failed, format!("{} is not reproduced", wrong.what))),
            None => Ok(()),
        }
    }

    fn inputs(&self) -> Inputs {
        let (demand, fleet, targets) = (&self.demand, &self.fleet, &self.targets);
        let defaults = Fleet::default();
        Inputs {
            demand: Demand {
                dau: self.dau.unwrap_or_default(),
                concurrent: demand.concurrent_ratio,
                messages_per_user_day: demand.messages_per_user_day,
                logins_per_user_day: demand.logins_per_user_day,
                peak_factor: demand.peak_factor,
                stored: demand.stored_share,
                retention_days: demand.retention_days,
                body_bytes: demand.body_bytes,
            },
            fleet: Fleet {
                connections_per_edge: fleet.connections_per_edge.unwrap_or(defaults.connections_per_edge),
                users_per_shard: fleet.users_per_shard.unwrap_or(defaults.users_per_shard),
                replicas: fleet.replicas,
                edges_per_region: fleet.edges_per_region,
                may_fail: fleet.may_fail,
                edge: Machine { price: fleet.edge_price, ..fleet.edge_machine },
                core: Machine { price: fleet.core_price, ..fleet.core_machine },
                edge_discount: fleet.edge_discount,
            },
            targets: Targets {
                cpu: targets.cpu_target,
                memory: targets.memory_target,
                network: targets.network_target,
                disk: targets.disk_target,
            },
        }
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        Failure::new(Exit::Usage, error)
    }
}

impl From<MeasuredError> for Failure {
    fn from(error: MeasuredError) -> Self {
        Failure::new(Exit::Usage, error)
    }
}

/// A count as people write it.
fn count(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1_000),
        Some((at, 'M')) => (&text[..at], 1_000_000),
        Some((at, 'B' | 'G')) => (&text[..at], 1_000_000_000),
        _ => (text, 1),
    };
    let digits: String = digits.chars().filter(|c| !matches!(c, '_' | ',')).collect();
    let number = if digits.starts_with('+') { None } else { digits.parse::<u64>().ok() };
    number
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| "a count is written as 5_000_000_000, 5B, 100M or 300K".into())
}

/// `cpus=4,memory-gb=16`: what is not named stays as it is by default.
fn machine(text: &str) -> Result<Machine, String> {
    let mut machine = Machine::default();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        let (key, value) = part.split_once('=').ok_or_else(|| format!("`{part}` is not KEY=N"))?;
        let number = value.trim().parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
        let number = number.ok_or_else(|| format!("{}: `{value}` is no positive number", key.trim()))?;
        match key.trim() {
            "cpus" => machine.cpus = number,
            "memory-gb" => machine.memory_bytes = number * 1e9,
            "disk-gb" => machine.disk_bytes = number * 1e9,
            "network-gbps" => machine.network_bits = number * 1e9,
            other => return Err(format!("`{other}` is none of cpus, memory-gb, disk-gb, network-gbps")),
        }
    }
    Ok(machine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_written_as_people_write_them() {
        for text in ["5_000_000_000", "5,000,000,000", "5000000000", "5B", "5_000M"] {
            assert_eq!(count(text), Ok(5_000_000_000), "{text}");
        }
        assert_eq!((count("300k"), count("0")), (Ok(300_000), Ok(0)));
        for text in ["", "x", "B", "-1", "+1", "1.5", "99999999999999999999", "99999999999999B", "5é"] {
            assert!(count(text).is_err(), "{text}");
        }
    }

    #[test]
    fn machines_name_what_is_wrong_with_them() {
        assert_eq!(
            machine("cpus=8, memory-gb=32").map(|machine| (machine.cpus, machine.memory_bytes)),
            Ok((8.0, 32e9))
        );
        assert_eq!(machine("").map(|machine| machine == Machine::default()), Ok(true));
        for (text, words) in [("ram=4", "`ram` is none of"), ("cpus=0", "cpus: `0`"), ("cpus", "not KEY=N")] {
            assert!(machine(text).is_err_and(|error| error.contains(words)), "{text}");
        }
    }
}
