//! Which CPUs are ours and how many executors run on them. Goes in: what the configuration asks
//! for, the affinity of the process, the CPU quota of its cgroup (v1 and v2). Comes out: a
//! [`Layout`]. More executors than CPUs are allowed and share them round-robin.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use core_affinity::CoreId;

/// More than any machine has; a typing error otherwise.
pub const EXECUTORS_MAX: usize = 1024;

/// What the configuration asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuWish {
    /// Number of executors; by default as many as there are CPUs for us.
    pub executors: Option<usize>,
    /// The CPUs to run on, by number; by default those that the affinity allows.
    pub cpus: Option<Vec<usize>>,
}

/// How the executors are spread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Number of executors.
    pub executors: usize,
    /// The CPUs that we may use.
    pub cpus: Vec<usize>,
    /// Whether each executor stays on its CPU. Not where a quota is smaller than the CPUs:
    /// other groups on this machine would be given the same ones.
    pub is_pinned: bool,
}

/// A wish that this machine cannot fulfil.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuError {
    /// The list names a CPU that is not ours.
    #[error("cpus: CPU {cpu} is not available to this process; available: {available}")]
    NotOurs {
        /// The CPU asked for.
        cpu: usize,
        /// Those that the affinity allows.
        available: CpuList,
    },
    /// The list is empty.
    #[error("cpus: the list is empty; leave it out to use all CPUs")]
    NoCpus,
    /// Zero, or absurdly many.
    #[error("executors: {0} is not between 1 and {EXECUTORS_MAX}")]
    Executors(usize),
}

/// CPU numbers, shown with commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(pub Vec<usize>);

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&numbers.join(","))
    }
}

impl Layout {
    /// For this process. To be asked before any thread is pinned.
    pub fn of_process(wish: &CpuWish) -> Result<Layout, CpuError> {
        let allowed = allowed_cpus();
        let quota = quota_under(Path::new("/sys/fs/cgroup"), Path::new("/proc/self/cgroup"));
        Layout::new(wish, &allowed, quota)
    }

    /// From the CPUs that the affinity allows and the quota in CPUs, rounded up.
    pub fn new(wish: &CpuWish, allowed: &[usize], quota: Option<usize>) -> Result<Layout, CpuError> {
        let cpus = match &wish.cpus {
            Some(list) => checked(list, allowed)?,
            None => allowed.to_vec(),
        };
        let room = quota.unwrap_or(usize::MAX).clamp(1, cpus.len().max(1));
        let executors = wish.executors.unwrap_or(room);
        if !(1..=EXECUTORS_MAX).contains(&executors) {
            return Err(CpuError::Executors(executors));
        }
        let is_pinned = !cpus.is_empty() && (wish.cpus.is_some() || room == cpus.len());
        Ok(Layout { executors, cpus, is_pinned })
    }

    /// The CPU of an executor; `None` if it may run on any.
    #[must_use]
    pub fn cpu_of(&self, executor: usize) -> Option<usize> {
        self.is_pinned.then(|| self.cpus[executor % self.cpus.len()])
    }

    /// Whether executors share CPUs; then none may spin.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.executors > self.cpus.len()
    }
}

/// Keeps the calling thread on one CPU; false if the kernel refuses.
pub fn pin_to(cpu: usize) -> bool {
    core_affinity::set_for_current(CoreId { id: cpu })
}

fn allowed_cpus() -> Vec<usize> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let allowed: Vec<usize> = cores.into_iter().map(|core| core.id).collect();
    if allowed.is_empty() { vec![0] } else { allowed }
}

fn checked(list: &[usize], allowed: &[usize]) -> Result<Vec<usize>, CpuError> {
    if list.is_empty() {
        return Err(CpuError::NoCpus);
    }
    match list.iter().find(|cpu| !allowed.contains(cpu)) {
        None => Ok(list.to_vec()),
        Some(&cpu) => Err(CpuError::NotOurs { cpu, available: CpuList(allowed.to_vec()) }),
    }
}

/// The smallest quota of our cgroup and those above it, in CPUs rounded up; `None` without one.
fn quota_under(mount: &Path, membership: &Path) -> Option<usize> {
    let groups = fs::read_to_string(membership).ok()?;
    groups.lines().filter_map(|line| quota_of_line(mount, line)).min()
}

