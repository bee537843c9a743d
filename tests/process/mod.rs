//! Real processes for black-box tests: nodes on free ports with their own directories, and commands with a deadline.
#![allow(dead_code)]

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Slow machines that run several tests at a time still keep to this.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a command did.
pub struct Done {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Done {
    /// The only line of standard output, as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(self.out.trim()).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }
}

/// The binary under test, without what the environment of the test could tell it.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iris"));
    for name in ["IRIS_SERVER", "IRIS_LOG", "STATE_DIRECTORY", "XDG_STATE_HOME", "NOTIFY_SOCKET", "WATCHDOG_USEC"] {
        command.env_remove(name);
    }
    command.args(arguments).env("HOME", "/nonexistent").stdin(Stdio::null());
    command
}

/// The same command with so many open files allowed, soft and hard.
fn limited(command: &Command, files: usize) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -n {files} && exec \"$@\""), "sh"]);
    shell.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// Runs a command to its end.
pub fn run(arguments: &[&str]) -> Done {
    run_with(command(arguments), "")
}

/// Runs a command to its end, with this as its standard input.
pub fn run_with(mut command: Command, input: &str) -> Done {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // A command that does not read its input may have ended already.
    drop(stdin.write_all(input.as_bytes()));
    drop(stdin);
    let out = drained(child.stdout.take().expect("a pipe"));
    let err = drained(child.stderr.take().expect("a pipe"));
    let status = wait(&mut child);
    Done { code: status.code(), out: out.recv().expect("text"), err: err.recv().expect("text") }
}

fn drained(mut pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        drop(pipe.read_to_end(&mut bytes));
        drop(send.send(String::from_utf8_lossy(&bytes).into_owned()));
    });
    receive
}

/// The end of a process, or a panic (and the end of it all the same).
pub fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        if Instant::now() > deadline {
            drop(child.kill());
            drop(child.wait());
            panic!("process {} does not end", child.id());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Lines of a running process.
pub struct Lines(Receiver<String>);

impl Lines {
    pub fn of(stdout: ChildStdout) -> Self {
        let (send, receive) = channel();
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| send.send(line))
        });
        Lines(receive)
    }

    /// The next line; nothing if there is none any more.
    pub fn next(&self) -> Option<String> {
        match self.0.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => None,
            Err(error) => panic!("no line: {error}"),
        }
    }

    /// Skips lines until one has this in it.
    pub fn until(&self, wanted: &str) -> String {
        loop {
            let line = self.next().unwrap_or_else(|| panic!("the output ends without `{wanted}`"));
            if line.contains(wanted) {
                return line;
            }
        }
    }
}

/// A running command, killed when dropped.
pub struct Running {
    pub child: Child,
    pub lines: Lines,
}

impl Running {
    /// Standard error goes where that of the test goes.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary starts");
        let lines = Lines::of(child.stdout.take().expect("a pipe"));
        Running { child, lines }
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status();
        assert!(status.expect("a shell").success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A node on a port of the kernel's choice.
pub struct Node {
    /// HOST:PORT.
    pub address: String,
    pub running: Running,
    place: Place,
}

/// What of a node is not its process: directories and settings. A node that starts there again finds its data.
pub struct Place {
    directory: tempfile::TempDir,
    data: PathBuf,
}

impl Place {
    pub fn new() -> Place {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("data");
        Place { directory, data }
    }

    /// With this configuration.
    pub fn configured(text: &str) -> Place {
        let place = Place::new();
        std::fs::write(place.directory.path().join("iris.ron"), text).expect("written");
        place
    }

    /// With its data somewhere else.
    pub fn with_data_in(mut self, data: &Path) -> Place {
        self.data = data.to_owned();
        self
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Everything that nodes here have logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let data = self.data.to_str().expect("UTF-8");
        let mut command = command(&["serve", "--json", "--listen", "127.0.0.1:0", "--data", data]);
        let settings = self.directory.path().join("iris.ron");
        if settings.exists() {
            command.arg("--config").arg(settings);
        }
        command.args(arguments);
        command
    }

    /// A node that must not become ready.
    pub fn refused(&self, arguments: &[&str]) -> Done {
        run_with(self.command(arguments), "")
    }

    /// As [`Place::refused`], with so many open files allowed.
    pub fn refused_with_files(&self, files: usize, arguments: &[&str]) -> Done {
        run_with(limited(&self.command(arguments), files), "")
    }

    /// Starts a node. Its standard error goes to [`Place::log`].
    pub fn start(self, arguments: &[&str]) -> Node {
        let command = self.command(arguments);
        self.started(command)
    }

    /// As [`Place::start`], with so many open files allowed.
    pub fn start_with_files(self, files: usize, arguments: &[&str]) -> Node {
        let command = limited(&self.command(arguments), files);
        self.started(command)
    }

    fn started(self, mut command: Command) -> Node {
        let log = std::fs::File::options().create(true).append(true).open(self.directory.path().join("log"));
        command.stderr(log.expect("a log"));
        let running = Running::start(command);
        let Some(ready) = running.lines.next() else { panic!("the node does not become ready: {}", self.log()) };
        let ready: Value = serde_json::from_str(&ready).expect("JSON");
        assert_eq!(ready["event"], "ready");
        assert_eq!(ready["pid"], running.child.id());
        assert_eq!(ready["listen"][0]["transport"], "tcp");
        let address = ready["listen"][0]["address"].as_str().expect("an address").to_owned();
        Node { address, running, place: self }
    }
}

impl Node {
    /// With one executor: enough for most tests, and light.
    pub fn start() -> Node {
        Node::with(&["--executors", "1"])
    }

    pub fn with(arguments: &[&str]) -> Node {
        Place::new().start(arguments)
    }

    /// With this configuration.
    pub fn configured(text: &str, arguments: &[&str]) -> Node {
        Place::configured(text).start(arguments)
    }

    pub fn data(&self) -> PathBuf {
        self.place.data.clone()
    }

    pub fn path(&self) -> &Path {
        self.place.directory.path()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.place.log()
    }

    pub fn pid(&self) -> u32 {
        self.running.child.id()
    }

    /// What `iris status` says.
    pub fn status(&self) -> Value {
        let data = self.place.data.to_str().expect("UTF-8");
        run(&["status", "--data", data, "--json"]).json()
    }

    /// Asks for the status until this holds.
    pub fn until(&self, what: &str, mut holds: impl FnMut(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if holds(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "never {what}: {status}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Resident memory, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// CPU time used so far, in ms.
    pub fn cpu_ms(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("it runs");
        // The name, in parentheses, may have spaces; utime and stime are the 14th and 15th field, in ticks of 10 ms.
        let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
        fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number") * 10).sum()
    }

    /// A client command at this node.
    pub fn client(&self, arguments: &[&str]) -> Command {
        let mut command = command(arguments);
        command.env("IRIS_SERVER", &self.address);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Done {
        run_with(self.client(arguments), "")
    }

    /// SIGTERM, and the exit that follows.
    pub fn stop(&mut self) -> ExitStatus {
        self.running.signal("TERM");
        wait(&mut self.running.child)
    }

    /// SIGKILL, unless it has ended already. What it leaves behind.
    pub fn crash(self) -> Place {
        drop(self.running);
        self.place
    }

    /// Kills the node and starts another on the same data (and another port).
    pub fn crash_and_restart(self, arguments: &[&str]) -> Node {
        self.crash().start(arguments)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.lines().rev().take(40).collect::<Vec<_>>();
            tail.iter().rev().for_each(|line| eprintln!("log: {line}"));
        }
    }
}
