//! One node: starts its executors, and stops them when it is told to.
//!
//! Everything that could fail for want of something on this machine is tried before the first executor starts, so that
//! the error names it. In: a configuration and the service around it. Out: a node that has written everything to disk.

mod assembly;
mod cluster;
mod lines;
mod status;
mod stores;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::Socket;

use crate::admin::{self, AdminError, Draining, Verbs};
use crate::config::Config;
use crate::cpus::{CpuError, CpuWish, Layout};
use crate::discovery::DiscoveryError;
use crate::executor::{Executor, Names};
use crate::preflight::{self, ListenSettings, PreflightError};
use crate::runtime::{Executors, RuntimeError, Seat, bells};
use crate::service::{Service, Stop};
use crate::storage::StorageError;
use assembly::Assembly;
use cluster::{Cluster, Door};
use lines::Lines;
use status::StatusSource;
use stores::Stores;

/// Descriptors that connections do not get: rings, files of the log, the admin socket.
const RESERVED_FILES: u64 = 256;
/// And for each executor.
const RESERVED_FILES_EACH: u64 = 24;

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
    /// How nodes find each other.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    /// Nobody tells who is there.
    #[error("cannot start: discovery has not said who is there")]
    NoView,
    /// The process is out of descriptors.
    #[error("cannot start: {0}")]
    Process(#[from] std::io::Error),
}

/// Runs a node until the service asks it to stop.
pub fn serve(config: &Config, service: &Service) -> Result<(), NodeError> {
    let wish = CpuWish { executors: config.executors.map(usize::from), cpus: config.cpus.clone() };
    let layout = Layout::of_process(&wish)?;
    let mode = preflight::probe_io_uring()?;
    preflight::check_locked_memory(layout.executors)?;
    let connections_max = connections_max(config, &layout)?;
    let (listen, listeners) = listen(config, &layout)?;
    let mut door = Door::open(config)?;
    let mut stores = Stores::open(config, &layout)?;
    let (storage, data) = (config.storage.word(), config.data.display());
    tracing::info!(executors = layout.executors, ?mode, connections_max, storage, %data, "starting");
    let bells = bells(&layout)?;
    let (lines, controls) = Lines::new(&bells);
    let cluster = Arc::new(Cluster::join(config, &door, &lines, layout.executors)?);
    let names = Arc::new(Names::new(config, connections_max));
    let doors = (listeners, std::mem::take(&mut door.listeners));
    let assembly = Assembly { config, names, cluster: &cluster, lines: &lines, bells: &bells };
    let mut parts = assembly.parts(controls, doors, &mut stores);
    let executors = Executors::start(&layout, bells.clone(), |executor| {
        let parts = parts[executor].take();
        Box::new(move |seat: Seat| async move {
            let parts = parts.ok_or("it was started twice")?;
            Executor::new(seat, parts)?.run().await
        })
    })?;
    lines.open();
    let draining = Arc::new(AtomicBool::new(false));
    let status = StatusSource::new(config, &listen, (&lines, &cluster, stores.reach()), draining.clone());
    let _admin = admin::serve(&config.admin, verbs(status, service))?;
    service.ready(&listen);
    let stop = service.until_stop(|| executors.stalled_ms(), || summary(&lines));
    draining.store(true, Ordering::Relaxed);
    cluster.drain();
    lines.drain(stop, config.drain_ms);
    cluster.leave();
    executors.join()?;
    Ok(())
}

fn verbs(status: StatusSource, service: &Service) -> Verbs {
    let stopper = service.stopper();
    let drain = move |rate| Draining { has_begun: stopper(Stop { rate }), pid: std::process::id() };
    Verbs { status: Box::new(move || status.status()), drain: Box::new(drain) }
}

/// A line for `systemctl status`.
fn summary(lines: &Lines) -> String {
    let totals = lines.totals();
    format!("{} sessions, {} messages in inboxes", totals.sessions, totals.inbox_messages)
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
