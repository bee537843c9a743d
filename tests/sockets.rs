//! The sockets of real executors: echo servers over the network ring, and what clients do to them.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use iris::bell::Bell;
use iris::cpus::{CpuWish, Layout};
use iris::mesh::{Endpoint, mesh};
use iris::preflight::{ListenSettings, listen};
use iris::runtime::{Executors, Seat, bells};
use iris::sockets::{ConnectionKey, RingMode, Sleep, SocketEvent, SocketSettings, Sockets};

const PATIENCE: Duration = Duration::from_secs(20);

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn unpinned(executors: usize) -> Layout {
    let wish = CpuWish { executors: Some(executors), cpus: None };
    Layout { is_pinned: false, ..Layout::of_process(&wish).unwrap() }
}

/// What an echo server does beyond echoing.
#[derive(Clone, Copy, Debug, Default)]
struct Manners {
    /// Closes a connection with its first byte.
    closes_at_once: bool,
    settings: SocketSettings,
}

/// What the test and the server see of each other.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    connections: AtomicUsize,
    accepted: AtomicUsize,
    shed: AtomicUsize,
    accept_errors: AtomicUsize,
}

/// One executor that echoes, as small as a real loop can be.
struct Echo {
    sockets: Sockets,
    manners: Manners,
    /// What did not fit, and whether the peer has ended.
    unsent: HashMap<ConnectionKey, (Vec<u8>, bool)>,
    scratch: Vec<u8>,
    shared: Arc<Shared>,
}

impl Echo {
    fn new(seat: &Seat, manners: Manners, shared: Arc<Shared>) -> Echo {
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

    fn publish(&self) {
        let (shared, counters) = (&self.shared, self.sockets.counters());
        shared.connections.store(self.sockets.connections(), Ordering::Release);
        shared.accepted.store(counters.accepted as usize, Ordering::Release);
        shared.shed.store(counters.shed as usize, Ordering::Release);
        shared.accept_errors.store(counters.accept_errors as usize, Ordering::Release);
    }

    fn on_event(&mut self, event: SocketEvent) {
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

    fn write(&mut self, key: ConnectionKey) {
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

    fn close(&mut self, key: ConnectionKey) {
        self.unsent.remove(&key);
        self.sockets.close(key);
    }
}

/// An echo server on its own executor.
struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    bells: Vec<Bell>,
    executors: Executors,
}

impl Server {
    fn start(executors: usize, manners: Manners) -> Server {
        let layout = unpinned(executors);
        let bells = bells(&layout).unwrap();
        let (address, mut listeners) =
            listen(loopback(), executors, ListenSettings::default()).unwrap();
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

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    fn stop(self) {
        self.shared.stop.store(true, Ordering::Release);
        self.bells.iter().for_each(Bell::ring);
        self.executors.join().unwrap();
    }
}

/// Polls what another thread publishes; bounded, and no test depends on the interval.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < give_up, "never came true: {what}");
        thread::yield_now();
    }
}

fn round_trip(client: &mut TcpStream, bytes: &[u8]) {
    client.write_all(bytes).unwrap();
    let mut answer = vec![0; bytes.len()];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(answer, bytes);
}

fn read_to_end(client: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    match client.read_to_end(&mut all) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
    all
}

fn many_clients(mode: Option<RingMode>) {
    let settings = SocketSettings { mode, ..SocketSettings::default() };
    let server = Server::start(1, Manners { settings, ..Manners::default() });
    let mut clients: Vec<TcpStream> = (0..300).map(|_| server.connect()).collect();
    for round in 0..20u8 {
        for client in &mut clients {
            client.write_all(&[round; 64]).unwrap();
        }
        for client in &mut clients {
            let mut answer = [0; 64];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer, [round; 64]);
        }
    }
    assert_eq!(server.shared.connections.load(Ordering::Acquire), 300);
    drop(clients);
    eventually("all closed", || server.shared.connections.load(Ordering::Acquire) == 0);
    server.stop();
}

#[test]
fn many_clients_are_echoed() {
    many_clients(None);
}

#[test]
fn many_clients_are_echoed_without_deferred_completions() {
    many_clients(Some(RingMode::Cooperative));
}

#[test]
fn many_clients_are_echoed_by_a_plain_ring() {
    many_clients(Some(RingMode::Plain));
}

