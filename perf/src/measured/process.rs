//! CPU, context switches and memory of a process, from `/proc`.
//!
//! CPU time is the sum of its threads' `schedstat` (ns, kernel threads of io_uring included); the split into user and
//! system time follows `stat`, which counts in ticks of 10 ms.

use crate::report::Fields;
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;

const NS_PER_TICK: u64 = 10_000_000;

/// What a process has used since it started.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of all threads, ns.
    cpu_ns: u64,
    /// Of the thread with the most, ns: a server of one thread is full long before the machine is.
    busiest_ns: u64,
    /// Of each thread, ns.
    threads: HashMap<OsString, u64>,
    /// User time, ns, in ticks.
    user_ns: u64,
    /// System time, ns, in ticks.
    system_ns: u64,
    /// Time in which a thread could have run and had no CPU, ns.
    waited_ns: u64,
    voluntary: u64,
    involuntary: u64,
}

impl Usage {
    /// Reads it now.
    pub fn of(pid: u32) -> Result<Self> {
        let stat = read(pid, "stat")?;
        let mut usage = Self::default();
        let ticks = |at: usize| stat_field(&stat, at).map_or(0, |ticks| ticks * NS_PER_TICK);
        (usage.user_ns, usage.system_ns) = (ticks(14), ticks(15));
        let threads = fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))?;
        for thread in threads.flatten() {
            let of = |file: &str| fs::read_to_string(thread.path().join(file)).unwrap_or_default();
            let (schedstat, status) = (of("schedstat"), of("status"));
            let mut figures = schedstat.split_whitespace().map(|field| field.parse().unwrap_or(0));
            usage.threads.insert(thread.file_name(), figures.next().unwrap_or(0));
            usage.waited_ns += figures.next().unwrap_or(0);
            usage.voluntary += status_field(&status, "voluntary_ctxt_switches").unwrap_or(0);
            usage.involuntary += status_field(&status, "nonvoluntary_ctxt_switches").unwrap_or(0);
        }
        Ok(usage)
    }

    /// Of two processes together.
    pub fn plus(mut self, other: Self) -> Self {
        self.threads.extend(other.threads);
        self.user_ns += other.user_ns;
        self.system_ns += other.system_ns;
        self.waited_ns += other.waited_ns;
        self.voluntary += other.voluntary;
        self.involuntary += other.involuntary;
        self
    }

    /// What was used since `before`. Of threads that have ended since then nothing counts, unless the ticks know better.
    pub fn since(self, before: Self) -> Self {
        let of_thread = |(thread, ns): (&OsString, &u64)| ns.saturating_sub(*before.threads.get(thread).unwrap_or(&0));
        let used: Vec<u64> = self.threads.iter().map(of_thread).collect();
        let ticks_ns = (self.user_ns + self.system_ns).saturating_sub(before.user_ns + before.system_ns);
        let by_ticks_ns = ticks_ns.saturating_sub(2 * NS_PER_TICK);
        Self {
            cpu_ns: used.iter().sum::<u64>().max(by_ticks_ns),
            busiest_ns: used.iter().copied().max().unwrap_or(0),
            threads: HashMap::new(),
            user_ns: self.user_ns.saturating_sub(before.user_ns),
            system_ns: self.system_ns.saturating_sub(before.system_ns),
            waited_ns: self.waited_ns.saturating_sub(before.waited_ns),
            voluntary: self.voluntary.saturating_sub(before.voluntary),
            involuntary: self.involuntary.saturating_sub(before.involuntary),
        }
    }

    /// CPU time of a difference, s.
    pub fn cpu_seconds(&self) -> f64 {
        self.cpu_ns as f64 / 1e9
    }

    /// The figures of a difference.
    pub fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        fields.put_number("server_cpu_seconds", self.cpu_seconds());
        fields.put_number("server_busiest_thread_seconds", self.busiest_ns as f64 / 1e9);
        fields.put_number("server_user_share", self.user_ns as f64 / (self.user_ns + self.system_ns).max(1) as f64);
        fields.put_number("server_waited_for_cpu_seconds", self.waited_ns as f64 / 1e9);
        fields.put("server_switches_voluntary", self.voluntary);
        fields.put("server_switches_involuntary", self.involuntary);
        fields
    }
}

/// Memory of a process, bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Resident.
    pub rss: u64,
    /// Resident and its own: heap and stacks.
    pub anonymous: u64,
    /// Resident pages of mapped files.
    pub file: u64,
    /// Resident, shared pages counted by their share; 0 by [`Memory::quick`].
    pub pss: u64,
}

