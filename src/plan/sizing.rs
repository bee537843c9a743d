//! From demand and machine to nodes: for each layer what a node has to do, which resource binds, and what is stranded.
//!
//! With assumed figures the number of nodes follows from connections per edge and users per shard. With measured ones it
//! follows from the resource that runs out first.

use super::measured::{KERNEL_BYTES, Measured};
use super::seed::{CONNECTION_BYTES, CONNECTIONS_PER_MEDIUM, dollars, grouped};
use super::{COUNT_MAX, Cost, Counts, EDGES_MIN, Fleet, Inputs, OVERLOADED, PlanError, Share, ordinary_max};
use serde::Serialize;

/// Frames, TCP, IP and Ethernet around a body on each hop, with its share of acknowledgements, bytes.
const ENVELOPE_BYTES: f64 = 160.0;
/// Bytes of a log for each byte that is needed: dead records wait for their segment to be rewritten.
const LOG_FACTOR: f64 = 2.0;
/// What a core remembers of a user who is known and has nothing, bytes.
const USER_BYTES: f64 = 250.0;

/// A plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// How many of everything.
    #[serde(flatten)]
    pub counts: Counts,
    /// Where the figures come from: `assumed` or `measured`.
    pub figures: &'static str,
    /// What has to be done in a second.
    pub rates: Rates,
    /// Edges, then core nodes.
    pub layers: [Layer; 2],
    /// Dollars a month.
    pub cost_per_month: Cost,
    /// What the plan takes for granted.
    pub assumptions: Vec<String>,
    /// What is not in its cost.
    pub excluded: &'static [&'static str],
    /// What to change in the configuration, as the seed's calculator lists it.
    pub config_changes: [String; 3],
    /// As in the seed.
    pub code_changes: &'static str,
}

/// What has to be done in the busiest second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rates {
    /// Messages sent, on average over the day.
    pub messages_per_second_mean: f64,
    /// Messages sent.
    pub messages_per_second: f64,
    /// Of them to users who are away.
    pub stored_per_second: f64,
    /// Logins.
    pub logins_per_second: f64,
    /// Messages that wait, each counted once.
    pub messages_waiting: f64,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Layer {
    /// `edge` or `core`.
    pub layer: &'static str,
    /// How many.
    pub nodes: u64,
    /// Who takes over for a lost node: the edges of its region, or the other nodes of its shard.
    pub group: u64,
    /// Nodes of a group that may be lost.
    pub may_fail: u64,
    /// `(N-f)/N × 90%` of a group.
    pub ordinary_max: f64,
    /// What a node uses of what it has.
    pub resources: Vec<Resource>,
    /// Which of them decides the number of nodes.
    pub binds: &'static str,
    /// What would strand less.
    pub advice: String,
    /// Dollars a month.
    pub cost: f64,
}

/// One resource of one node.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Resource {
    /// Its name.
    pub resource: &'static str,
    /// What the numbers count.
    pub unit: &'static str,
    /// What a node needs at the peak.
    pub needed: f64,
    /// What a node has.
    pub available: f64,
    /// `needed / available`.
    pub utilisation: f64,
    /// The same when as many are lost as may be.
    pub after_failure: f64,
    /// How high it may be in ordinary times.
    pub target: f64,
    /// `binds`, `stranded`, or `over` if even that does not suffice.
    pub verdict: &'static str,
    /// Share of the resource that is paid for and not used, up to its target.
    pub stranded: f64,
}

/// A resource before the number of nodes is known.
#[derive(Debug, Clone, Copy)]
struct Need {
    resource: &'static str,
    unit: &'static str,
    /// Of all nodes together, or of one user of a shard.
    needed: f64,
    available: f64,
    target: f64,
    /// Whether the rest has to bear it when a node is lost.
    moves: bool,
}

