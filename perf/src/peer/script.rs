//! Starts peers by `scripts/peers`, of which this program carries a copy, so that it works anywhere.

use super::Peer;
use anyhow::{Context, Result, ensure};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SCRIPT: &str = include_str!("../../../scripts/peers");
const READY_LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);
const PORT_MIN: u16 = 20_000;
const PORTS: u32 = 10_000;

fn script(verb: &str, peer: Peer) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT, "peers", verb, peer.name()]);
    command
}

/// Why the peer cannot be started on this machine, if so.
pub fn missing(peer: Peer) -> Result<Option<String>> {
    if !peer.is_scripted() {
        return Ok(None);
    }
    let output = script("has", peer).stdin(Stdio::null()).output().context("cannot run sh")?;
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Ok((!output.status.success()).then_some(words))
}

/// A free port below those that the kernel hands out, so that no connection takes it before the server does.
fn free_address() -> Result<SocketAddr> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    let start = std::process::id().wrapping_mul(7_919).wrapping_add(now / 1_000);
    let port = |turn: u32| PORT_MIN + (start.wrapping_add(turn * 97) % PORTS) as u16;
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let free = (0..PORTS).map(port).find(is_free).context("no port is free")?;
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, free)))
}

/// What becomes the server, on a port that is free now, with everything in `directory`.
pub fn command(peer: Peer, directory: &Path) -> Result<(Command, SocketAddr)> {
    let free = free_address()?;
    let mut command = script("start", peer);
    command.arg(directory).arg(free.port().to_string());
    Ok((command, free))
}

/// Waits until it accepts connections.
pub fn wait_ready(child: &mut Child, address: SocketAddr) -> Result<()> {
    let end = Instant::now() + READY_LIMIT;
    while TcpStream::connect(address).is_err() {
        let status = child.try_wait()?;
        ensure!(status.is_none() && Instant::now() < end, "it ended, or was not ready in time");
        thread::sleep(PAUSE);
    }
    Ok(())
}
