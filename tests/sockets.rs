//! Echo servers over the network ring of real executors, and what clients do to them.

// `allow-unwrap-in-tests` does not reach what tests call.
#![allow(clippy::unwrap_used)]

mod echo;

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use iris::mesh::{Endpoint, mesh};
use iris::preflight::{ListenSettings, listen};
use iris::runtime::{Executors, Seat, bells};
use iris::sockets::{ConnectionKey, RingMode, RingSizes, Sleep, SocketEvent, SocketSettings};

use echo::{Echo, Manners, PATIENCE, Server, Shared, eventually, loopback, read_to_end, round_trip, unpinned};

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
    let sizes = RingSizes { submissions: 2, completions: 4 };
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