impl Need {
    /// Nodes for it alone, and how many have to be left after a failure.
    fn nodes(&self) -> (u64, u64) {
        let count = |full: f64| (self.needed / (self.available * full)).ceil().min(COUNT_MAX as f64) as u64;
        (count(self.target), if self.moves { count(OVERLOADED) } else { 0 })
    }

    fn on(&self, nodes: u64, ordinary: f64) -> Resource {
        let needed = self.needed / nodes.max(1) as f64;
        let utilisation = needed / self.available;
        let target = if self.moves { self.target.min(ordinary) } else { self.target };
        let more = if self.moves && ordinary > 0.0 { OVERLOADED / ordinary } else { 1.0 };
        let (resource, unit, available) = (self.resource, self.unit, self.available);
        let (after_failure, stranded) = (utilisation * more, (target - utilisation).max(0.0));
        Resource {
            resource,
            unit,
            needed,
            available,
            utilisation,
            after_failure,
            target,
            verdict: "stranded",
            stranded,
        }
    }
}

/// Makes a plan.
pub fn plan(inputs: &Inputs, measured: Option<&Measured>) -> Result<Plan, PlanError> {
    inputs.check()?;
    let rates = rates(inputs);
    let (counts, edge, core) = match measured {
        Some(measured) => by_resources(inputs, &rates, measured)?,
        None => by_density(inputs),
    };
    let cost = Cost::of(&counts, &inputs.fleet);
    Ok(Plan {
        counts,
        figures: if measured.is_some() { "measured" } else { "assumed" },
        rates,
        layers: [Layer { cost: cost.edge, ..edge }, Layer { cost: cost.core, ..core }],
        cost_per_month: cost,
        assumptions: assumptions(inputs, measured),
        excluded: &EXCLUDED,
        config_changes: [
            format!("num_shards: {}", counts.core_shards),
            format!("Add {} regional deployments", counts.regions),
            format!("Add DNS geo-routing for {} regions", counts.regions),
        ],
        code_changes: "NONE",
    })
}

fn rates(inputs: &Inputs) -> Rates {
    let demand = &inputs.demand;
    let messages_per_second = demand.messages_per_second() * demand.peak_factor;
    Rates {
        messages_per_second_mean: demand.messages_per_second(),
        messages_per_second,
        stored_per_second: messages_per_second * demand.stored.value(),
        logins_per_second: demand.logins_per_second() * demand.peak_factor,
        messages_waiting: demand.messages_waiting(),
    }
}

/// The seed's way: connections per edge and users per shard are given.
fn by_density(inputs: &Inputs) -> (Counts, Layer, Layer) {
    let (demand, fleet) = (&inputs.demand, &inputs.fleet);
    let counts = Counts::by_density(demand, fleet);
    let given =
        |resource, unit, needed, available| Need { resource, unit, needed, available, target: 1.0, moves: false };
    let connections = counts.concurrent_users as f64;
    let edge_needs = [
        given("connections", "connections", connections, fleet.connections_per_edge as f64),
        Need {
            resource: "memory",
            unit: "bytes",
            needed: connections * CONNECTION_BYTES,
            available: fleet.edge.memory_bytes,
            target: inputs.targets.memory.value(),
            moves: true,
        },
    ];
    let users = demand.dau as f64 * fleet.replicas as f64;
    let core_needs = [given("users", "users", users, fleet.users_per_shard as f64)];
    let mut edge = layer("edge", counts.edge_nodes, (counts.edges_of_a_region(), fleet.may_fail), &edge_needs);
    let mut core = layer("core", counts.core_nodes, (fleet.replicas, inputs.replicas_may_fail()), &core_needs);
    decide(&mut edge, 0);
    decide(&mut core, 0);
    let each = (connections / counts.edge_nodes as f64).ceil();
    let most =
        if edge.ordinary_max > 0.0 { grouped((each / edge.ordinary_max).ceil() as u64) } else { "no number of".into() };
    let dense = Counts::by_density(demand, &Fleet { connections_per_edge: CONNECTIONS_PER_MEDIUM, ..fleet.clone() });
    edge.advice = format!(
        "an edge carries {} connections; with {} of {} in a region lost the rest stay under 90% if it can bear {most}; with \
         {} each, as in the seed's table of costs, it is {} edges for {}",
        grouped(each as u64),
        edge.may_fail.min(edge.group),
        edge.group,
        grouped(CONNECTIONS_PER_MEDIUM),
        grouped(dense.edge_nodes),
        dollars(Cost::of(&dense, fleet).edge)
    );
    core.advice = "users per shard is given: --measured FILE says which resource of a core node it stands for".into();
    (counts, edge, core)
}

