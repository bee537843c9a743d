//! `drain`: many messages wait for one user, who comes back, takes them all and acknowledges them, while a pair of
//! others talks. The result: how long it takes, what memory the server needs for it, and what the pair notices.

use super::course::{self, Settled};
use super::{LOGIN_LIMIT, Seat, relay, stored};
use crate::cli::{CourseArgs, DrainArgs, RelayArgs, StoredArgs};
use crate::ledger::{Behaviour, Duty, Faults};
use crate::load::{Crew, CrewReport, Pace, Phase};
use crate::measured::Server;
use crate::measured::process::{Memory, Usage};
use crate::progress::Progress;
use crate::report::{Fields, Headline, Report};
use crate::wire::Iris;
use anyhow::{Context, Result, ensure};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Messages taken per second.
const HEADLINE: Headline = Headline { name: "drained_per_second", is_more_better: true };
const FILL_LIMIT: Duration = Duration::from_secs(1_800);
const PAUSE: Duration = Duration::from_millis(500);
/// How long the pair talks alone, to compare with.
const QUIET: Duration = Duration::from_secs(2);
const SAMPLE: Duration = Duration::from_millis(5);

/// Runs it once.
pub fn run(args: &DrainArgs) -> Result<Report> {
    let mut args = args.clone();
    args.target.prefix = Some(args.target.prefix());
    args.messages = args.messages.next_multiple_of(u64::from(args.crowd.senders));
    let mut server = args.target.open()?;
    let pid = server.pid()?;
    thread::sleep(PAUSE);
    let (empty, mut faults, mut figures) = (Memory::of(pid)?, Faults::default(), Fields::default());
    if args.fill || args.target.server.is_empty() {
        faults.add(fill(&args, &server, &mut figures)?);
    }
    match server.restart(|| drop_caches(&args))? {
        Some(restart) => figures.put_number("restart_seconds", restart.as_secs_f64()),
        None => drop_caches(&args)?,
    }

    let drained = drain_beside_a_pair(&args, &server, &mut figures)?;
    faults.add(drained.faults);
    put_memory(&mut figures, empty, drained.memory_before, drained.memory_max);
    let status = super::ask_status(&args.target, &server, &mut figures)?;
    let (scenario, peer, parameters) = ("drain", args.target.peer().name(), parameters(&args, &server));
    let (generator, is_saturated) = (drained.generator, false);
    Ok(Report { scenario, peer, parameters, figures, headline: HEADLINE, generator, is_saturated, faults, status })
}

/// Puts the messages there, and waits until all are stored.
pub(super) fn fill(args: &DrainArgs, server: &Server, figures: &mut Fields) -> Result<Faults> {
    let mut progress = Progress::new();
    let start = Instant::now();
    let senders = StoredArgs {
        target: args.target.clone(),
        course: CourseArgs { seconds: 0.0, warm_up_ms: 0, settle_ms: 0 },
        senders: args.crowd.senders,
        recipients: 1,
        window: args.crowd.window,
        body: args.crowd.body,
    };
    let users = stored::senders(&senders, server, args.messages / u64::from(args.crowd.senders), Iris::default)?;
    let crew = Crew::start(vec![users], args.crowd.body, Pace::default(), &args.target.cpus()?.generator)?;
    crew.wait_ready(LOGIN_LIMIT)?;
    crew.advance(Phase::Warm);
    let is_done = crew.wait(FILL_LIMIT, |totals| {
        let done = totals.confirmed as f64 / args.messages as f64;
        progress.bar(&format!("filling, {} of {} stored", totals.confirmed, args.messages), done);
        totals.confirmed >= args.messages
    });
    let faults = crew.finish()?.harvest.faults;
    ensure!(is_done, "filling failed: {}", faults.first.unwrap_or_else(|| "it takes too long".to_owned()));
    figures.put_number("fill_seconds", start.elapsed().as_secs_f64());
    Ok(faults)
}

fn drop_caches(args: &DrainArgs) -> Result<()> {
    if args.drop_caches {
        rustix::fs::sync();
        std::fs::write("/proc/sys/vm/drop_caches", "3").context("cannot drop the page cache (needs root)")?;
    }
    Ok(())
}

struct Drained {
    memory_before: Memory,
    memory_max: Memory,
    generator: Fields,
    faults: Faults,
}

