//! A running node as scripts, systemd and other processes see it: ready, talked to, told to stop, killed.

mod process;

use iris_shards::frame::{ClientFrame, Code, Decoded, Hello, ServerFrame, decode_server};
use process::{Node, PATIENCE, Running, run, run_with, wait};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

/// A client that logs in and then does nothing, not even what it is asked to.
fn stubborn(node: &Node, user: &str) -> TcpStream {
    let mut stream = TcpStream::connect(&node.address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let user = user.as_bytes();
    let hello = Hello { version_min: 1, version_max: 1, capabilities: 0, user, token: &[], agent: "stubborn" };
    let mut out = Vec::new();
    ClientFrame::Hello(hello).encode(&mut out);
    stream.write_all(&out).expect("written");
    let mut first = [0; 5];
    stream.read_exact(&mut first).expect("WELCOME");
    assert_eq!(first[4], 0x81);
    let mut rest = vec![0; u32::from_be_bytes(first[..4].try_into().expect("four")) as usize - 1];
    stream.read_exact(&mut rest).expect("WELCOME");
    stream
}

/// The names of the frames that come until the connection ends.
fn last_words(mut stream: TcpStream) -> Vec<String> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("the end");
    let mut rest = bytes.as_slice();
    let mut words = Vec::new();
    while let Ok(Decoded::Frame { frame, used }) = decode_server(rest, 1 << 20) {
        rest = &rest[used..];
        words.push(match frame {
            ServerFrame::Drain { .. } => "drain".to_owned(),
            ServerFrame::Close { code, .. } => {
                Code::from_number(code).map_or_else(|| code.to_string(), |code| code.name().to_owned())
            }
            other => format!("{other:?}"),
        });
    }
    words
}

fn configured(drain_ms: u32) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("iris.ron");
    std::fs::write(&file, format!("(node: (name: \"n1\", region: \"tokyo\", drain_ms: {drain_ms}))")).expect("written");
    let file = file.to_str().expect("UTF-8").to_owned();
    (directory, file)
}

#[test]
fn a_message_goes_from_send_to_listen() {
    let node = Node::start();
    let sent = node.run(&["send", "--user", "alice", "bob", "hello", "world"]);
    assert_eq!(sent.code, Some(0), "{}", sent.err);
    let id = sent.out.trim().strip_prefix("stored ").expect("stored").to_owned();
    let heard = node.run(&["listen", "--user", "bob", "--count", "1", "--json"]).json();
    assert_eq!((heard["id"].as_str(), heard["sender"].as_str()), (Some(id.as_str()), Some("alice")));
    assert_eq!(heard["text"], "hello world");
    assert!(heard["sent_at"].as_u64().is_some_and(|at| at > 1_600_000_000_000));
    let silence = node.run(&["listen", "--user", "bob", "--timeout", "0.3"]);
    assert_eq!(silence.code, Some(5), "{}", silence.out);
}

#[test]
fn a_listener_makes_it_delivered() {
    let node = Node::with(&["--executors", "3"]);
    let listener = Running::start(node.client(&["listen", "--user", "bob", "--json"]));
    for text in ["one", "two", "three"] {
        let sent =
            node.run(&["send", "--user", "alice", "bob", text, "--wait", "delivered", "--timeout", "30", "--json"]);
        assert_eq!(sent.code, Some(0), "{}", sent.err);
        let heard: Value = serde_json::from_str(&listener.lines.next().expect("a line")).expect("JSON");
        assert_eq!(heard["text"], text);
        let last: Value = serde_json::from_str(sent.out.lines().last().expect("a line")).expect("JSON");
        assert_eq!((&last["state"], &last["id"]), (&Value::from("delivered"), &heard["id"]));
    }
    let away = node.run(&["send", "--user", "alice", "carol", "hi", "--wait", "delivered", "--timeout", "0.5"]);
    assert_eq!(away.code, Some(5), "{}", away.err);
    assert!(away.err.contains("stored, but not delivered"), "{}", away.err);
}

#[test]
fn bytes_that_are_no_text_arrive_as_base64_and_cannot_steer_a_terminal() {
    let node = Node::start();
    let bytes = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(bytes.path(), [0xff, 0x00, 0x10]).expect("written");
    let mut send = node.client(&["send", "--user", "alice", "bob"]);
    send.stdin(std::fs::File::open(bytes.path()).expect("a file"));
    assert!(send.status().expect("run").success());
    assert_eq!(node.run(&["send", "--user", "alice", "bob", "\x1b[2Jboo"]).code, Some(0));
    let first = node.run(&["listen", "--user", "bob", "--count", "1", "--json"]).json();
    assert_eq!((first["body"].as_str(), first.get("text")), (Some("/wAQ"), None));
    let second = node.run(&["listen", "--user", "bob", "--count", "1"]);
    assert!(second.out.ends_with(" alice: \\u{1b}[2Jboo\n"), "{}", second.out);
}

#[test]
fn what_is_too_large_is_refused_with_a_reason() {
    let node = Node::start();
    let text = "x".repeat(65_537);
    let done = node.run(&["send", "--user", "alice", "bob", &text]);
    assert_eq!(done.code, Some(3), "{}", done.err);
    assert!(done.err.contains("65537 bytes, at most 65536"), "{}", done.err);
}