#[test]
fn tiny_queues_overflow_and_nothing_is_lost() {
    let sizes = iris::sockets::RingSizes { submissions: 2, completions: 4 };
    let settings = SocketSettings { sizes, ..SocketSettings::default() };
    let server = Server::start(1, Manners { settings, ..Manners::default() });
    let mut clients: Vec<TcpStream> = (0..200).map(|_| server.connect()).collect();
    for round in 0..10u8 {
        clients.iter_mut().for_each(|client| client.write_all(&[round; 32]).unwrap());
        for client in &mut clients {
            let mut answer = [0; 32];
            client.read_exact(&mut answer).unwrap();
        }
    }
    drop(clients);
    eventually("all closed", || server.shared.connections.load(Ordering::Acquire) == 0);
    server.stop();
}

#[test]
fn one_client_wakes_the_executor_each_time() {
    for spin in [Duration::ZERO, Duration::from_micros(50)] {
        let settings = SocketSettings { spin, ..SocketSettings::default() };
        let server = Server::start(1, Manners { settings, ..Manners::default() });
        let mut client = server.connect();
        for number in 0..5_000u32 {
            round_trip(&mut client, &number.to_le_bytes());
        }
        server.stop();
    }
}

#[test]
fn a_slow_reader_gets_everything() {
    let server = Server::start(1, Manners::default());
    let client = server.connect();
    let bytes: Vec<u8> = (0..20_000_000u32).map(|number| (number % 251) as u8).collect();
    let mut writing = client.try_clone().unwrap();
    let sent = bytes.clone();
    // More than all buffers hold: the server has to wait for room.
    let writer = thread::spawn(move || {
        writing.write_all(&sent).unwrap();
        writing.shutdown(Shutdown::Write).unwrap();
    });
    let mut client = client;
    let answer = read_to_end(&mut client);
    writer.join().unwrap();
    assert!(answer == bytes, "{} of {} bytes", answer.len(), bytes.len());
    server.stop();
}

#[test]
fn a_half_closed_client_hears_the_answer() {
    let server = Server::start(1, Manners::default());
    for _ in 0..200 {
        let mut client = server.connect();
        client.write_all(b"the end").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut client), b"the end");
    }
    eventually("all closed", || server.shared.connections.load(Ordering::Acquire) == 0);
    server.stop();
}

#[test]
fn data_and_end_in_one_go_leak_nothing() {
    let server = Server::start(1, Manners::default());
    for _ in 0..500 {
        let mut client = server.connect();
        client.write_all(b"gone").unwrap();
    }
    eventually("all closed", || {
        let accepted = server.shared.accepted.load(Ordering::Acquire);
        accepted == 500 && server.shared.connections.load(Ordering::Acquire) == 0
    });
    server.stop();
}

#[test]
fn a_connection_closed_while_armed_ends_at_once() {
    let server = Server::start(1, Manners { closes_at_once: true, ..Manners::default() });
    let mut clients: Vec<TcpStream> = (0..200).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.write_all(b"x").unwrap());
    clients.iter_mut().for_each(|client| assert!(read_to_end(client).is_empty()));
    // Without another wake-up from outside: the cancellations alone finish it.
    eventually("all closed", || server.shared.connections.load(Ordering::Acquire) == 0);
    server.stop();
}

#[test]
fn executors_share_the_clients() {
    let server = Server::start(3, Manners::default());
    let mut clients: Vec<TcpStream> = (0..60).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| round_trip(client, b"hello"));
    server.stop();
}

#[test]
fn sixty_four_executors_start_and_serve() {
    let server = Server::start(64, Manners::default());
    let mut clients: Vec<TcpStream> = (0..128).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| round_trip(client, b"hello"));
    server.stop();
}

/// A connection that changes executors, with the bytes already read.
struct Handed {
    fd: OwnedFd,
    unparsed: Vec<u8>,
}

