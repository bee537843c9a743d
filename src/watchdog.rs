//! The heart-beat of every executor. glommio can park an executor that has runnable tasks; only a
//! wake from another thread ends that. One thread per process gives it each 100 ms, except to an
//! executor that sleeps alone (its loop is its only task) and whose bell is silent: it has nothing
//! to do, so idle executors stay asleep. An executor that does not answer is reported as stalled.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

use crate::bell::Bell;

/// How often an executor is woken that may have runnable tasks.
pub const BEAT: Duration = Duration::from_millis(100);

/// Wakes of an executor that does not answer: 10 minutes' worth.
const WAKES_MAX: u32 = 6000;

/// The sign of life of one executor; clones are of the same one.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<CachePadded<Shared>>);

#[derive(Debug)]
struct Shared {
    bell: Bell,
    /// Beats asked for and answered.
    asked: AtomicU64,
    answered: AtomicU64,
    is_alone: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Pulse {
    /// Of the executor that sleeps at `bell`.
    #[must_use]
    pub fn new(bell: Bell) -> Pulse {
        Pulse(Arc::new(CachePadded::new(Shared {
            bell,
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            is_alone: AtomicBool::new(false),
            waker: Mutex::new(None),
        })))
    }

    /// The bell of this executor.
    #[must_use]
    pub fn bell(&self) -> &Bell {
        &self.0.bell
    }

    /// Answers the watchdog for ever: a task of its own in every executor.
    pub async fn beat(self) {
        poll_fn(|context| {
            let mut waker = self.waker();
            let asked = self.0.asked.load(Ordering::Acquire);
            self.0.answered.store(asked, Ordering::Release);
            if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
                *waker = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// Said by the executor: it sleeps, and its loop is its only task.
    pub(crate) fn set_alone(&self, is_alone: bool) {
        self.0.is_alone.store(is_alone, Ordering::Release);
    }

    /// The executor ends; nobody wakes it any more.
    pub(crate) fn retire(&self) {
        *self.waker() = None;
    }

    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.0.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_nothing_to_do(&self) -> bool {
        self.0.is_alone.load(Ordering::Acquire) && !self.0.bell.is_ringing()
    }

    /// Wakes the heart-beat task, again if it did not answer: the wake itself may have met an
    /// executor about to park.
    fn wake(&self) {
        if let Some(waker) = self.waker().as_ref() {
            waker.wake_by_ref();
        }
    }

    fn has_waker(&self) -> bool {
        self.waker().is_some()
    }

    fn ask(&self) {
        self.0.asked.fetch_add(1, Ordering::AcqRel);
    }

    fn is_answered(&self) -> bool {
        self.0.answered.load(Ordering::Acquire) >= self.0.asked.load(Ordering::Acquire)
    }
}

/// The thread that wakes all executors of the process; stops when dropped.
#[derive(Debug)]
pub struct Watchdog {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    stalled_ms: Arc<AtomicU64>,
}

impl Watchdog {
    /// Begins to look after these executors. Fails when the process cannot have another thread.
    pub fn start(pulses: Vec<Pulse>) -> io::Result<Watchdog> {
        let (stop, stopped) = mpsc::channel::<()>();
        let stalled_ms = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&stalled_ms);
        let thread = std::thread::Builder::new().name("watchdog".into()).spawn(move || {
            let mut rounds: Vec<Round> = pulses.into_iter().map(Round::new).collect();
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(BEAT) {
                let longest = rounds.iter_mut().map(Round::visit).max().unwrap_or_default();
                told.store(longest.as_millis() as u64, Ordering::Relaxed);
            }
        })?;
        Ok(Watchdog { stop: Some(stop), thread: Some(thread), stalled_ms })
    }

    /// For how long the slowest executor has not answered, in ms; 0 when all do. For the service
    /// watchdog and the health check.
    #[must_use]
    pub fn stalled_ms(&self) -> u64 {
        self.stalled_ms.load(Ordering::Relaxed)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its panic has been reported already; there is nothing left to stop.
            let _ = thread.join();
        }
    }
}

/// One executor, as the watchdog remembers it between two visits.
struct Round {
    pulse: Pulse,
    asked_at: Option<Instant>,
    wakes: u32,
}

impl Round {
    fn new(pulse: Pulse) -> Round {
        Round { pulse, asked_at: None, wakes: 0 }
    }

    /// Returns for how long it has not answered.
    fn visit(&mut self) -> Duration {
        if !self.pulse.has_waker() {
            self.asked_at = None;
            return Duration::ZERO;
        }
        if self.pulse.is_answered() {
            if self.pulse.has_nothing_to_do() {
                self.asked_at = None;
                return Duration::ZERO;
            }
            self.pulse.ask();
            self.asked_at = Some(Instant::now());
            self.wakes = 0;
        }
        // Each unanswered wake takes memory in the executor's queue.
        if self.wakes < WAKES_MAX {
            self.wakes += 1;
            self.pulse.wake();
        }
        self.asked_at.map_or(Duration::ZERO, |asked_at| asked_at.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Context, Wake};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A pulse whose heart-beat runs when the test says so.
    fn scene(test: impl FnOnce(&Pulse, &mut Round, &dyn Fn() -> usize, &mut dyn FnMut())) {
        let pulse = Pulse::new(Bell::new().unwrap());
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut beat = pin!(pulse.clone().beat());
        let mut answer = || {
            let poll = beat.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(poll.is_pending());
        };
        answer();
        let woken = || count.0.load(Ordering::Relaxed);
        test(&pulse, &mut Round::new(pulse.clone()), &woken, &mut answer);
    }

    #[test]
    fn an_executor_that_sleeps_alone_is_left_alone() {
        scene(|pulse, round, woken, _| {
            pulse.set_alone(true);
            round.visit();
            round.visit();
            assert_eq!(woken(), 0);
        });
    }

    #[test]
    fn a_bell_that_nobody_answers_wakes_it() {
        scene(|pulse, round, woken, _| {
            pulse.set_alone(true);
            pulse.bell().arm();
            pulse.bell().ring();
            round.visit();
            assert_eq!(woken(), 1);
        });
    }

    #[test]
    fn company_keeps_the_heart_beating() {
        scene(|pulse, round, woken, answer| {
            pulse.set_alone(false);
            for beat in 1..=3 {
                round.visit();
                assert_eq!(woken(), beat);
                answer();
            }
        });
    }

    #[test]
    fn without_an_answer_it_is_woken_again_and_counts_as_stalled() {
        scene(|_, round, woken, answer| {
            round.visit();
            let asked_at = round.asked_at;
            round.visit();
            round.visit();
            assert_eq!((woken(), round.asked_at), (3, asked_at));
            answer();
            round.visit();
            assert!(round.asked_at > asked_at, "the clock starts anew");
        });
    }

    #[test]
    fn a_retired_executor_is_not_woken() {
        scene(|pulse, round, woken, _| {
            round.visit();
            pulse.retire();
            assert_eq!(round.visit(), Duration::ZERO);
            assert_eq!(woken(), 1);
        });
    }

    #[test]
    fn the_thread_ends_with_its_owner() {
        let watchdog = Watchdog::start(vec![Pulse::new(Bell::new().unwrap())]).unwrap();
        assert_eq!(watchdog.stalled_ms(), 0);
        drop(watchdog);
    }
}