/// By what a node can do: the resource that runs out first decides.
fn by_resources(inputs: &Inputs, rates: &Rates, measured: &Measured) -> Result<(Counts, Layer, Layer), PlanError> {
    let fleet = &inputs.fleet;
    let edge_needs = edge_needs(inputs, rates, measured)?;
    let core_needs = core_needs(inputs, rates, measured)?;
    let (edge_nodes, regions) = edges(inputs, &edge_needs);
    let ordinary_core = ordinary_max(fleet.replicas, inputs.replicas_may_fail());
    let per_shard = |need: &Need| {
        let target = if need.moves { need.target.min(ordinary_core) } else { need.target };
        (need.available * target / need.needed).floor().min(COUNT_MAX as f64) as u64
    };
    let users_per_shard = core_needs.iter().map(per_shard).min().unwrap_or(0);
    if users_per_shard == 0 {
        let tightest = core_needs.iter().min_by_key(|need| per_shard(need)).map_or("memory", |need| need.resource);
        return Err(PlanError::TooSmall { layer: "core", resource: tightest, machine: "--core-machine" });
    }
    let core_shards = inputs.demand.dau.div_ceil(users_per_shard);
    let counts = Counts {
        dau: inputs.demand.dau,
        concurrent_users: inputs.demand.concurrent_users(),
        edge_nodes,
        core_shards,
        core_nodes: core_shards * fleet.replicas,
        regions,
    };
    let users = inputs.demand.dau as f64 * fleet.replicas as f64;
    let core_needs = core_needs.map(|need| Need { needed: need.needed * users, ..need });
    let group = counts.edges_of_a_region();
    let mut edge = layer("edge", edge_nodes, (group, fleet.may_fail), &edge_needs);
    let mut core = layer("core", counts.core_nodes, (fleet.replicas, inputs.replicas_may_fail()), &core_needs);
    advise(&mut edge);
    advise(&mut core);
    Ok((counts, edge, core))
}

/// What all edges together have to do at the peak.
fn edge_needs(inputs: &Inputs, rates: &Rates, measured: &Measured) -> Result<[Need; 3], PlanError> {
    let (machine, targets, work) = (&inputs.fleet.edge, &inputs.targets, &measured.per_cpu_second);
    let connections = inputs.demand.concurrent_users() as f64;
    let cpus = rates.messages_per_second / work.messages
        + rates.logins_per_second / work.logins
        + connections * measured.connection.cpus;
    let memory = machine.memory_bytes - measured.node_bytes;
    // In from the sender, on to the other edge, in from the edge, out to the recipient: two hops each way.
    let bits = rates.messages_per_second * 2.0 * (inputs.demand.body_bytes as f64 + ENVELOPE_BYTES) * 8.0;
    let need = |resource, unit, needed, (available, target): (f64, Share)| Need {
        resource,
        unit,
        needed,
        available,
        target: target.value(),
        moves: true,
    };
    check_machine(
        [
            need("cpu", "CPUs", cpus, (machine.cpus, targets.cpu)),
            need("memory", "bytes", connections * measured.connection_bytes(), (memory, targets.memory)),
            need("network", "bits/s", bits, (machine.network_bits, targets.network)),
        ],
        "edge",
        "--edge-machine",
    )
}