/// Accepts, reads the first 4 bytes, and hands over what it has by then.
async fn greet(mut echo: Echo, mut end: Endpoint<Handed>) -> Result<(), String> {
    let mut events = Vec::new();
    let mut begun: HashMap<ConnectionKey, Vec<u8>> = HashMap::new();
    while !echo.shared.stop.load(Ordering::Acquire) {
        echo.sockets.gather(&mut events).unwrap();
        for event in events.drain(..) {
            match event {
                SocketEvent::Accepted(_, fd) => {
                    let key = echo.sockets.adopt_once(fd).unwrap();
                    let busy = echo.sockets.release(key).unwrap_err();
                    assert_eq!(busy.kind(), ErrorKind::ResourceBusy);
                }
                // The client may have sent everything and ended by now: the other one finds out.
                SocketEvent::Readable(key) | SocketEvent::Hangup(key) => {
                    let bytes = begun.entry(key).or_default();
                    // Few at a time: the greeting comes in pieces.
                    let count = echo.sockets.read(key, &mut echo.scratch[..3]).unwrap();
                    bytes.extend_from_slice(&echo.scratch[..count]);
                    if bytes.len() < 4 {
                        echo.sockets.watch_once(key).unwrap();
                        continue;
                    }
                    let unparsed = begun.remove(&key).unwrap();
                    let fd = echo.sockets.release(key).unwrap();
                    assert!(!echo.sockets.is_open(key));
                    end.outbound.push(1, Handed { fd, unparsed });
                }
                other => panic!("{other:?}"),
            }
        }
        end.outbound.flush();
        let stop = &echo.shared.stop;
        let is_idle = || end.inbound.is_idle() && !stop.load(Ordering::Acquire);
        echo.sockets.sleep(Sleep::default(), is_idle).await.unwrap();
        echo.sockets.give_way().await.unwrap();
    }
    assert_eq!(echo.sockets.connections(), 0);
    Ok(())
}

async fn take_over(mut echo: Echo, mut end: Endpoint<Handed>) -> Result<(), String> {
    let mut events = Vec::new();
    while !echo.shared.stop.load(Ordering::Acquire) {
        end.inbound.drain(64, |from, handed| {
            assert_eq!(from, 0);
            let key = echo.sockets.adopt(handed.fd).unwrap();
            echo.unsent.insert(key, (handed.unparsed, false));
            echo.write(key);
        });
        echo.sockets.gather(&mut events).unwrap();
        for event in events.drain(..) {
            echo.on_event(event);
        }
        echo.publish();
        let stop = &echo.shared.stop;
        let is_idle = || end.inbound.is_idle() && !stop.load(Ordering::Acquire);
        echo.sockets.sleep(Sleep::default(), is_idle).await.unwrap();
        echo.sockets.give_way().await.unwrap();
    }
    Ok(())
}

