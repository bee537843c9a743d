//! The process as a service: signals in, readiness and health out (systemd's `sd_notify(3)` protocol, without its library).
//!
//! Owns the thread that waits for signals and the notification socket. The first SIGTERM or SIGINT asks for a drain; a
//! second SIGINT ends the process at once. Without systemd the notifications go nowhere.

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;
use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::time::Duration;

/// What a shell sees of a process that SIGINT ended: 128 + 2.
const EXIT_INTERRUPTED: i32 = 130;
/// How often the status line and the watchdog are served.
const BEAT_MAX: Duration = Duration::from_secs(5);
/// A year.
const NEVER: Duration = Duration::from_secs(31_536_000);
/// An executor that is silent for longer than this keeps the watchdog unfed.
const STALLED_MS_MAX: u64 = 5_000;

/// Is told where the node listens.
type Announce = Box<dyn Fn(&[SocketAddr]) + Send>;

/// A wish that the node stops.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stop {
    /// Clients per second that are asked to leave; `None`: as the configuration spreads them.
    pub rate: Option<u32>,
}

/// See the module.
pub struct Service {
    /// Asks the process to stop.
    ask: Sender<Stop>,
    /// Hears once that the process is to stop.
    stop: Receiver<Stop>,
    announce: Announce,
    notify: Notify,
}

impl Service {
    /// Catches SIGTERM and SIGINT from now on; `announce` is told the addresses once, when the node serves.
    ///
    /// Errors: the process cannot have another thread or descriptor.
    pub fn start(announce: impl Fn(&[SocketAddr]) + Send + 'static) -> io::Result<Service> {
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        let (ask, stop) = bounded(1);
        let asked = ask.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            let mut is_stopping = false;
            for signal in &mut signals {
                if is_stopping && signal == SIGINT {
                    std::process::exit(EXIT_INTERRUPTED);
                }
                is_stopping = true;
                tracing::info!(signal = signal_name(signal).unwrap_or("?"), "stopping: clients are asked to leave");
                // Full: a drain was asked for already.
                let _ = asked.try_send(Stop::default());
            }
        })?;
        Ok(Service { ask, stop, announce: Box::new(announce), notify: Notify::from_environment() })
    }

    /// Another way to ask for a drain, beside signals. False if one was asked for already.
    pub fn stopper(&self) -> impl Fn(Stop) -> bool + Send + Sync + 'static {
        let ask = self.ask.clone();
        move |stop| ask.try_send(stop).is_ok()
    }

    /// Every executor accepts on these addresses.
    pub fn ready(&self, listen: &[SocketAddr]) {
        (self.announce)(listen);
        let addresses: Vec<String> = listen.iter().map(ToString::to_string).collect();
        self.notify.send(&format!("READY=1\nSTATUS=listening on {}", addresses.join(", ")));
    }

    /// Waits for a signal or a verb that asks the node to stop, and feeds systemd's watchdog meanwhile unless an executor has been
    /// silent for long. Then tells systemd that the node stops.
    ///
    /// `stalled_ms`: for how long the slowest executor has not answered. `status`: a short line for `systemctl status`.
    pub fn until_stop(&self, stalled_ms: impl Fn() -> u64, status: impl Fn() -> String) -> Stop {
        let stop = loop {
            match self.stop.recv_timeout(self.notify.beat()) {
                Ok(stop) => break stop,
                Err(RecvTimeoutError::Timeout) => self.beat(stalled_ms(), &status),
                Err(RecvTimeoutError::Disconnected) => break Stop::default(),
            }
        };
        self.notify.send("STOPPING=1\nSTATUS=draining");
        stop
    }

    fn beat(&self, stalled_ms: u64, status: &impl Fn() -> String) {
        if stalled_ms > STALLED_MS_MAX {
            tracing::error!(stalled_ms, "an executor does not answer; the watchdog is not fed");
            return;
        }
        self.notify.send(&format!("WATCHDOG=1\nSTATUS={}", status().replace('\n', " ")));
    }
}

/// The socket that systemd listens on, if it does.
struct Notify {
    socket: Option<(UnixDatagram, UnixAddress)>,
    /// Within which time systemd wants to hear from us.
    watchdog: Option<Duration>,
}

impl Notify {
    fn from_environment() -> Self {
        let address = std::env::var("NOTIFY_SOCKET").ok().and_then(|name| address_of(&name));
        let socket = address.and_then(|address| Some((UnixDatagram::unbound().ok()?, address)));
        let is_ours = std::env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
        let timeout = std::env::var("WATCHDOG_USEC").ok().and_then(|usec| usec.parse().ok());
        Notify { socket, watchdog: timeout.filter(|_| is_ours).map(Duration::from_micros) }
    }

    /// Often enough for the watchdog. Without systemd nobody listens, and the process may sleep.
    fn beat(&self) -> Duration {
        match (&self.socket, self.watchdog) {
            (None, _) => NEVER,
            (Some(_), None) => BEAT_MAX,
            (Some(_), Some(timeout)) => (timeout / 3).min(BEAT_MAX),
        }
    }

    fn send(&self, state: &str) {
        let Some((socket, address)) = &self.socket else { return };
        if let Err(error) = socket.send_to_addr(state.as_bytes(), address) {
            tracing::warn!(%error, "systemd cannot be told: {state}");
        }
    }
}

/// A leading `@` stands for the abstract namespace.
fn address_of(name: &str) -> Option<UnixAddress> {
    match name.strip_prefix('@') {
        Some(name) => UnixAddress::from_abstract_name(name).ok(),
        None => UnixAddress::from_pathname(name).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(name: &str, socket: &UnixDatagram) -> String {
        let address = address_of(name).expect("an address");
        let ours = UnixDatagram::unbound().expect("a socket");
        Notify { socket: Some((ours, address)), watchdog: None }.send("READY=1");
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).expect("a datagram");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn systemd_hears_us_by_path_and_by_abstract_name() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bound");
        assert_eq!(heard(path.to_str().expect("UTF-8"), &socket), "READY=1");
        let name = format!("iris-test-{}", std::process::id());
        let address = UnixAddress::from_abstract_name(&name).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("bound");
        assert_eq!(heard(&format!("@{name}"), &socket), "READY=1");
    }
}