impl Memory {
    /// Reads it now, exactly (walks the page tables).
    pub fn of(pid: u32) -> Result<Self> {
        let rollup = read(pid, "smaps_rollup")?;
        let bytes = |name| status_field(&rollup, name).unwrap_or(0) << 10;
        let (rss, anonymous, pss) = (bytes("Rss"), bytes("Anonymous"), bytes("Pss"));
        Ok(Self { rss, anonymous, file: rss.saturating_sub(anonymous), pss })
    }

    /// Reads it now, cheaply, by the kernel's counters (off by at most some hundred KiB).
    pub fn quick(pid: u32) -> Result<Self> {
        let status = read(pid, "status")?;
        let bytes = |name| status_field(&status, name).unwrap_or(0) << 10;
        Ok(Self { rss: bytes("VmRSS"), anonymous: bytes("RssAnon"), file: bytes("RssFile"), pss: 0 })
    }

    /// Of two processes together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            rss: self.rss + other.rss,
            anonymous: self.anonymous + other.anonymous,
            file: self.file + other.file,
            pss: self.pss + other.pss,
        }
    }

    /// The larger of each.
    pub fn max(self, other: Self) -> Self {
        Self {
            rss: self.rss.max(other.rss),
            anonymous: self.anonymous.max(other.anonymous),
            file: self.file.max(other.file),
            pss: self.pss.max(other.pss),
        }
    }

    /// For JSON.
    pub fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        fields.put("rss", self.rss);
        fields.put("anonymous", self.anonymous);
        fields.put("file", self.file);
        fields.put("pss", self.pss);
        fields
    }
}

/// The kernel's caches that a TCP connection and its readiness take objects from.
const SOCKET_CACHES: [&str; 7] =
    ["TCP", "TCPv6", "sock_inode_cache", "filp", "io_kiocb", "tcp_bind_bucket", "tcp_bind2_bucket"];

/// Kernel memory of all sockets of the machine, bytes: objects of [`SOCKET_CACHES`] and socket buffers. None without the
/// right to read `/proc/slabinfo` (root). Directory entries (192 bytes each) are left out: other programs move them.
pub fn socket_bytes() -> Option<u64> {
    let slabinfo = fs::read_to_string("/proc/slabinfo").ok()?;
    let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let pages = sockstat
        .lines()
        .find_map(|line| line.strip_prefix("TCP:"))
        .and_then(|line| line.split_whitespace().last()?.parse::<u64>().ok());
    Some(slab_bytes(&slabinfo) + pages.unwrap_or(0) * 4_096)
}

fn slab_bytes(slabinfo: &str) -> u64 {
    let of_cache = |line: &str| {
        let mut fields = line.split_whitespace();
        let name = fields.next().filter(|name| SOCKET_CACHES.contains(name));
        let numbers: Vec<u64> = fields.take(3).filter_map(|field| field.parse().ok()).collect();
        name.map_or(0, |_| numbers.first().unwrap_or(&0) * numbers.get(2).unwrap_or(&0))
    };
    slabinfo.lines().map(of_cache).sum()
}

fn read(pid: u32, file: &str) -> Result<String> {
    fs::read_to_string(format!("/proc/{pid}/{file}")).with_context(|| format!("cannot read {file} of process {pid}"))
}

/// The number behind `name:` at the start of a line.
fn status_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A field of `stat`, numbered as in proc(5); the command's name may have spaces and brackets.
fn stat_field(stat: &str, at: usize) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_whitespace().nth(at - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_are_found() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 140 150 16";
        assert_eq!((stat_field(stat, 14), stat_field(stat, 15)), (Some(140), Some(150)));
        let status = "VmRSS:\t  12 kB\nnonvoluntary_ctxt_switches:\t5\nvoluntary_ctxt_switches:\t4\n";
        assert_eq!(status_field(status, "VmRSS"), Some(12));
        assert_eq!(status_field(status, "voluntary_ctxt_switches"), Some(4));
        assert_eq!(status_field(status, "Rss"), None);
    }

    #[test]
    fn only_caches_of_sockets_count() {
        let slabinfo = "# name <active_objs> <num_objs>\nTCP 10 14 2368 13\ndentry 900 900 192 21\nfilp 2 40 192 21\n";
        assert_eq!(slab_bytes(slabinfo), 10 * 2_368 + 2 * 192);
    }

    #[test]
    fn this_process_has_used_something() -> Result<()> {
        let pid = std::process::id();
        let before = Usage::of(pid)?;
        let start = std::time::Instant::now();
        while start.elapsed().as_millis() < 60 {}
        let used = Usage::of(pid)?.since(before).cpu_seconds();
        assert!(used > 0.005, "{used}");
        let memory = Memory::of(pid)?;
        assert!(memory.rss > memory.anonymous && memory.pss > 0 && Memory::quick(pid)?.rss > 0);
        Ok(())
    }
}