#[test]
fn a_handed_over_connection_loses_no_pipelined_byte() {
    let layout = unpinned(2);
    let bells = bells(&layout).unwrap();
    let mut ends = mesh::<Handed>(bells.clone(), 0);
    let (address, mut listeners) = listen(loopback(), 1, ListenSettings::default()).unwrap();
    let shared = Arc::new(Shared::default());
    let executors = Executors::start(&layout, bells.clone(), |executor| {
        let (shared, end, listener) = (Arc::clone(&shared), ends.remove(0), listeners.pop());
        Box::new(move |seat: Seat| async move {
            let mut echo = Echo::new(&seat, Manners::default(), shared);
            seat.ready();
            if executor == 1 {
                return take_over(echo, end).await;
            }
            echo.sockets.listen(listener.unwrap()).unwrap();
            greet(echo, end).await
        })
    })
    .unwrap();
    let server = Server { address, shared, bells, executors };
    let clients: Vec<_> = (0..100u32)
        .map(|number| {
            let mut client = server.connect();
            thread::spawn(move || {
                let bytes: Vec<u8> = (0..20_000).map(|at| (at * 7 + number) as u8).collect();
                client.write_all(&bytes[..2]).unwrap();
                client.write_all(&bytes[2..]).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
                assert!(read_to_end(&mut client) == bytes);
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    eventually("all closed", || server.shared.connections.load(Ordering::Acquire) == 0);
    server.stop();
}

/// Runs once, inside an executor of its own.
fn inside<T: Send + 'static>(test: impl AsyncFnOnce(Sockets) -> T + Send + 'static) -> T {
    let layout = unpinned(1);
    let (done, result) = mpsc::channel();
    let mut test = Some(test);
    let executors = Executors::start(&layout, bells(&layout).unwrap(), |_| {
        let (test, done) = (test.take().unwrap(), done.clone());
        Box::new(move |seat: Seat| async move {
            seat.ready();
            let sockets = Sockets::new(SocketSettings::default(), seat.pulse.clone()).unwrap();
            done.send(test(sockets).await).unwrap();
            Ok(())
        })
    });
    let result = result.recv_timeout(PATIENCE).unwrap();
    executors.unwrap().join().unwrap();
    result
}

fn pair() -> (OwnedFd, TcpStream) {
    let listener = std::net::TcpListener::bind(loopback()).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0.into(), client)
}

#[test]
fn a_key_dies_with_its_connection() {
    inside(async |mut sockets| {
        let (fd, _first) = pair();
        let old = sockets.adopt(fd).unwrap();
        sockets.close(old);
        let mut events = Vec::new();
        while sockets.connections() > 0 {
            sockets.gather(&mut events).unwrap();
        }
        assert!(events.is_empty(), "no event after a close: {events:?}");
        let (fd, mut second) = pair();
        let new = sockets.adopt(fd).unwrap();
        assert_eq!(new.index(), old.index(), "the index is used again");
        assert_ne!(new, old);
        second.write_all(b"x").unwrap();
        let dead = sockets.read(old, &mut [0; 8]).unwrap_err();
        assert_eq!(dead.kind(), ErrorKind::NotConnected);
        assert_eq!(sockets.write(old, b"x").unwrap_err().kind(), ErrorKind::NotConnected);
        sockets.close(old);
        assert!(sockets.is_open(new) && !sockets.is_open(old));
    });
}

#[test]
fn a_sleep_ends_at_its_deadline_also_when_an_earlier_one_follows() {
    inside(async |mut sockets| {
        let mut events = Vec::new();
        let far = Instant::now() + Duration::from_secs(3600);
        for after in [Duration::from_millis(30), Duration::from_millis(10)] {
            let started = Instant::now();
            let deadline = Some(started + after);
            // A later deadline is armed first.
            sockets.sleep(Sleep { deadline: Some(far), has_company: false }, || false).await.unwrap();
            while started.elapsed() < after {
                let sleep = Sleep { deadline, has_company: false };
                sockets.sleep(sleep, || true).await.unwrap();
                sockets.gather(&mut events).unwrap();
            }
            assert!(started.elapsed() < PATIENCE);
        }
        let earlier = Instant::now() + Duration::from_millis(20);
        let bell = sockets.bell().clone();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(1));
            bell.ring();
        });
        sockets.sleep(Sleep { deadline: Some(far), has_company: false }, || true).await.unwrap();
        while Instant::now() < earlier {
            let sleep = Sleep { deadline: Some(earlier), has_company: true };
            sockets.sleep(sleep, || true).await.unwrap();
            sockets.gather(&mut events).unwrap();
        }
    });
}

#[test]
fn files_go_on_while_the_loop_is_busy() {
    inside(async |mut sockets| {
        let finished = std::rc::Rc::new(std::cell::Cell::new(false));
        let told = std::rc::Rc::clone(&finished);
        glommio::spawn_local(async move {
            glommio::timer::sleep(Duration::from_millis(1)).await;
            told.set(true);
        })
        .detach();
        let (mut events, started) = (Vec::new(), Instant::now());
        while !finished.get() {
            assert!(started.elapsed() < PATIENCE);
            sockets.gather(&mut events).unwrap();
            // Never idle: it may not sleep.
            sockets.sleep(Sleep::default(), || false).await.unwrap();
            sockets.give_way().await.unwrap();
        }
    });
}

#[test]
fn an_outgoing_connection_reports_how_it_ended() {
    use socket2::{Domain, Socket, Type};
    inside(async |mut sockets| {
        let listener = std::net::TcpListener::bind(loopback()).unwrap();
        let open = listener.local_addr().unwrap();
        let closed = std::net::TcpListener::bind(loopback()).unwrap().local_addr().unwrap();
        for (address, is_refused) in [(open, false), (closed, true)] {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            // Loopback may answer at once, either way.
            let _ = socket.connect(&address.into());
            let key = sockets.adopt(socket.into()).unwrap();
            sockets.watch_writable(key).unwrap();
            let mut events = Vec::new();
            let is_writable = |event: &SocketEvent| matches!(event, SocketEvent::Writable(at) if *at == key);
            while !events.iter().any(is_writable) {
                sockets.sleep(Sleep::default(), || true).await.unwrap();
                sockets.gather(&mut events).unwrap();
            }
            let is_connected = sockets.peer_address(key) == Some(address);
            assert_eq!(is_connected, !is_refused);
            sockets.close(key);
        }
    });
}

