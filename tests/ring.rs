//! The network ring of one executor, used directly: keys, deadlines, connects, the end of listening.

// `allow-unwrap-in-tests` does not reach what tests call.
#![allow(clippy::unwrap_used)]

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use iris::cpus::{CpuWish, Layout};
use iris::preflight::{ListenSettings, listen};
use iris::runtime::{Executors, Seat, bells};
use iris::sockets::{Sleep, SocketEvent, SocketSettings, Sockets};

const PATIENCE: Duration = Duration::from_secs(20);

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn unpinned(executors: usize) -> Layout {
    let wish = CpuWish { executors: Some(executors), cpus: None };
    Layout { is_pinned: false, ..Layout::of_process(&wish).unwrap() }
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
fn work_that_comes_while_the_bell_is_armed_prevents_the_sleep() {
    inside(async |mut sockets| {
        let mut looks = 0;
        let is_idle = || {
            looks += 1;
            looks == 1
        };
        let deadline = Some(Instant::now() + PATIENCE);
        sockets.sleep(Sleep { deadline, has_company: false }, is_idle).await.unwrap();
        assert_eq!((looks, sockets.counters().sleeps), (2, 0));
    });
}

#[test]
fn a_watch_for_one_event_becomes_one_for_good() {
    inside(async |mut sockets| {
        let (fd, mut client) = pair();
        let key = sockets.adopt_once(fd).unwrap();
        sockets.watch(key).unwrap();
        for round in 0..3 {
            client.write_all(b"x").unwrap();
            let mut events = Vec::new();
            while events.is_empty() {
                sockets.sleep(Sleep::default(), || true).await.unwrap();
                sockets.gather(&mut events).unwrap();
            }
            assert!(matches!(events[0], SocketEvent::Readable(at) if at == key), "{round}");
            assert_eq!(sockets.read(key, &mut [0; 8]).unwrap(), 1);
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
