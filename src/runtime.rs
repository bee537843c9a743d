//! Starts the executors: one thread each, on its CPU, with the recipe that keeps glommio from
//! parking with work (no preemption, a heart-beat, one watchdog). Goes in: what each executor
//! runs. Comes out: [`Executors`], once every one of them said that it is ready.

use std::future::Future;
use std::io;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use glommio::{LocalExecutorBuilder, Placement};

use crate::bell::Bell;
use crate::cpus::{Layout, pin_to};
use crate::sockets::kernel::explain_memory;
use crate::watchdog::{Pulse, Watchdog};

/// glommio preempts by a timer; long enough to never fire before the watchdog's next round.
const PREEMPT_TIMER: Duration = Duration::from_secs(3600);
/// Enough for the log's writes; the default would keep 10 MiB resident per executor.
const IO_MEMORY_BYTES: usize = 64 << 10;

/// Why executors did not start, or failed later.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The process is out of descriptors or threads.
    #[error("cannot start the executors: {0}")]
    Process(#[from] io::Error),
    /// One of them ended before it was ready.
    #[error("executor {executor} did not start: {cause}")]
    NotReady {
        /// Its number.
        executor: usize,
        /// What it said.
        cause: String,
    },
    /// One of them ended with an error.
    #[error("executor {executor} failed: {cause}")]
    Failed {
        /// Its number.
        executor: usize,
        /// What it said.
        cause: String,
    },
}

/// What one executor is and has, before it runs.
#[derive(Clone, Debug)]
pub struct Seat {
    /// Its number, from 0.
    pub executor: usize,
    /// Executors in all.
    pub executors: usize,
    /// The CPU it stays on, if it does.
    pub cpu: Option<usize>,
    /// Whether executors share CPUs; then it must not spin.
    pub is_crowded: bool,
    /// Its sign of life, for `Sockets::new`.
    pub pulse: Pulse,
    ready: Sender<Report>,
}

type Report = (usize, Result<(), String>);

impl Seat {
    /// Wakes this executor.
    #[must_use]
    pub fn bell(&self) -> &Bell {
        self.pulse.bell()
    }

    /// Said once, when this executor serves: [`Executors::start`] waits for all of them.
    pub fn ready(&self) {
        // Nobody listens after another executor failed.
        let _ = self.ready.send((self.executor, Ok(())));
    }
}

/// One bell per executor: for `mesh::mesh`, and then for [`Executors::start`].
pub fn bells(layout: &Layout) -> io::Result<Vec<Bell>> {
    (0..layout.executors).map(|_| Bell::new()).collect()
}

/// The running executors.
pub struct Executors {
    threads: Vec<JoinHandle<Result<(), String>>>,
    watchdog: Watchdog,
}

impl Executors {
    /// Starts one executor per bell, in their order, and waits until each called [`Seat::ready`].
    /// `body` makes what an executor runs; it is called on that executor's thread, and what it
    /// returns ends the executor.
    pub fn start<F>(
        layout: &Layout,
        bells: Vec<Bell>,
        mut body: impl FnMut(usize) -> Box<dyn FnOnce(Seat) -> F + Send>,
    ) -> Result<Executors, RuntimeError>
    where
        F: Future<Output = Result<(), String>> + 'static,
    {
        let executors = bells.len();
        let (ready, reports) = bounded(2 * executors);
        let pulses: Vec<Pulse> = bells.into_iter().map(Pulse::new).collect();
        let watchdog = Watchdog::start(pulses.clone())?;
        let mut threads = Vec::with_capacity(executors);
        for (executor, pulse) in pulses.into_iter().enumerate() {
            let seat = Seat {
                executor,
                executors,
                cpu: layout.cpu_of(executor),
                is_crowded: layout.is_crowded(),
                pulse,
                ready: ready.clone(),
            };
            let body = body(executor);
            let thread = thread::Builder::new().name(format!("executor-{executor}"));
            threads.push(thread.spawn(move || run(seat, body))?);
        }
        drop(ready);
        await_ready(&reports, executors)?;
        Ok(Executors { threads, watchdog })
    }

    /// For how long the slowest executor has not answered its heart-beat, in ms; 0 when all do.
    #[must_use]
    pub fn stalled_ms(&self) -> u64 {
        self.watchdog.stalled_ms()
    }

