//! `idle`: logged-in connections that say nothing. Processes of this program hold them (each may open a limited number
//! of files); what the server's memory grew by, and what CPU it takes while nobody speaks, is the result.

use super::LOGIN_LIMIT;
use crate::body::HEAD_BYTES;
use crate::cli::{HoldArgs, IdleArgs, TargetArgs};
use crate::load::{connect, own_source};
use crate::measured::process::{Memory, socket_bytes};
use crate::measured::{Server, cpus};
use crate::progress::Progress;
use crate::report::{Fields, Headline, Report};
use crate::wire::{Incoming, Spoken, Wire};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Resource, getrlimit};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write, stdin};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Resident bytes of the server per connection.
const HEADLINE: Headline = Headline { name: "rss_bytes_per_connection", is_more_better: false };
/// Connections of one holder at most, whatever files are allowed.
const HOLD_MAX: u64 = 5_000;
/// Files that a holder needs for itself.
const OWN_FILES: u64 = 64;
/// Logins that a holder has under way at a time.
const BATCH: usize = 64;
const PAUSE: Duration = Duration::from_secs(1);

/// Runs it once.
pub fn run(args: &IdleArgs) -> Result<Report> {
    let server = args.target.open()?;
    server.pid()?;
    let mut progress = Progress::new();
    thread::sleep(PAUSE);
    let (before, kernel_before) = (server.memory()?, socket_bytes());
    let start = Instant::now();
    progress.show(&format!("opening {} connections", args.connections));
    let holders = hold_all(&args.target, args.connections, &server)?;
    let opened = start.elapsed();
    thread::sleep(PAUSE);
    let (after, kernel_after) = (server.memory()?, socket_bytes());

    progress.show("measuring the idle server");
    let (start, usage) = (Instant::now(), server.usage()?);
    thread::sleep(Duration::from_secs_f64(args.seconds));
    let (usage, wall) = (server.usage()?.since(usage), start.elapsed());

    let mut figures = memory_figures((before, after), kernel_after.zip(kernel_before), args.connections);
    figures.put_number("opening_seconds", opened.as_secs_f64());
    figures.put_number("logins_per_second", f64::from(args.connections) / opened.as_secs_f64());
    figures.put_number("idle_cpu_percent", usage.cpu_seconds() / wall.as_secs_f64() * 100.0);
    figures.extend(usage.fields());
    let status = super::ask_status(&args.target, &server, &mut figures)?;
    let mut faults = crate::ledger::Faults::default();
    for holder in holders {
        faults.disconnected += holder.release()?;
    }
    if faults.disconnected > 0 {
        faults.explain(|| "connections were closed by the server while they were idle".to_owned());
    }
    let mut parameters = Fields::default();
    parameters.put("connections", args.connections);
    parameters.put("executors", args.target.executors);
    parameters.put("nodes", args.target.nodes);
    parameters.put("edges", args.target.edges);
    let (scenario, peer, generator) = ("idle", args.target.peer().name(), Fields::default());
    Ok(Report {
        scenario,
        peer,
        parameters,
        figures,
        headline: HEADLINE,
        generator,
        is_saturated: false,
        faults,
        status,
    })
}

fn memory_figures((before, after): (Memory, Memory), kernel: Option<(u64, u64)>, connections: u32) -> Fields {
    let each = |bytes: u64| (bytes as f64 / f64::from(connections.max(1)) * 10.0).round() / 10.0;
    let grown = |of: fn(&Memory) -> u64| each(of(&after).saturating_sub(of(&before)));
    let mut figures = Fields::default();
    figures.put(HEADLINE.name, grown(|memory| memory.rss));
    figures.put("pss_bytes_per_connection", grown(|memory| memory.pss));
    figures.put("anonymous_bytes_per_connection", grown(|memory| memory.anonymous));
    let kernel = kernel.map(|(after, before)| each(after.saturating_sub(before)));
    figures.put("kernel_bytes_per_connection_both_ends", kernel);
    figures.put_group("memory_before", before.fields());
    figures.put_group("memory_after", after.fields());
    figures
}