/// What one user costs each core node of its shard.
fn core_needs(inputs: &Inputs, rates: &Rates, measured: &Measured) -> Result<[Need; 4], PlanError> {
    let (machine, targets, work) = (&inputs.fleet.core, &inputs.targets, &measured.per_cpu_second);
    let (dau, replicas) = (inputs.demand.dau as f64, inputs.fleet.replicas as f64);
    let stored = rates.stored_per_second / dau;
    let waiting = rates.messages_waiting / dau;
    let body = inputs.demand.body_bytes;
    // Every replica stores; one of them gives it back, and is told the logins like the others.
    let cpus = stored / work.stored + stored / work.drained / replicas;
    let memory = USER_BYTES + waiting * measured.stored.memory_bytes;
    let disk = waiting * measured.stored_bytes(body) * LOG_FACTOR;
    let bits = stored * (body as f64 + ENVELOPE_BYTES) * 8.0 * 2.0;
    let need = |resource, unit, needed, (available, target): (f64, Share)| Need {
        resource,
        unit,
        needed,
        available,
        target: target.value(),
        moves: false,
    };
    let (cpu, network) = ((machine.cpus, targets.cpu), (machine.network_bits, targets.network));
    check_machine(
        [
            Need { moves: true, ..need("cpu", "CPUs", cpus, cpu) },
            need("memory", "bytes", memory, (machine.memory_bytes - measured.node_bytes, targets.memory)),
            need("disk", "bytes", disk, (machine.disk_bytes, targets.disk)),
            Need { moves: true, ..need("network", "bits/s", bits, network) },
        ],
        "core",
        "--core-machine",
    )
}

fn check_machine<const N: usize>(
    needs: [Need; N],
    layer: &'static str,
    machine: &'static str,
) -> Result<[Need; N], PlanError> {
    let is_fit = |need: &&Need| need.available.is_finite() && need.available > 0.0;
    match needs.iter().find(|need| !is_fit(need)) {
        Some(Need { resource, .. }) => Err(PlanError::TooSmall { layer, resource, machine }),
        None => Ok(needs),
    }
}

/// Edges and regions: enough for every resource's target, and after a failure for the rest of each region.
fn edges(inputs: &Inputs, needs: &[Need]) -> (u64, u64) {
    let (may_fail, most) = (inputs.fleet.may_fail, inputs.fleet.edges_per_region);
    let ordinary = needs.iter().map(|need| need.nodes().0).max().unwrap_or(0);
    let left = needs.iter().map(|need| need.nodes().1).max().unwrap_or(0);
    let regions = ordinary.div_ceil(most).max(left.div_ceil(most - may_fail)).max(1);
    let edges = ordinary.max(left + may_fail * regions).max(EDGES_MIN);
    (edges, regions.max(edges.div_ceil(most)))
}

fn layer(name: &'static str, nodes: u64, (group, may_fail): (u64, u64), needs: &[Need]) -> Layer {
    let ordinary_max = ordinary_max(group, may_fail);
    let resources = needs.iter().map(|need| need.on(nodes, ordinary_max)).collect();
    let (binds, advice, cost) = ("", String::new(), 0.0);
    Layer { layer: name, nodes, group, may_fail, ordinary_max, resources, binds, advice, cost }
}

/// The resource that is closest to its target binds, or the one given.
fn decide(layer: &mut Layer, binding: usize) {
    let resource = &mut layer.resources[binding];
    resource.verdict = "binds";
    resource.stranded = 0.0;
    layer.binds = resource.resource;
}

