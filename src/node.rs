//! One node: starts its executors, and stops them when it is told to.
//!
//! Everything that could fail for want of something on this machine is tried before the first executor starts, so that
//! the error names it. In: a configuration and the service around it. Out: a node that has written everything to disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use iris_shards::core_node::{CoreConfig, CoreNode};
use iris_shards::edge_node::{EdgeConfig, EdgeNode};
use iris_shards::id::{ExecutorId, NodeId};
use iris_shards::log::LogConfig;
use iris_shards::placement::Placement;
use socket2::Socket;
use std::net::SocketAddr;

use crate::admin::{self, AdminError, ExecutorStatus, Status, Totals};
use crate::bell::Bell;
use crate::config::Config;
use crate::cpus::{CpuError, CpuWish, Layout};
use crate::executor::{Control, Executor, MeshItem, Names, Parts};
use crate::mesh::{Endpoint, mesh};
use crate::preflight::{self, ListenSettings, PreflightError};
use crate::runtime::{Executors, RuntimeError, Seat, bells};
use crate::service::Service;
use crate::storage::{DataDir, LogSeat, StorageError, StorageOptions};

/// Descriptors that connections do not get: rings, files of the log, the admin socket.
const RESERVED_FILES: u64 = 256;
/// And for each executor.
const RESERVED_FILES_EACH: u64 = 24;
/// How long an executor has to answer a question about its status.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at how many clients are left.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
/// Questions that wait for an executor.
const CONTROL_MAX: usize = 64;

