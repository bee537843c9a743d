//! The main thread's line to each executor: questions, the view of the cluster, drain and stop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::admin::{ExecutorStatus, LinkStatus, Totals};
use crate::bell::Bell;
use crate::discovery::View;
use crate::executor::Control;
use crate::service::Stop;

/// How long an executor has to answer a question about its status.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at how many clients are left.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
/// Questions that wait for an executor.
const CONTROL_MAX: usize = 64;

/// A line to one executor.
#[derive(Debug, Clone)]
pub struct Line {
    /// Where it hears.
    pub control: Sender<Control>,
    /// What wakes it.
    pub bell: Bell,
}

impl Line {
    fn tell(&self, control: Control) {
        // Full or gone: it does not answer, which is what its status will say.
        if self.control.try_send(control).is_ok() {
            self.bell.ring();
        }
    }

    /// What an executor must not miss: waits for room. An executor that has ended needs nothing.
    fn insist(&self, control: Control) {
        if self.control.send(control).is_ok() {
            self.bell.ring();
        }
    }
}

/// The lines to all executors, in their order.
#[derive(Debug, Clone)]
pub struct Lines(Arc<[Line]>);

impl Lines {
    /// One per bell, and the ends that the executors hold.
    pub fn new(bells: &[Bell]) -> (Lines, Vec<Receiver<Control>>) {
        let line = |bell: &Bell| {
            let (control, end) = bounded(CONTROL_MAX);
            (Line { control, bell: bell.clone() }, end)
        };
        let (lines, ends): (Vec<Line>, Vec<_>) = bells.iter().map(line).unzip();
        (Lines(lines.into()), ends)
    }

    /// The line to one executor.
    pub fn line(&self, executor: usize) -> &Line {
        &self.0[executor]
    }

    /// Who is there has changed.
    pub fn view(&self, view: &Arc<View>) {
        self.0.iter().for_each(|line| line.insist(Control::View(view.clone())));
    }

    /// Every executor has recovered: clients and other nodes may come. Returns when all have opened their doors.
    pub fn open(&self) {
        self.0.iter().for_each(|line| line.insist(Control::Open));
        self.ask();
    }

    /// The status of every executor that answers in time.
    pub fn ask(&self) -> Vec<(ExecutorStatus, Vec<LinkStatus>)> {
        let (sender, answers) = bounded(self.0.len());
        self.0.iter().for_each(|line| line.tell(Control::Status(sender.clone())));
        drop(sender);
        let deadline = Instant::now() + STATUS_PATIENCE;
        let mut statuses: Vec<_> = std::iter::from_fn(|| answers.recv_deadline(deadline).ok()).collect();
        statuses.sort_by_key(|(status, _): &(ExecutorStatus, _)| status.id);
        statuses
    }

    /// Sums over the executors that answer in time.
    pub fn totals(&self) -> Totals {
        Totals::of(self.ask().iter().map(|(status, _)| status))
    }

    /// Asks the clients to leave and the cores to hand over, waits for both for a while, and stops the executors.
    ///
    /// Without a rate the clients are spread over half of `drain_ms`; with one, they have the time that it takes, and
    /// `drain_ms` beyond it.
    pub fn drain(&self, stop: Stop, drain_ms: u32) {
        let paced_ms = stop.rate.map(|rate| (self.totals().sessions * 1_000).div_ceil(rate.into()) as u32);
        let within_ms = paced_ms.unwrap_or(drain_ms / 2);
        self.0.iter().for_each(|line| line.insist(Control::Drain(within_ms)));
        let patience_ms = u64::from(drain_ms) + u64::from(paced_ms.unwrap_or(0));
        let deadline = Instant::now() + Duration::from_millis(patience_ms);
        loop {
            let statuses = self.ask();
            let sessions: u64 = statuses.iter().map(|(status, _)| status.sessions).sum();
            let has_handed_over = statuses.iter().all(|(status, _)| status.has_handed_over);
            if (sessions == 0 && has_handed_over) || Instant::now() >= deadline {
                tracing::info!(sessions, has_handed_over, "drained");
                break;
            }
            std::thread::sleep(DRAIN_LOOK);
        }
        self.0.iter().for_each(|line| line.insist(Control::Stop));
    }
}
