//! Starts peers by `scripts/peers`, of which this program carries a copy, so that it works anywhere.

use super::Peer;
use anyhow::{Context, Result, ensure};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const SCRIPT: &str = include_str!("../../../scripts/peers");
const READY_LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

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

/// What becomes the server, on a port that is free now, with everything in `directory`.
pub fn command(peer: Peer, directory: &Path) -> Result<(Command, SocketAddr)> {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
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