/// A process that holds connections.
pub struct Holder {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<std::process::ChildStdout>,
}

/// Opens connections that stay until the holders are dropped.
pub fn hold_all(target: &TargetArgs, connections: u32, server: &Server) -> Result<Vec<Holder>> {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let share = HOLD_MAX.min(files.saturating_sub(OWN_FILES)).max(1) as u32;
    let (prefix, mut left) = (target.prefix(), connections);
    let mut holders = Vec::new();
    while left > 0 {
        let connections = left.min(share);
        left -= connections;
        let index = holders.len();
        let mut command = Command::new(std::env::current_exe()?);
        let address = server.address_of(index as u32).to_string();
        command.args(["hold", "--server", &address, "--token", &target.token]);
        command.args(["--peer", target.peer().name()]);
        command.args(["--connections", &connections.to_string(), "--prefix", &format!("{prefix}h{index}-")]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = cpus::started_on(&target.cpus()?.generator, || Ok(command.spawn()?))?;
        let output = BufReader::new(child.stdout.take().context("standard output is piped")?);
        let mut holder = Holder { input: child.stdin.take(), child, output };
        ensure!(holder.line()? == "held", "a holder failed, see above");
        holders.push(holder);
    }
    Ok(holders)
}

impl Holder {
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Lets the connections go. Returns how many the server had closed before.
    pub fn release(mut self) -> Result<u64> {
        self.input = None;
        let lost = self.line()?;
        self.child.wait()?;
        lost.parse().with_context(|| format!("a holder said {lost:?}"))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The holder's side: logs in, says `held`, waits for the end of standard input, says how many connections were lost.
pub fn hold(args: &HoldArgs) -> Result<()> {
    let mut held = Vec::with_capacity(args.connections as usize);
    let indices: Vec<u32> = (0..args.connections).collect();
    for batch in indices.chunks(BATCH) {
        let first = held.len();
        for index in batch {
            held.push(say_hello(args, *index)?);
        }
        held[first..].iter_mut().try_for_each(hear_welcome)?;
    }
    println!("held");
    let _until_the_end = stdin().read_to_end(&mut Vec::new())?;
    println!("{}", held.iter_mut().filter_map(|(stream, _)| is_lost(stream).then_some(())).count());
    Ok(())
}

fn say_hello(args: &HoldArgs, index: u32) -> Result<(TcpStream, Spoken)> {
    let mut stream = connect(args.server, own_source(args.server, 0, index.into()))?;
    let (mut wire, mut out) = (args.peer.wire(HEAD_BYTES, false), Vec::new());
    wire.login(&format!("{}{index}", args.prefix), args.token.as_bytes(), &mut out);
    stream.write_all(&out)?;
    stream.set_read_timeout(Some(LOGIN_LIMIT))?;
    Ok((stream, wire))
}

fn hear_welcome((stream, wire): &mut (TcpStream, Spoken)) -> Result<()> {
    let (mut buffer, mut filled, mut heard) = ([0; 4_096], 0, None);
    while heard.is_none() {
        let received = stream.read(&mut buffer[filled..]).context("no WELCOME")?;
        ensure!(received > 0, "the server closed the connection instead of WELCOME");
        filled += received;
        let note = |incoming: Incoming<'_>| {
            heard.get_or_insert(match incoming {
                Incoming::Welcome { .. } => Ok(()),
                other => Err(format!("WELCOME was expected, not {other:?}")),
            });
        };
        let used = wire.decode(&buffer[..filled], 0, note).map_err(anyhow::Error::msg)?;
        buffer.copy_within(used..filled, 0);
        filled -= used;
        let mut answer = Vec::new();
        wire.acknowledge(&mut answer);
        stream.write_all(&answer)?;
    }
    match heard {
        Some(Err(why)) => bail!("{why}"),
        _ => Ok(()),
    }
}

fn is_lost(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 512];
    let is_blocking = stream.set_nonblocking(true).is_err();
    match stream.read(&mut buffer) {
        Ok(received) => received == 0,
        Err(error) => is_blocking || error.kind() != ErrorKind::WouldBlock,
    }
}
