//! A small echo server over the network ring, as tests of the sockets need it.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use iris::bell::Bell;
use iris::cpus::{CpuWish, Layout};
use iris::preflight::{ListenSettings, listen};
use iris::runtime::{Executors, Seat, bells};
use iris::sockets::{ConnectionKey, Sleep, SocketEvent, SocketSettings, Sockets};

pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub fn unpinned(executors: usize) -> Layout {
    let wish = CpuWish { executors: Some(executors), cpus: None };
    Layout { is_pinned: false, ..Layout::of_process(&wish).unwrap() }
}

/// What an echo server does beyond echoing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manners {
    /// Closes a connection with its first byte.
    pub closes_at_once: bool,
    pub settings: SocketSettings,
}

/// What the test and the server see of each other.
#[derive(Default)]
pub struct Shared {
    pub stop: AtomicBool,
    pub connections: AtomicUsize,
    pub accepted: AtomicUsize,
    pub shed: AtomicUsize,
    pub accept_errors: AtomicUsize,
}

/// One executor that echoes, as small as a real loop can be.
pub struct Echo {
    pub sockets: Sockets,
    pub manners: Manners,
    /// What did not fit, and whether the peer has ended.
    pub unsent: HashMap<ConnectionKey, (Vec<u8>, bool)>,
    pub scratch: Vec<u8>,
    pub shared: Arc<Shared>,
}

impl Echo {
    pub fn new(seat: &Seat, manners: Manners, shared: Arc<Shared>) -> Echo {
        let sockets = Sockets::new(manners.settings, seat.pulse.clone()).unwrap();
        Echo { sockets, manners, unsent: HashMap::new(), scratch: vec![0; 65_536], shared }
    }

    async fn run(mut self) -> Result<(), String> {
        let mut events = Vec::new();
        while !self.shared.stop.load(Ordering::Acquire) {
            self.sockets.gather(&mut events).unwrap();
            for event in events.drain(..) {
                self.on_event(event);
            }
            self.publish();
            let shared = &self.shared;
            let is_idle = || !shared.stop.load(Ordering::Acquire);
            self.sockets.sleep(Sleep::default(), is_idle).await.unwrap();
            self.sockets.give_way().await.unwrap();
        }
        Ok(())
    }

    pub fn publish(&self) {
        let (shared, counters) = (&self.shared, self.sockets.counters());
        shared.connections.store(self.sockets.connections(), Ordering::Release);
        shared.accepted.store(counters.accepted as usize, Ordering::Release);
        shared.shed.store(counters.shed as usize, Ordering::Release);
        shared.accept_errors.store(counters.accept_errors as usize, Ordering::Release);
    }

    pub fn on_event(&mut self, event: SocketEvent) {
        match event {
            SocketEvent::Accepted(_, fd) => {
                self.sockets.adopt(fd).unwrap();
            }
            SocketEvent::AcceptFailed(..) => {}
            SocketEvent::Readable(key) => self.on_readable(key, false),
            SocketEvent::Hangup(key) => self.on_readable(key, true),
            SocketEvent::Writable(key) => self.write(key),
        }
    }

    fn on_readable(&mut self, key: ConnectionKey, to_the_end: bool) {
        while self.sockets.is_open(key) {
            let result = self.sockets.read(key, &mut self.scratch);
            let unsent = self.unsent.entry(key).or_default();
            match result {
                Ok(0) => {
                    unsent.1 = true;
                    return self.write(key);
                }
                Ok(_) if self.manners.closes_at_once => return self.close(key),
                Ok(count) => unsent.0.extend_from_slice(&self.scratch[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.write(key),
                Err(_) => return self.close(key),
            }
            let is_short = result.is_ok_and(|count| count < self.scratch.len());
            if is_short && !to_the_end {
                return self.write(key);
            }
        }
    }

    pub fn write(&mut self, key: ConnectionKey) {
        let Some((bytes, has_ended)) = self.unsent.get_mut(&key) else { return };
        while !bytes.is_empty() {
            match self.sockets.write(key, bytes) {
                Ok(count) => drop(bytes.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return self.sockets.watch_writable(key).unwrap();
                }
                Err(_) => return self.close(key),
            }
        }
        if *has_ended {
            return self.close(key);
        }
        self.unsent.remove(&key);
    }

    pub fn close(&mut self, key: ConnectionKey) {
        self.unsent.remove(&key);
        self.sockets.close(key);
    }
}

/// An echo server on its own executor.
pub struct Server {
    pub address: SocketAddr,
    pub shared: Arc<Shared>,
    pub bells: Vec<Bell>,
    pub executors: Executors,
}

impl Server {
    pub fn start(executors: usize, manners: Manners) -> Server {
        let layout = unpinned(executors);
        let bells = bells(&layout).unwrap();
        let (address, mut listeners) = listen(loopback(), executors, ListenSettings::default()).unwrap();
        let shared = Arc::new(Shared::default());
        let running = Executors::start(&layout, bells.clone(), |_| {
            let (shared, listener) = (Arc::clone(&shared), listeners.remove(0));
            Box::new(move |seat: Seat| async move {
                let mut echo = Echo::new(&seat, manners, shared);
                echo.sockets.listen(listener).unwrap();
                seat.ready();
                echo.run().await
            })
        })
        .unwrap();
        Server { address, shared, bells, executors: running }
    }

    pub fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    pub fn stop(self) {
        self.shared.stop.store(true, Ordering::Release);
        self.bells.iter().for_each(Bell::ring);
        self.executors.join().unwrap();
    }
}

/// Polls what another thread publishes; bounded, and no test depends on the interval.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < give_up, "never came true: {what}");
        thread::yield_now();
    }
}

pub fn round_trip(client: &mut TcpStream, bytes: &[u8]) {
    client.write_all(bytes).unwrap();
    let mut answer = vec![0; bytes.len()];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(answer, bytes);
}

pub fn read_to_end(client: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    match client.read_to_end(&mut all) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
    all
}