#[test]
fn stopped_listeners_refuse() {
    inside(async |mut sockets| {
        let (address, mut listeners) = listen(loopback(), 1, ListenSettings::default()).unwrap();
        sockets.listen(listeners.remove(0)).unwrap();
        let mut events = Vec::new();
        sockets.gather(&mut events).unwrap();
        assert!(sockets.is_listening());
        sockets.stop_listening().unwrap();
        while sockets.is_listening() {
            sockets.sleep(Sleep::default(), || true).await.unwrap();
            sockets.gather(&mut events).unwrap();
        }
        // The kernel lets go of the socket with the accept that held it.
        let give_up = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_ok() {
            assert!(Instant::now() < give_up);
        }
    });
}

#[test]
fn accepted_sockets_are_closed_on_exec_and_without_delay() {
    inside(async |mut sockets| {
        let (address, mut listeners) = listen(loopback(), 1, ListenSettings::default()).unwrap();
        sockets.listen(listeners.remove(0)).unwrap();
        let (mut events, client) = (Vec::new(), TcpStream::connect(address).unwrap());
        while events.is_empty() {
            sockets.sleep(Sleep::default(), || true).await.unwrap();
            sockets.gather(&mut events).unwrap();
        }
        let Some(SocketEvent::Accepted(_, fd)) = events.pop() else { panic!("{events:?}") };
        let info = format!("/proc/self/fdinfo/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
        let info = std::fs::read_to_string(info).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
        assert_ne!(flags & libc::O_CLOEXEC, 0);
        let socket = socket2::Socket::from(fd);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.nonblocking().unwrap());
        drop(client);
    });
}

/// Run by the next test, in a process of its own with few descriptors.
#[test]
#[ignore = "a child process of the next test"]
fn server_without_descriptors() {
    let server = Server::start(1, Manners::default());
    println!("\nPORT {}", server.address.port());
    // Until the parent says so.
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let shared = &server.shared;
    let shed = shared.shed.load(Ordering::Acquire);
    println!("\nSHED {shed} {}", shared.accept_errors.load(Ordering::Acquire));
    server.stop();
}

#[test]
fn without_descriptors_it_neither_spins_nor_hangs() {
    let test = std::env::current_exe().unwrap();
    let arguments = "--exact server_without_descriptors --ignored --nocapture --test-threads 1";
    let mut child = Command::new("sh")
        .args(["-c", &format!("ulimit -n 64; exec \"$0\" {arguments}")])
        .arg(test)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    let port = number_after("PORT ", &mut output)[0];
    let address = SocketAddr::from(([127, 0, 0, 1], port as u16));
    let connect = || {
        let client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    };
    let mut clients: Vec<TcpStream> = (0..150).map(|_| connect()).collect();
    // Each is either served or told to go, none waits for ever.
    let served: Vec<bool> = clients.iter_mut().map(is_served).collect();
    let count = served.iter().filter(|served| **served).count();
    assert!((10..64).contains(&count), "{count} served");
    // Full, and one more: it is told to go, too.
    assert!(!is_served(&mut connect()));
    drop(clients);
    // There is room again: after a while everybody is served.
    let give_up = Instant::now() + PATIENCE;
    while !is_served(&mut connect()) {
        assert!(Instant::now() < give_up, "it never accepted again");
    }
    child.stdin.take().unwrap().write_all(b"stop\n").unwrap();
    let [shed, errors] = number_after("SHED ", &mut output)[..] else { panic!("two numbers") };
    assert!(child.wait().unwrap().success());
    assert!(shed > 0 && errors > 0, "{shed} {errors}");
    assert!(errors < 300, "it span: {errors} failed accepts");
}

fn is_served(client: &mut TcpStream) -> bool {
    let mut answer = [0; 5];
    client.write_all(b"hello").is_ok() && client.read_exact(&mut answer).is_ok()
}

fn number_after(word: &str, output: &mut impl std::io::BufRead) -> Vec<u64> {
    let mut line = String::new();
    while output.read_line(&mut line).unwrap() > 0 {
        if let Some(rest) = line.trim_end().strip_prefix(word) {
            return rest.split(' ').map(|number| number.parse().unwrap()).collect();
        }
        line.clear();
    }
    panic!("the child said nothing about {word}");
}
