//! Dials other nodes away from the executors: resolving a name blocks, and so may a connect.
//!
//! A short-lived thread per dial under way, at most [`DIALS_MAX`]; the connected socket goes to the executor that asked.

use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::Sender;
use iris_shards::id::NodeId;

use crate::bell::Bell;
use crate::executor::Control;

/// Dials under way on one node.
const DIALS_MAX: usize = 256;
/// How long one address may take.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Resolving names needs more than the machines do.
const STACK_BYTES: usize = 512 << 10;

/// How a dial ended.
pub type Dialled = Result<OwnedFd, String>;

/// Makes connections for one executor.
#[derive(Debug, Clone)]
pub struct Dialer {
    under_way: Arc<AtomicUsize>,
    control: Sender<Control>,
    bell: Bell,
}

impl Dialer {
    /// For the executor behind this line. `under_way` is shared by the executors of the node.
    pub fn new(under_way: Arc<AtomicUsize>, control: Sender<Control>, bell: Bell) -> Self {
        Dialer { under_way, control, bell }
    }

    /// Dials; the outcome comes as [`Control::Dialled`]. False if too many dials are under way.
    pub fn dial(&self, node: NodeId, attempt: u64, address: String) -> bool {
        if self.under_way.fetch_add(1, Ordering::Relaxed) >= DIALS_MAX {
            self.under_way.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        let this = self.clone();
        let thread = std::thread::Builder::new().name("iris-dial".into()).stack_size(STACK_BYTES);
        let spawned = thread.spawn(move || {
            let outcome = connect(&address);
            this.under_way.fetch_sub(1, Ordering::Relaxed);
            // Fails when the executor has ended.
            if this.control.send(Control::Dialled { node, attempt, outcome }).is_ok() {
                this.bell.ring();
            }
        });
        if spawned.is_err() {
            self.under_way.fetch_sub(1, Ordering::Relaxed);
        }
        spawned.is_ok()
    }
}

/// Tries the addresses of a name in turn.
fn connect(address: &str) -> Dialled {
    let addresses = address.to_socket_addrs().map_err(|error| format!("{address} cannot be resolved: {error}"))?;
    let mut last = format!("{address} has no address");
    for at in addresses {
        match TcpStream::connect_timeout(&at, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(|error| error.to_string())?;
                return Ok(stream.into());
            }
            Err(error) => last = format!("{at}: {error}"),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_outcome_comes_with_the_number_of_the_attempt() {
        let (sender, control) = crossbeam_channel::bounded(4);
        let dialer = Dialer::new(Arc::default(), sender, Bell::new().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert!(dialer.dial(NodeId(7), 3, address.clone()));
        let Ok(Control::Dialled { node, attempt, outcome }) = control.recv() else { panic!() };
        assert_eq!((node, attempt, outcome.is_ok()), (NodeId(7), 3, true));
        drop(listener);
        assert!(dialer.dial(NodeId(7), 4, address.clone()));
        let Ok(Control::Dialled { outcome: Err(cause), .. }) = control.recv() else { panic!() };
        assert!(cause.contains(&address), "{cause}");
    }

    #[test]
    fn too_many_dials_wait() {
        let under_way = Arc::new(AtomicUsize::new(DIALS_MAX));
        let dialer = Dialer::new(under_way, crossbeam_channel::bounded(1).0, Bell::new().unwrap());
        assert!(!dialer.dial(NodeId(1), 1, "127.0.0.1:1".into()));
    }
}
