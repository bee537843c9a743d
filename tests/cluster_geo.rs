//! Three regions on one machine, as `scripts/geo` starts them: the files of conf/ on other addresses, a user in Tokyo
//! who talks to one in Frankfurt, and a fourth region that joins by its own file alone.

mod fleet;
mod process;
mod wire;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use fleet::ground::Ground;
use iris_shards::frame::LEVEL_STORED;
use process::{Running, run, wait};
use serde_json::Value;
use wire::{Heard, Wire};

const REGIONS: [(&str, u16); 3] = [("tokyo", 8_085), ("frankfurt", 8_086), ("saopaulo", 8_087)];

/// The three regions, on an address of the test's own.
struct Geo {
    running: Running,
    host: Ipv4Addr,
    directory: tempfile::TempDir,
}

fn host() -> Ipv4Addr {
    let Ground::Loopback(base) = Ground::loopback() else { unreachable!() };
    Ipv4Addr::from(u32::from(base) + 1)
}

/// A file of conf/ as it is, but for the address.
fn moved(directory: &Path, name: &str, host: Ipv4Addr) -> PathBuf {
    let conf = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(format!("{name}.ron"));
    let text = std::fs::read_to_string(conf).expect("a file").replace("127.0.0.1", &host.to_string());
    let path = directory.join(format!("{name}.ron"));
    std::fs::write(&path, text).expect("written");
    path
}

impl Geo {
    fn start() -> Geo {
        let (host, directory) = (host(), tempfile::tempdir().expect("a directory"));
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/geo"));
        command.env("IRIS_BIN", env!("CARGO_BIN_EXE_iris")).env("IRIS_SECRET", fleet::SECRET);
        command.arg("--data").arg(directory.path().join("data"));
        command.args(REGIONS.map(|(name, _)| moved(directory.path(), name, host)));
        let running = Running::start(command);
        for (name, port) in REGIONS {
            assert_eq!(running.lines.next().as_deref(), Some(format!("{name}: {host}:{port}").as_str()));
        }
        running.lines.until("Ctrl-C");
        Geo { running, host, directory }
    }

    fn address(&self, region: &str) -> String {
        let (_, port) = REGIONS.iter().find(|(name, _)| *name == region).expect("a region");
        format!("{}:{port}", self.host)
    }

    /// A user there, who is told where that is.
    fn login(&self, region: &str, user: &str) -> Wire {
        let mut wire = Wire::connect(&self.address(region));
        wire.write(&wire::hello(user.as_bytes()));
        assert_eq!(wire.welcome().region, region);
        wire
    }

    fn until_in_step(&self, region: &str) {
        let deadline = Instant::now() + process::PATIENCE;
        while !fleet::is_in_step(&self.status(region)) {
            assert!(Instant::now() < deadline, "{region} is never in step: {:#}", self.status(region));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn status(&self, region: &str) -> Value {
        let admin = self.directory.path().join("data").join(region).join("admin.sock");
        run(&["status", "--json", "--admin", admin.to_str().expect("UTF-8")]).json()
    }
}

impl Drop for Geo {
    fn drop(&mut self) {
        // As Ctrl-C, which a shell ignores if it was started in the background; the script stops its nodes.
        if self.running.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.running.signal("TERM");
            drop(self.running.child.wait());
        }
    }
}

/// Sends and takes a message.
fn says(from: (&mut Wire, u64), to: (&mut Wire, &str), text: &str) {
    let ((sender, sequence), (recipient, name)) = (from, to);
    sender.send(sequence, name, text.as_bytes());
    let letter = recipient.letter();
    assert_eq!(letter.text(), text);
    recipient.acknowledge(letter.sequence, letter.sequence);
    sender.delivered(sequence);
}

#[test]
fn a_user_in_tokyo_talks_to_one_in_frankfurt() {
    let mut geo = Geo::start();
    let (mut tokyo, mut frankfurt) = (geo.login("tokyo", "tokyo_user"), geo.login("frankfurt", "frankfurt_user"));
    says((&mut tokyo, 1), (&mut frankfurt, "frankfurt_user"), "Hello from Tokyo!");
    says((&mut frankfurt, 1), (&mut tokyo, "tokyo_user"), "Hello from Frankfurt!");
    REGIONS.iter().for_each(|(region, _)| geo.until_in_step(region));
    // What waits for somebody who is away is on disk in two regions, and is taken in any.
    tokyo.send(2, "traveller", b"Where are you?");
    let copies = tokyo.until(|heard| match heard {
        Heard::Confirm { level: LEVEL_STORED, copies, .. } => Some(*copies),
        _ => None,
    });
    assert_eq!(copies, 2);
    let mut traveller = geo.login("saopaulo", "traveller");
    assert_eq!(traveller.letter().text(), "Where are you?");

    let regions = &geo.status("tokyo")["regions"];
    let sent = regions["tokyo > frankfurt"]["messages"].as_u64().unwrap_or(0);
    assert!(sent > 0, "traffic is counted by region pair: {regions:#}");

    geo.running.signal("TERM");
    assert!(wait(&mut geo.running.child).success());
    for (region, _) in REGIONS {
        let log = std::fs::read_to_string(geo.directory.path().join("data").join(format!("{region}.log")));
        assert!(!log.expect("a log").contains("panicked"));
    }
}

/// As docs/add-a-region.md says: a file for the new region, and nothing else.
#[test]
fn a_region_is_added_by_its_own_file() {
    let geo = Geo::start();
    let tokyo = std::fs::read_to_string(geo.directory.path().join("tokyo.ron")).expect("a file");
    let sydney =
        tokyo.replace("\"tokyo\"", "\"sydney\"").replace(":8085\"]", ":8088\"]").replace("(listen: \"", "(listen: \"x");
    let sydney = sydney.replace(&format!("\"x{}:7085\"", geo.host), &format!("\"{}:7088\"", geo.host));
    let path = geo.directory.path().join("sydney.ron");
    std::fs::write(&path, sydney).expect("written");
    let data = geo.directory.path().join("data/sydney");
    let mut command = process::command(&["serve", "--json", "--executors", "1"]);
    command.arg("--config").arg(&path).arg("--data").arg(&data).env("IRIS_SECRET", fleet::SECRET);
    let node = Running::start(command);
    node.lines.until("ready");

    let mut here = Wire::connect(&format!("{}:8088", geo.host));
    here.write(&wire::hello(b"sydney_user"));
    assert_eq!(here.welcome().region, "sydney");
    let mut there = geo.login("frankfurt", "frankfurt_user");
    says((&mut here, 1), (&mut there, "frankfurt_user"), "Hello from Sydney!");
    says((&mut there, 1), (&mut here, "sydney_user"), "Welcome!");
    assert!(fleet::knows(&geo.status("saopaulo"), "sydney"), "{:#}", geo.status("saopaulo"));
}