/// A line is `number:controllers:path`; version 2 has number 0 and no controllers.
fn quota_of_line(mount: &Path, line: &str) -> Option<usize> {
    let mut parts = line.splitn(3, ':');
    let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let is_second = number == "0" && controllers.is_empty();
    if !is_second && !controllers.split(',').any(|name| name == "cpu") {
        return None;
    }
    let roots: Vec<PathBuf> = match is_second {
        true => vec![mount.to_path_buf(), mount.join("unified")],
        false => vec![mount.join("cpu"), mount.join(controllers)],
    };
    let read = if is_second { read_second } else { read_first };
    let relative = Path::new(path.trim_start_matches('/'));
    // Inside a container the path may be the host's: what is not there has no quota.
    let levels = roots.iter().flat_map(|root| relative.ancestors().map(|part| root.join(part)));
    levels.filter_map(|level| read(&level)).min()
}

fn read_second(level: &Path) -> Option<usize> {
    let text = fs::read_to_string(level.join("cpu.max")).ok()?;
    let mut words = text.split_whitespace();
    in_cpus(words.next()?, words.next()?)
}

fn read_first(level: &Path) -> Option<usize> {
    let quota = fs::read_to_string(level.join("cpu.cfs_quota_us")).ok()?;
    let period = fs::read_to_string(level.join("cpu.cfs_period_us")).ok()?;
    in_cpus(quota.trim(), period.trim())
}

/// `max` and `-1` are no quota.
fn in_cpus(quota: &str, period: &str) -> Option<usize> {
    let (quota, period): (usize, usize) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0).then(|| quota.div_ceil(period).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(executors: Option<usize>, cpus: Option<&[usize]>) -> CpuWish {
        CpuWish { executors, cpus: cpus.map(<[usize]>::to_vec) }
    }

    #[test]
    fn by_default_one_per_cpu() {
        let layout = Layout::new(&wish(None, None), &[0, 2, 5], None).unwrap();
        assert_eq!(layout.executors, 3);
        assert_eq!(layout.cpu_of(2), Some(5));
        assert!(!layout.is_crowded());
    }

    #[test]
    fn a_smaller_quota_wins_and_unpins() {
        let layout = Layout::new(&wish(None, None), &[0, 1, 2, 3], Some(2)).unwrap();
        assert_eq!(layout.executors, 2);
        assert_eq!(layout.cpu_of(0), None);
    }

    #[test]
    fn more_executors_than_cpus_share_them() {
        let layout = Layout::new(&wish(Some(64), None), &[0, 1], None).unwrap();
        assert_eq!((layout.cpu_of(62), layout.cpu_of(63)), (Some(0), Some(1)));
        assert!(layout.is_crowded());
    }

    #[test]
    fn named_cpus_are_used_and_checked() {
        let layout = Layout::new(&wish(None, Some(&[3, 1])), &[0, 1, 2, 3], Some(8)).unwrap();
        assert_eq!((layout.executors, layout.cpu_of(0)), (2, Some(3)));
        let error = Layout::new(&wish(None, Some(&[9])), &[0, 1], None).unwrap_err();
        assert_eq!(error.to_string(), "cpus: CPU 9 is not available to this process; available: 0,1");
        assert_eq!(Layout::new(&wish(None, Some(&[])), &[0], None), Err(CpuError::NoCpus));
        let none = Layout::new(&wish(Some(0), None), &[0], None);
        assert_eq!(none, Err(CpuError::Executors(0)));
    }

    fn cgroup(lines: &str, files: &[(&str, &str)]) -> Option<usize> {
        let root = tempfile::tempdir().unwrap();
        let membership = root.path().join("cgroup");
        fs::write(&membership, lines).unwrap();
        let mount = root.path().join("mount");
        for (path, text) in files {
            let path = mount.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        quota_under(&mount, &membership)
    }

    #[test]
    fn second_version_quota_is_the_smallest_of_all_levels() {
        let files = [("a/cpu.max", "250000 100000\n"), ("a/b/cpu.max", "max 100000\n")];
        assert_eq!(cgroup("0::/a/b\n", &files), Some(3));
        assert_eq!(cgroup("0::/\n", &[("cpu.max", "150000 100000")]), Some(2));
        assert_eq!(cgroup("0::/a\n", &[("cpu.max", "max 100000")]), None);
    }

    #[test]
    fn first_version_quota() {
        let quota = ("cpu,cpuacct/docker/x/cpu.cfs_quota_us", "50000\n");
        let period = ("cpu,cpuacct/docker/x/cpu.cfs_period_us", "100000\n");
        let lines = "7:memory:/other\n4:cpu,cpuacct:/docker/x\n0::/\n";
        assert_eq!(cgroup(lines, &[quota, period]), Some(1));
        let none = ("cpu,cpuacct/docker/x/cpu.cfs_quota_us", "-1\n");
        assert_eq!(cgroup(lines, &[none, period]), None);
    }

    #[test]
    fn this_machine_has_a_layout() {
        let layout = Layout::of_process(&CpuWish::default()).unwrap();
        assert!(layout.executors >= 1);
    }
}