fn advise(layer: &mut Layer) {
    let fullness =
        |resource: &Resource| if resource.target > 0.0 { resource.utilisation / resource.target } else { 0.0 };
    let resources = layer.resources.iter().enumerate();
    let binding = resources.max_by(|(_, a), (_, b)| fullness(a).total_cmp(&fullness(b))).map_or(0, |(at, _)| at);
    decide(layer, binding);
    let bound = layer.resources[binding];
    let spare: Vec<String> = layer
        .resources
        .iter()
        .filter(|resource| resource.verdict == "stranded" && resource.stranded > 0.05)
        .map(|resource| {
            let enough = fullness(resource) / fullness(&bound).max(f64::MIN_POSITIVE);
            format!("{:.0}% of the {}", enough * 100.0, resource.resource)
        })
        .collect();
    layer.advice = if spare.is_empty() {
        "nothing is stranded".into()
    } else {
        format!("with the same {} a node would do with {}", bound.resource, spare.join(", "))
    };
}

/// What is not in the price of the nodes.
const EXCLUDED: [&str; 8] = [
    "network traffic: egress, between regions and between zones",
    "load balancers, anycast addresses and DNS queries",
    "disks, beyond what a core node's price has in it",
    "backups, monitoring, log storage",
    "tests, spare regions, blue-green copies",
    "people",
    "reconnect storms: a lost region's users log in elsewhere within minutes; logins here are those of a day",
    "nodes of discovery (consul, etcd) or of an external storage engine (cassandra)",
];

fn assumptions(inputs: &Inputs, measured: Option<&Measured>) -> Vec<String> {
    let (demand, fleet, targets) = (&inputs.demand, &inputs.fleet, &inputs.targets);
    let mut list = vec![
        format!("{} of the daily users are connected at the peak", demand.concurrent),
        format!(
            "a user sends {} messages of {} bytes and logs in {} times a day; the busiest second is {} times the mean",
            demand.messages_per_user_day, demand.body_bytes, demand.logins_per_user_day, demand.peak_factor
        ),
        format!(
            "{} of the messages wait for their recipient, {} hours on average",
            demand.stored,
            demand.retention_days * 24.0
        ),
        format!("a shard is on {} nodes; a region has at most {} edges", fleet.replicas, fleet.edges_per_region),
        format!("an edge costs ${} and a core node ${} a month", fleet.edge.price, fleet.core.price),
        "regions, shards and users are alike; load is spread evenly over the nodes of a layer".into(),
    ];
    if fleet.edge_discount.value() > 0.0 {
        list.push(format!("{} is taken off the price of edges (spot instances)", fleet.edge_discount));
    }
    match measured {
        None => list.extend([
            format!(
                "an edge carries {} connections and a shard has {} users: given, not measured",
                grouped(fleet.connections_per_edge),
                grouped(fleet.users_per_shard)
            ),
            format!("a connection takes {CONNECTION_BYTES} bytes (the seed's figure; measured ones are smaller)"),
        ]),
        Some(measured) => list.extend(measured_assumptions(measured, targets, fleet.replicas)),
    }
    list
}

fn measured_assumptions(measured: &Measured, targets: &super::Targets, replicas: u64) -> Vec<String> {
    let mut list = vec![
        format!(
            "targets: CPU {}, memory {}, network {}, disk {}, and (N-f)/N x 90% where the rest has to take over",
            targets.cpu, targets.memory, targets.network, targets.disk
        ),
        "CPUs are like the measured one, and work grows with their number".into(),
        "relay is paid at the edges: sender's and recipient's side were measured together, on one node; what links between \
         nodes add is not known yet"
            .into(),
        "logins and presence are paid at the edges: both halves of a login were measured together".into(),
        format!("{replicas} copies are stored by {replicas} nodes, each at the measured cost of one"),
        format!("a message has {ENVELOPE_BYTES} bytes of frames, TCP, IP and Ethernet around its body on each hop"),
        format!("a log has {LOG_FACTOR} bytes for each byte that is needed"),
        format!("a core remembers {USER_BYTES} bytes of each user of its shard (not measured)"),
    ];
    if measured.connection.kernel_bytes.is_none() {
        list.push(format!("the kernel takes {KERNEL_BYTES} bytes per connection (not measured: that needs root)"));
    }
    list
}