/// Why a node does not run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Something is missing on this machine.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The CPUs asked for.
    #[error(transparent)]
    Cpus(#[from] CpuError),
    /// The data directory.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The executors.
    #[error(transparent)]
    Start(#[from] RuntimeError),
    /// The admin socket.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The process is out of descriptors.
    #[error("cannot start: {0}")]
    Process(#[from] std::io::Error),
}

/// A line to one executor.
#[derive(Debug, Clone)]
struct Line {
    control: Sender<Control>,
    bell: Bell,
}

impl Line {
    fn tell(&self, control: Control) {
        // Full or gone: it does not answer, which is what its status will say.
        if self.control.try_send(control).is_ok() {
            self.bell.ring();
        }
    }
}

/// Runs a node until the service asks it to stop.
pub fn serve(config: &Config, service: &Service) -> Result<(), NodeError> {
    let wish = CpuWish { executors: config.executors.map(usize::from), cpus: config.cpus.clone() };
    let layout = Layout::of_process(&wish)?;
    let mode = preflight::probe_io_uring()?;
    preflight::check_locked_memory(layout.executors)?;
    let connections_max = connections_max(config, &layout)?;
    let (listen, listeners) = listen(config, &layout)?;
    let mut data = DataDir::open(&storage_options(config, &layout))?;
    tracing::info!(executors = layout.executors, ?mode, connections_max, data = %config.data.display(), "starting");
    let bells = bells(&layout)?;
    let names = Arc::new(Names::new(config, NodeId(0), connections_max));
    let (lines, parts) = parts(config, &names, &bells, listeners, data.take_seats());
    let mut parts: Vec<Option<Parts>> = parts.into_iter().map(Some).collect();
    let executors = Executors::start(&layout, bells, |executor| {
        let parts = parts[executor].take();
        Box::new(move |seat: Seat| async move {
            let parts = parts.ok_or("it was started twice")?;
            Executor::new(seat, parts)?.run().await
        })
    })?;
    let draining = Arc::new(AtomicBool::new(false));
    let _admin = serve_admin(config, &listen, lines.clone(), draining.clone())?;
    service.ready(&listen);
    service.until_stop(|| executors.stalled_ms(), || summary(&lines));
    draining.store(true, Ordering::Relaxed);
    drain(config, &lines);
    executors.join()?;
    Ok(())
}

fn storage_options(config: &Config, layout: &Layout) -> StorageOptions {
    let log = LogConfig {
        segment_bytes: config.segment_bytes as u32,
        body_bytes_max: config.edge.body_bytes_max,
        ..LogConfig::default()
    };
    StorageOptions { dir: config.data.clone(), log, executors: layout.executors as u16 }
}

/// One listener per executor and address.
fn listen(config: &Config, layout: &Layout) -> Result<(Vec<SocketAddr>, Vec<Vec<Socket>>), NodeError> {
    let settings = ListenSettings { backlog: config.backlog, ..ListenSettings::default() };
    let mut addresses = Vec::new();
    let mut listeners: Vec<Vec<Socket>> = (0..layout.executors).map(|_| Vec::new()).collect();
    for &address in &config.listen {
        let (resolved, sockets) = preflight::listen(address, layout.executors, settings)?;
        addresses.push(resolved);
        for (list, socket) in listeners.iter_mut().zip(sockets) {
            list.push(socket);
        }
    }
    Ok((addresses, listeners))
}

/// As many as the configuration allows and the limit of open files has room for.
fn connections_max(config: &Config, layout: &Layout) -> Result<usize, NodeError> {
    let files = preflight::raise_open_files()?;
    let needed = RESERVED_FILES + RESERVED_FILES_EACH * layout.executors as u64;
    let room = files.saturating_sub(needed);
    if room == 0 {
        return Err(PreflightError::OpenFiles { needed, limit: files }.into());
    }
    let wanted = config.connections_max.map_or(u64::MAX, u64::from);
    if config.connections_max.is_some() && wanted > room {
        tracing::warn!(wanted, room, "connections_max is more than the limit of open files has room for");
    }
    Ok(wanted.min(room) as usize)
}

fn parts(
    config: &Config,
    names: &Arc<Names>,
    bells: &[Bell],
    listeners: Vec<Vec<Socket>>,
    seats: Vec<LogSeat>,
) -> (Vec<Line>, Vec<Parts>) {
    let placement = Arc::new(Placement::everywhere(vec![names.node_id]));
    let ends: Vec<Endpoint<MeshItem>> = mesh(bells.to_vec(), config.mesh_bytes_max as usize);
    let connections = Arc::new(AtomicUsize::new(0));
    let executors = bells.len() as u16;
    let mut lines = Vec::new();
    let mut parts = Vec::new();
    let each = bells.iter().zip(ends).zip(listeners).zip(seats).enumerate();
    for (executor, (((bell, mesh), listeners), log)) in each {
        let (sender, control) = bounded(CONTROL_MAX);
        lines.push(Line { control: sender, bell: bell.clone() });
        let executor = ExecutorId(executor as u16);
        let (node, placement, seed) = (names.node_id, placement.clone(), random_seed());
        let (edge_limits, core_limits) = (config.edge.clone(), config.core.clone());
        let edge =
            EdgeConfig { node, executor, is_core: true, limits: edge_limits, placement: placement.clone(), seed };
        let core = CoreConfig { node, executor, executors, limits: core_limits, placement, seed };
        parts.push(Parts {
            edge: EdgeNode::new(edge),
            core: CoreNode::new(core),
            names: names.clone(),
            mesh,
            listeners,
            log,
            control,
            connections: connections.clone(),
        });
    }
    (lines, parts)
}

/// Seeded by the system, as every `HashMap` is.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

fn serve_admin(
    config: &Config,
    listen: &[SocketAddr],
    lines: Vec<Line>,
    draining: Arc<AtomicBool>,
) -> Result<admin::Admin, NodeError> {
    let started = Instant::now();
    let (node, region) = (config.name.clone(), config.region.clone());
    let listen: Vec<String> = listen.iter().map(ToString::to_string).collect();
    let status = move || {
        let executors = ask(&lines);
        Status {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: started.elapsed().as_millis() as u64,
            node: node.clone(),
            region: region.clone(),
            listen: listen.clone(),
            draining: draining.load(Ordering::Relaxed),
            totals: Totals::of(&executors),
            executors,
        }
    };
    Ok(admin::serve(&config.admin, status)?)
}

/// The status of every executor that answers in time.
fn ask(lines: &[Line]) -> Vec<ExecutorStatus> {
    let (sender, answers) = bounded(lines.len());
    lines.iter().for_each(|line| line.tell(Control::Status(sender.clone())));
    drop(sender);
    let deadline = Instant::now() + STATUS_PATIENCE;
    let mut statuses: Vec<ExecutorStatus> = std::iter::from_fn(|| answers.recv_deadline(deadline).ok()).collect();
    statuses.sort_by_key(|status| status.id);
    statuses
}

/// A line for `systemctl status`.
fn summary(lines: &[Line]) -> String {
    let totals = Totals::of(&ask(lines));
    format!("{} sessions, {} messages in inboxes", totals.sessions, totals.inbox_messages)
}

/// Asks the clients to leave, waits for them for a while, and stops the executors.
fn drain(config: &Config, lines: &[Line]) {
    let within_ms = config.drain_ms / 2;
    lines.iter().for_each(|line| line.tell(Control::Drain(within_ms)));
    let deadline = Instant::now() + Duration::from_millis(config.drain_ms.into());
    loop {
        let sessions = Totals::of(&ask(lines)).sessions;
        if sessions == 0 || Instant::now() >= deadline {
            tracing::info!(sessions, "drained");
            break;
        }
        std::thread::sleep(DRAIN_LOOK);
    }
    lines.iter().for_each(|line| line.tell(Control::Stop));
}
