//! Wakes one executor from any thread: an eventfd behind an armed flag, so that only the first
//! ring after falling asleep costs a system call. The executor arms it, looks once more for work,
//! and sleeps; whoever brings work makes it visible first and rings after.
//! No lost wake: a full fence on both sides, between own write and reading the other's.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_utils::CachePadded;

use crate::sockets::kernel;

/// The bell of one executor; clones ring the same bell.
#[derive(Clone, Debug)]
pub struct Bell(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    armed: CachePadded<AtomicBool>,
    eventfd: File,
}

impl Bell {
    /// A bell that nobody listens to yet. Fails when the process is out of descriptors.
    pub fn new() -> io::Result<Bell> {
        let eventfd = kernel::eventfd(0)?;
        Ok(Bell(Arc::new(Shared { armed: CachePadded::new(AtomicBool::new(false)), eventfd })))
    }

    /// Wakes the executor if it sleeps. Call it after what it should find is visible to it.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        let armed = &self.0.armed;
        if armed.load(Ordering::Relaxed) && armed.swap(false, Ordering::AcqRel) {
            self.write();
        }
    }

    fn write(&self) {
        // Fails only when 2^64 - 2 rings are unread: then it is readable anyway.
        let _ = (&self.0.eventfd).write(&1u64.to_ne_bytes());
    }

    /// From here on a ring wakes; what was brought before has to be looked for now.
    pub(crate) fn arm(&self) {
        self.0.armed.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    pub(crate) fn disarm(&self) {
        self.0.armed.store(false, Ordering::Relaxed);
    }

    /// Forgets earlier rings.
    pub(crate) fn silence(&self) {
        // Fails only when there is nothing to forget.
        let _ = (&self.0.eventfd).read(&mut [0; 8]);
    }

    /// True when it was rung, or the network ring has something, and it was not silenced since.
    pub(crate) fn is_ringing(&self) -> bool {
        kernel::is_readable(&self.0.eventfd, 0)
    }

    /// Blocks the thread until it is rung; false if it is not within the time.
    #[cfg(test)]
    pub(crate) fn wait(&self, within_ms: i32) -> bool {
        kernel::is_readable(&self.0.eventfd, within_ms)
    }
}

impl AsRawFd for Bell {
    fn as_raw_fd(&self) -> RawFd {
        self.0.eventfd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_only_when_armed_and_once() {
        let bell = Bell::new().unwrap();
        bell.ring();
        assert!(!bell.is_ringing());
        bell.arm();
        bell.ring();
        assert!(bell.is_ringing());
        bell.silence();
        bell.ring();
        assert!(!bell.is_ringing(), "the first ring disarmed it");
    }
}
