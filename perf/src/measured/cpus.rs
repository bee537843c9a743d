//! Who runs on which CPU: the server on the first ones, generator threads on the others, if there are others. Processes
//! inherit the affinity of the thread that starts them, so that is set for the moment of starting.

use anyhow::Result;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The CPUs of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpus {
    /// For the server; empty: not pinned.
    pub server: Vec<usize>,
    /// For generator threads; empty: not pinned.
    pub generator: Vec<usize>,
}

impl Cpus {
    /// Divides `allowed` CPUs: as many as it has executors for the server, the others for the generator. Where none
    /// would be left over, nothing is pinned.
    pub fn divide(allowed: &[usize], executors: usize) -> Self {
        if executors >= allowed.len() {
            return Self { server: Vec::new(), generator: Vec::new() };
        }
        let (server, generator) = allowed.split_at(executors);
        Self { server: server.to_vec(), generator: generator.to_vec() }
    }

    /// Nothing is pinned.
    pub fn unpinned() -> Self {
        Self { server: Vec::new(), generator: Vec::new() }
    }
}

/// The CPUs that this process may use.
pub fn allowed() -> Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

/// Runs `start` while this thread, and so what it starts, may use only `cpus` (all if empty).
pub fn started_on<T>(cpus: &[usize], start: impl FnOnce() -> Result<T>) -> Result<T> {
    if cpus.is_empty() {
        return start();
    }
    let before = sched_getaffinity(None)?;
    let mut set = CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu));
    sched_setaffinity(None, &set)?;
    let started = start();
    sched_setaffinity(None, &before)?;
    started
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_gets_what_is_left_over() {
        let cpus = Cpus::divide(&[0, 2, 3], 2);
        assert_eq!((cpus.server, cpus.generator), (vec![0, 2], vec![3]));
        assert_eq!(Cpus::divide(&[0, 1], 2), Cpus::unpinned());
        assert_eq!(Cpus::divide(&[0, 1], 16), Cpus::unpinned());
    }

    #[test]
    fn affinity_is_restored() -> Result<()> {
        let before = allowed()?;
        let inside = started_on(&before[..1], allowed)?;
        assert_eq!((inside.len(), allowed()?), (1, before));
        Ok(())
    }
}