    /// Waits until all have ended and returns the first error.
    pub fn join(self) -> Result<(), RuntimeError> {
        let mut result = Ok(());
        for (executor, thread) in self.threads.into_iter().enumerate() {
            let ended = thread.join().unwrap_or_else(|_| Err("it panicked".into()));
            if let Err(cause) = ended {
                result = result.and(Err(RuntimeError::Failed { executor, cause }));
            }
        }
        result
    }
}

fn await_ready(reports: &Receiver<Report>, executors: usize) -> Result<(), RuntimeError> {
    let mut missing = executors;
    while missing > 0 {
        match reports.recv() {
            Ok((_, Ok(()))) => missing -= 1,
            Ok((executor, Err(cause))) => return Err(RuntimeError::NotReady { executor, cause }),
            Err(_) => return Err(io::Error::other("an executor ended before it was ready").into()),
        }
    }
    Ok(())
}

/// The life of one executor, on its thread.
fn run<F>(seat: Seat, body: Box<dyn FnOnce(Seat) -> F + Send>) -> Result<(), String>
where
    F: Future<Output = Result<(), String>> + 'static,
{
    let (executor, ready) = (seat.executor, seat.ready.clone());
    let result = live(seat, body);
    let cause = result.clone().err().unwrap_or_else(|| "it ended before all were ready".into());
    // Nobody listens once all are ready: then `join` tells.
    let _ = ready.try_send((executor, Err(cause)));
    result
}

fn live<F>(seat: Seat, body: Box<dyn FnOnce(Seat) -> F + Send>) -> Result<(), String>
where
    F: Future<Output = Result<(), String>> + 'static,
{
    // Before anything is allocated, so that its memory is near this CPU.
    if let Some(cpu) = seat.cpu
        && !pin_to(cpu)
    {
        return Err(format!("the kernel refuses to keep it on CPU {cpu}"));
    }
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .name(&format!("executor-{}", seat.executor))
        .preempt_timer(PREEMPT_TIMER)
        .io_memory(IO_MEMORY_BYTES)
        .make()
        .map_err(|error| explain_memory(error.into()).to_string())?;
    let pulse = seat.pulse.clone();
    let result = executor.run(async move {
        glommio::spawn_local(seat.pulse.clone().beat()).detach();
        body(seat).await
    });
    pulse.retire();
    result
}

#[cfg(test)]
mod tests {
    use crate::cpus::CpuWish;

    use super::*;

    fn unpinned(executors: usize) -> Layout {
        let wish = CpuWish { executors: Some(executors), cpus: None };
        Layout { is_pinned: false, ..Layout::new(&wish, &[0], None).unwrap() }
    }

    fn start(executors: usize, failing: usize, says_ready: bool) -> Result<Executors, RuntimeError> {
        let layout = unpinned(executors);
        Executors::start(&layout, bells(&layout).unwrap(), |_| {
            Box::new(move |seat: Seat| async move {
                if seat.executor == failing {
                    return Err("no disk".into());
                }
                if says_ready {
                    seat.ready();
                }
                Ok(())
            })
        })
    }

    #[test]
    fn a_failure_before_readiness_is_told_with_its_cause() {
        let error = start(3, 1, true).err().unwrap();
        assert!(error.to_string().contains("did not start"), "{error}");
        let error = start(1, 0, true).err().unwrap();
        assert_eq!(error.to_string(), "executor 0 did not start: no disk");
    }

    #[test]
    fn an_end_before_readiness_is_a_failure() {
        let error = start(1, 9, false).err().unwrap();
        assert!(error.to_string().contains("ended before"), "{error}");
    }

    #[test]
    fn what_an_executor_says_at_its_end_is_heard() {
        let layout = unpinned(1);
        let executors = Executors::start(&layout, bells(&layout).unwrap(), |_| {
            Box::new(|seat: Seat| async move {
                seat.ready();
                Err("torn".to_owned())
            })
        });
        let error = executors.unwrap().join().unwrap_err();
        assert_eq!(error.to_string(), "executor 0 failed: torn");
    }

    #[test]
    fn a_cpu_that_does_not_exist_is_named() {
        let layout = Layout { executors: 1, cpus: vec![1000], is_pinned: true };
        let started = Executors::start(&layout, bells(&layout).unwrap(), |_| {
            Box::new(|seat: Seat| async move {
                seat.ready();
                Ok(())
            })
        });
        assert!(started.err().unwrap().to_string().contains("CPU 1000"));
    }
}
