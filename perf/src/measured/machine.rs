//! The whole machine while something is measured: CPUs, memory, the loopback device, the disk of the server's data.

use crate::report::Fields;
use std::fs;
use std::time::Duration;

const SECTOR_BYTES: u64 = 512;

/// A block device by its numbers.
pub type Disk = (u32, u32);

/// Counters since the machine started.
#[derive(Debug, Default, Clone, Copy)]
pub struct Machine {
    cpu_busy: u64,
    cpu_all: u64,
    loopback_bytes: u64,
    disk_busy_ms: Option<u64>,
    disk_written_bytes: u64,
}

impl Machine {
    /// Reads them now.
    pub fn now(disk: Option<Disk>) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (cpu_busy, cpu_all) = cpu(&read("/proc/stat"));
        let disk = disk.and_then(|disk| disk_figures(&read("/proc/diskstats"), disk));
        let loopback_bytes = loopback(&read("/proc/net/dev"));
        let (disk_busy_ms, written) = disk.unzip();
        Self { cpu_busy, cpu_all, loopback_bytes, disk_busy_ms, disk_written_bytes: written.unwrap_or(0) }
    }

    /// What happened since `before`, and the memory that is in use now.
    pub fn since(&self, before: &Self, wall: Duration) -> Fields {
        let seconds = wall.as_secs_f64();
        let mut fields = Fields::default();
        let (busy, all) = (self.cpu_busy - before.cpu_busy, self.cpu_all - before.cpu_all);
        fields.put_number("cpu_percent", busy as f64 / all.max(1) as f64 * 100.0);
        fields.put_number(
            "memory_percent",
            memory_share(&fs::read_to_string("/proc/meminfo").unwrap_or_default()) * 100.0,
        );
        let loopback = self.loopback_bytes.saturating_sub(before.loopback_bytes);
        fields.put_number("loopback_bytes_per_second", (loopback as f64 / seconds).round());
        let busy_ms = self.disk_busy_ms.zip(before.disk_busy_ms).map(|(after, before)| after.saturating_sub(before));
        match busy_ms {
            Some(ms) => fields.put_number("disk_percent", ms as f64 / 10.0 / seconds),
            None => fields.put("disk_percent", ()),
        }
        let written = self.disk_written_bytes.saturating_sub(before.disk_written_bytes);
        fields.put_number("disk_written_bytes_per_second", (written as f64 / seconds).round());
        fields
    }
}

/// Ticks in which CPUs did something, and all.
fn cpu(stat: &str) -> (u64, u64) {
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    let all: u64 = ticks.iter().sum();
    (all - idle, all)
}

fn memory_share(meminfo: &str) -> f64 {
    let of = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    of("MemTotal:").zip(of("MemAvailable:")).map_or(0.0, |(total, available)| 1.0 - available / total)
}

/// Bytes received by the loopback device: what was sent through it, once.
fn loopback(dev: &str) -> u64 {
    let line = dev.lines().find_map(|line| line.trim_start().strip_prefix("lo:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Time in which it did something, ms, and bytes written.
fn disk_figures(diskstats: &str, (major, minor): Disk) -> Option<(u64, u64)> {
    let (major, minor) = (major.to_string(), minor.to_string());
    let mut lines = diskstats.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|fields| fields.len() > 12 && fields[0] == major && fields[1] == minor)?;
    Some((line[12].parse().ok()?, line[9].parse::<u64>().ok()? * SECTOR_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_proc_are_found() {
        assert_eq!(cpu("cpu  10 1 20 60 5 0 3 1 9 9\ncpu0 1"), (35, 100));
        assert_eq!(memory_share("MemTotal: 100 kB\nMemFree: 1 kB\nMemAvailable: 25 kB\n"), 0.75);
        assert_eq!(loopback("Inter-|\n face |\n  eth0: 5 1\n    lo: 77 1 0\n"), 77);
        let line = " 254 0 vda 1 2 3 4 5 6 7 8 0 900 10 0 0\n 254 1 vda1 1 2 3 4 5 6 10 8 0 12 10";
        assert_eq!((disk_figures(line, (254, 1)), disk_figures(line, (8, 0))), (Some((12, 5_120)), None));
    }
}