fn drain_beside_a_pair(args: &DrainArgs, server: &Server, figures: &mut Fields) -> Result<Drained> {
    let pid = server.pid()?;
    let memory_before = Memory::of(pid)?;
    let alone = start_pair(args, server, "quiet-")?;
    thread::sleep(QUIET);
    let alone = end_pair(alone)?;
    let pair = start_pair(args, server, "busy-")?;

    let (sampler, usage, start) = (Sampler::start(pid, memory_before), Usage::of(pid)?, Instant::now());
    let crew = come_back(args, server)?;
    let mut progress = Progress::new();
    let limit = Duration::from_secs(args.limit_seconds);
    crew.wait(limit, |totals| {
        let done = totals.delivered as f64 / args.messages as f64;
        progress.bar(&format!("draining, {} of {}", totals.delivered, args.messages), done);
        totals.delivered >= args.messages
    });
    let (seconds, usage) = (start.elapsed().as_secs_f64(), Usage::of(pid)?.since(usage));
    let memory_max = sampler.end();
    let pair = end_pair(pair)?;
    let drain = crew.finish()?;
    let delivered = drain.harvest.delivered;

    figures.put_number(HEADLINE.name, (delivered as f64 / seconds).round());
    figures.put_number("drained_per_cpu_second", (delivered as f64 / usage.cpu_seconds()).round());
    figures.put("drained", delivered);
    figures.put_number("drain_seconds", seconds);
    figures.extend(usage.fields());
    figures.put_group("pair_alone_us", alone.harvest.delivery.clone().fields());
    figures.put_group("pair_beside_us", pair.harvest.delivery.clone().fields());
    let generator = pair.fields();
    let mut faults = drain.harvest.faults;
    if delivered != args.messages {
        faults.missing += args.messages.abs_diff(delivered);
        faults.explain(|| format!("of {} messages {delivered} were drained", args.messages));
    }
    faults.add(alone.harvest.faults);
    faults.add(pair.harvest.faults);
    faults.add(look_again(args, server)?);
    Ok(Drained { memory_before, memory_max, generator, faults })
}

/// The user logs in; the crew goes on by itself.
pub(super) fn come_back(args: &DrainArgs, server: &Server) -> Result<Crew> {
    let name = stored::away(&args.target.prefix(), 0);
    let (behaviour, senders) = (Behaviour::Listen, 0..args.crowd.senders);
    let duty = Duty { behaviour, window: 1, messages_max: 0, origin: u32::MAX, senders, level: None };
    let user = Seat { name: &name, recipient: "", duty }.take(server, &args.target.token, Iris::default())?;
    let crew = Crew::start(vec![vec![user]], args.crowd.body, Pace::default(), &args.target.cpus()?.generator)?;
    crew.advance(Phase::Measure);
    Ok(crew)
}

/// What was acknowledged does not come again.
fn look_again(args: &DrainArgs, server: &Server) -> Result<Faults> {
    let crew = come_back(args, server)?;
    crew.wait_ready(LOGIN_LIMIT)?;
    thread::sleep(PAUSE);
    let again = crew.finish()?.harvest.delivered;
    let mut faults = Faults::default();
    if again > 0 {
        faults.repeated = again;
        faults.explain(|| format!("{again} messages came again although they were acknowledged"));
    }
    Ok(faults)
}

fn start_pair(args: &DrainArgs, server: &Server, prefix: &str) -> Result<Crew> {
    let course = CourseArgs { seconds: 0.0, warm_up_ms: 0, settle_ms: 0 };
    let (target, body) = (args.target.clone(), args.crowd.body);
    let pair = RelayArgs { target, course, pairs: 1, window: 1, body, gated: false, rate: None, idle: 0 };
    let users = relay::pairs(&pair, server, format!("{}{prefix}", args.target.prefix()), Iris::default)?;
    let crew = Crew::start(vec![users], args.crowd.body, Pace::default(), &args.target.cpus()?.generator)?;
    crew.wait_ready(LOGIN_LIMIT)?;
    crew.advance(Phase::Warm);
    thread::sleep(Duration::from_millis(1_200));
    crew.advance(Phase::Measure);
    Ok(crew)
}

fn end_pair(crew: Crew) -> Result<CrewReport> {
    crew.advance(Phase::Settle);
    thread::sleep(Duration::from_millis(20));
    crew.wait(Duration::from_secs(5), |totals| totals.delivered >= totals.sent && totals.confirmed >= totals.sent);
    let mut report = crew.finish()?;
    course::judge(&mut report, Settled { is_delivered: true, is_confirmed: true });
    Ok(report)
}

/// A thread that looks at the server's memory again and again.
struct Sampler {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Memory>,
}

impl Sampler {
    fn start(pid: u32, first: Memory) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let flag = is_over.clone();
        let thread = thread::spawn(move || {
            let mut largest = first;
            while !flag.load(Relaxed) {
                largest = Memory::quick(pid).map_or(largest, |memory| largest.max(memory));
                thread::sleep(SAMPLE);
            }
            largest
        });
        Self { is_over, thread }
    }

    fn end(self) -> Memory {
        self.is_over.store(true, Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn put_memory(figures: &mut Fields, empty: Memory, before: Memory, largest: Memory) {
    figures.put("rss_bytes_above_empty_max", largest.rss.saturating_sub(empty.rss));
    figures.put("anonymous_bytes_above_empty_max", largest.anonymous.saturating_sub(empty.anonymous));
    figures.put_group("memory_empty", empty.fields());
    figures.put_group("memory_before_drain", before.fields());
    figures.put_group("memory_max", largest.fields());
}

fn parameters(args: &DrainArgs, server: &Server) -> Fields {
    let mut fields = Fields::default();
    fields.put("messages", args.messages);
    fields.put("senders", args.crowd.senders);
    fields.put("body_bytes", args.crowd.body);
    fields.put("drop_caches", args.drop_caches);
    fields.put("executors", args.target.executors);
    fields.put("filesystem", server.filesystem());
    fields
}
