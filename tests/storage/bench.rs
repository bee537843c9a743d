//! Figures, not checks: `cargo test --release --test storage -- --ignored --nocapture --test-threads 1 measure`.

use super::*;
use iris_shards::log::{Log, LogAction, LogEvent, Recovery};

const MESSAGES: u64 = 1_000_000;

fn message(n: u64) -> Record {
    let user = UserId::parse(format!("user-{:05}", n % 1000).as_bytes()).unwrap();
    let sender = UserId::parse(b"sender-001").unwrap();
    Record::Entry(Entry { user, key: Key { id: MessageId::v7(n, 1), sender }, sent_at: n, body: [7; 64][..].into() })
}

fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[test]
#[ignore = "a measurement"]
fn measure_the_machine() {
    let config = LogConfig::default();
    let empty = Recovery::<&[u8]>::new(&config, Vec::new()).finish();
    let mut log = Log::new(config, empty).unwrap();
    let records: Vec<Record> = (0..MESSAGES).map(message).collect();
    let mut actions = Vec::new();
    let start = Instant::now();
    for batch in records.chunks(500) {
        for record in batch {
            log.handle(0, LogEvent::Request(StorageRequest::Append(record.clone())), &mut actions);
        }
        log.handle(0, LogEvent::TurnEnded, &mut actions);
        while !actions.is_empty() {
            for action in std::mem::take(&mut actions) {
                match action {
                    LogAction::Prepare { segment } => log.handle(0, LogEvent::Prepared { segment }, &mut actions),
                    LogAction::Sync { .. } => log.handle(0, LogEvent::Synced, &mut actions),
                    _ => {}
                }
            }
        }
    }
    println!("machine: {:.0} ns per append, flushed and told", start.elapsed().as_nanos() as f64 / MESSAGES as f64);
}

#[test]
#[ignore = "a measurement"]
fn measure_append_and_recovery() {
    let dir = tempfile::tempdir_in(std::env::var("IRIS_BENCH_DIR").unwrap_or("/tmp".into())).unwrap();
    let mut options = options(dir.path(), 1);
    options.log = LogConfig::default();
    let records: Vec<Record> = (0..MESSAGES).map(message).collect();
    LocalExecutor::default().run(async {
        let mut node = Node::open(&options).await;
        for (name, batch) in [("1", 1), ("32", 32), ("1000", 1000), ("5000", 5000)] {
            let (start, before) = (Instant::now(), cpu());
            let mut done = 0;
            let mut commits = 0;
            while done < MESSAGES as usize && start.elapsed() < Duration::from_secs(3) {
                let target = node.flushed.len() + batch;
                for record in records.iter().skip(done).take(batch) {
                    node.logs[0].request(StorageRequest::Append(record.clone()));
                }
                while node.flushed.len() < target.min(MESSAGES as usize) {
                    node.turn();
                    glommio::executor().yield_now().await;
                    glommio::timer::sleep(Duration::from_micros(20)).await;
                }
                done += batch;
                commits += 1;
            }
            let seconds = start.elapsed().as_secs_f64();
            let cpu = (cpu() - before).as_nanos() as f64 / done as f64;
            println!(
                "{name} per commit: {:.0} commits/s, {:.0} appends/s, {cpu:.0} ns CPU per append",
                commits as f64 / seconds,
                done as f64 / seconds
            );
            node.flushed.clear();
        }
        node.close().await;
    });
    let fresh = tempfile::tempdir_in(std::env::var("IRIS_BENCH_DIR").unwrap_or("/tmp".into())).unwrap();
    options.dir = fresh.path().to_owned();
    LocalExecutor::default().run(async {
        let mut node = Node::open(&options).await;
        let (start, before) = (Instant::now(), cpu());
        for records in records.chunks(20_000) {
            let target = node.flushed.len() + records.len();
            records.iter().for_each(|record| node.logs[0].request(StorageRequest::Append(record.clone())));
            while node.flushed.len() < target {
                node.turn();
                glommio::timer::sleep(Duration::from_micros(100)).await;
            }
        }
        let took = start.elapsed();
        println!(
            "{MESSAGES} appends in {took:?}, {:.0} ns CPU each",
            (cpu() - before).as_nanos() as f64 / MESSAGES as f64
        );
        node.close().await;
        let (mut dir, bell) = (DataDir::open(&options).unwrap(), Bell::new().unwrap());
        let start = Instant::now();
        let mut log = Engine::open(Some(iris::storage::StorageSeat::Log(dir.take_seats().remove(0))), &bell).unwrap();
        let mut events = Vec::new();
        let mut found = 0;
        while !log.take_recovered() {
            log.take_events(&mut events);
            found += events.len();
            if events.is_empty() {
                std::thread::yield_now();
            }
            events.clear();
        }
        println!("{found} recovered in {:?}", start.elapsed());
    });
}