#[test]
fn a_later_login_takes_over() {
    let node = Node::start();
    let mut first = Running::start(node.client(&["listen", "--user", "bob", "--json"]));
    node.run(&["send", "--user", "alice", "bob", "one", "--wait", "delivered", "--timeout", "30"]);
    first.lines.until("one");
    let _second = Running::start(node.client(&["listen", "--user", "bob", "--json"]));
    assert_eq!(wait(&mut first.child).code(), Some(3));
}

#[test]
fn a_chat_works_when_piped() {
    let node = Node::start();
    let listener = Running::start(node.client(&["listen", "--user", "bob", "--json"]));
    let lines = "hello bob\n//slash\n/history\n/nonsense\n";
    let done = run_with(node.client(&["chat", "alice", "--to", "bob"]), lines);
    assert_eq!(done.code, Some(0), "{}", done.err);
    listener.lines.until("hello bob");
    listener.lines.until("\"/slash\"");
    for wanted in ["delivered: hello bob", "there is no /nonsense", "alice → bob: /slash"] {
        assert!(done.out.contains(wanted), "no `{wanted}` in {}", done.out);
    }
    assert!(!done.out.contains('\x1b'), "{}", done.out);
}

#[test]
fn status_tells_what_the_executors_have() {
    let node = Node::with(&["--executors", "2"]);
    let _bob = stubborn(&node, "bob");
    node.run(&["send", "--user", "alice", "carol", "hi"]);
    let data = node.data();
    let data = data.to_str().expect("UTF-8");
    let status = run(&["status", "--data", data, "--json"]).json();
    assert_eq!(status["pid"], node.running.child.id());
    assert_eq!(status["executors"].as_array().map(Vec::len), Some(2));
    assert_eq!(status["totals"]["sessions"], 1);
    assert_eq!(status["totals"]["inbox_messages"], 1);
    assert_eq!(status["listen"][0], node.address);
    let table = run(&["status", "--data", data]);
    assert!(table.out.contains("1 users online") && table.out.contains("executor"), "{}", table.out);
}

#[test]
fn a_port_or_a_directory_in_use_is_refused() {
    let node = Node::start();
    let other = tempfile::tempdir().expect("a directory");
    let elsewhere = other.path().to_str().expect("UTF-8");
    let done = run(&["serve", "--listen", &node.address, "--data", elsewhere, "--executors", "1"]);
    assert_eq!((done.code, done.out.as_str()), (Some(1), ""));
    assert!(done.err.contains(&node.address), "{}", done.err);
    let data = node.data();
    let data = data.to_str().expect("UTF-8");
    let done = run(&["serve", "--listen", "127.0.0.1:0", "--data", data, "--executors", "1"]);
    assert_eq!((done.code, done.out.as_str()), (Some(1), ""));
    assert!(done.err.contains(data), "{}", done.err);
}

#[test]
fn what_is_stored_survives_a_kill() {
    let node = Node::start();
    for text in ["one", "two"] {
        assert_eq!(node.run(&["send", "--user", "alice", "bob", text]).code, Some(0));
    }
    let node = node.crash_and_restart(&["--executors", "2"]);
    let done = node.run(&["listen", "--user", "bob", "--count", "2"]);
    let texts: Vec<_> = done.out.lines().filter_map(|line| line.rsplit(' ').next()).collect();
    assert_eq!(texts, ["one", "two"], "{}", done.err);
}

#[test]
fn sigterm_drains_in_bounded_time_and_exits_with_0() {
    let (_directory, file) = configured(600);
    let mut node = Node::with(&["--executors", "2", "--config", &file]);
    let client = stubborn(&node, "bob");
    let begun = Instant::now();
    assert_eq!(node.stop().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!(last_words(client), ["drain", "draining"]);
}

#[test]
fn a_second_sigint_exits_at_once() {
    let (_directory, file) = configured(60_000);
    let mut node = Node::with(&["--executors", "1", "--config", &file]);
    let _client = stubborn(&node, "bob");
    node.running.signal("INT");
    std::thread::sleep(Duration::from_millis(300));
    assert!(node.running.child.try_wait().expect("a child").is_none(), "it drains");
    node.running.signal("INT");
    assert_eq!(wait(&mut node.running.child).code(), Some(130));
}

#[test]
fn systemd_is_told_when_the_node_is_ready_and_when_it_stops() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("notify");
    let heard = UnixDatagram::bind(&socket).expect("bound");
    heard.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let data = directory.path().join("state");
    let mut command = process::command(&["serve", "--listen", "127.0.0.1:0", "--executors", "1"]);
    command.env("NOTIFY_SOCKET", &socket).env("STATE_DIRECTORY", &data).env("WATCHDOG_USEC", "600000");
    let mut node = Running::start(command);
    assert!(node.lines.next().expect("a line").contains("is ready on 127.0.0.1:"));
    let datagram = || {
        let mut buffer = [0; 1_024];
        let length = heard.recv(&mut buffer).expect("a datagram");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert!(datagram().starts_with("READY=1\nSTATUS=listening on 127.0.0.1:"));
    assert!(datagram().starts_with("WATCHDOG=1\nSTATUS="));
    assert!(data.join("admin.sock").exists());
    node.signal("TERM");
    let stopping = std::iter::repeat_with(datagram).find(|text| !text.starts_with("WATCHDOG=1"));
    assert!(stopping.is_some_and(|text| text.starts_with("STOPPING=1")));
    assert_eq!(wait(&mut node.child).code(), Some(0));
}
