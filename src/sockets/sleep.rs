//! Falling asleep without missing anything, and waking in time. An executor sleeps in glommio,
//! waiting for one eventfd that the network ring and the [`Bell`] write to; the deadline is a
//! timeout in the network ring, so it costs no descriptor and rides with the next submit.
//! Invariant: everything is submitted, the eventfd silenced and the bell armed, in this order,
//! before the last look for work. Which work there is, is decided by the executor's loop.

use std::io;
use std::time::{Duration, Instant};

use super::kernel::Operation;
use super::{ConnectionKey, Kind, Sockets, token};
use crate::bell::Bell;
use crate::watchdog::Pulse;

/// A sleep this short would mostly have been spared by a spin: it is nearly all wake-up.
const SHORT_SLEEP: Duration = Duration::from_micros(150);
/// Short sleeps in a row before spinning is worth a try.
const SPIN_TRUST: u8 = 4;
const TRUST_MAX: u8 = 16;
/// What a futile spin costs: 8 short sleeps in a row win it back.
const TRUST_LOST: u8 = 8;

/// When to wake at the latest, and who else may have work.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sleep {
    /// The machines' next timer.
    pub deadline: Option<Instant>,
    /// Whether any other glommio task of this executor waits for something (a file, a channel).
    /// Then the watchdog looks after the executor while it sleeps; when in doubt say true.
    pub has_company: bool,
}

/// What an executor remembers about its sleeps.
#[derive(Default)]
pub(super) struct Rest {
    /// Turns since the reactor was last visited.
    turns: u32,
    /// When the armed timeout ends, and its number.
    timeout: Option<(Instant, u32)>,
    timeouts: u32,
    trust: u8,
}

impl Rest {
    pub(super) fn count_turn(&mut self) {
        self.turns += 1;
    }

    pub(super) fn on_timeout(&mut self, number: u32) {
        if self.timeout.is_some_and(|(_, armed)| armed == number) {
            self.timeout = None;
        }
    }

    fn on_slept(&mut self, slept: Duration) {
        self.turns = 0;
        self.trust = match slept <= SHORT_SLEEP {
            true => (self.trust + 1).min(TRUST_MAX),
            false => 0,
        };
    }

    fn on_spun(&mut self, was_useful: bool) {
        self.trust = match was_useful {
            true => (self.trust + 1).min(TRUST_MAX),
            false => self.trust.saturating_sub(TRUST_LOST),
        };
    }
}

/// Undoes the signs of sleep, also when the sleep is abandoned.
struct Asleep<'a> {
    bell: &'a Bell,
    pulse: &'a Pulse,
}

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.pulse.set_alone(false);
        self.bell.disarm();
    }
}

impl Sockets {
    /// Ends a turn: sleeps until a socket, the bell or the deadline. Returns at once when a
    /// completion waits or `is_idle` says no; `is_idle` looks at everything that rings the bell
    /// (the mesh, finished storage) and is asked several times.
    pub async fn sleep(&mut self, sleep: Sleep, mut is_idle: impl FnMut() -> bool) -> io::Result<()> {
        let now = Instant::now();
        let deadline = [sleep.deadline, self.accept_resumes()].into_iter().flatten().min();
        if deadline.is_some_and(|at| at <= now) || self.has_work(&mut is_idle) {
            return Ok(());
        }
        if let Some(at) = deadline {
            self.arm_timeout(at, now)?;
        }
        if self.ring.needs_submit() {
            self.ring.submit()?;
        }
        if self.spin(&mut is_idle) {
            return Ok(());
        }
        self.bell.silence();
        self.bell.arm();
        let asleep = Asleep { bell: &self.bell, pulse: &self.pulse };
        if self.ring.has_completions() || !is_idle() {
            return Ok(());
        }
        self.pulse.set_alone(!sleep.has_company);
        let lay_down = Instant::now();
        self.doorbell.readable().await.map_err(io::Error::from)?;
        drop(asleep);
        self.counters.sleeps += 1;
        self.rest.on_slept(lay_down.elapsed());
        Ok(())
    }

    /// Every 32 turns (see `SocketSettings::turns_max`) without a sleep: one trip through
    /// glommio's reactor, so that files, timers and other tasks go on. Call it once per turn.
    pub async fn give_way(&mut self) -> io::Result<()> {
        if self.rest.turns < self.settings.turns_max {
            return Ok(());
        }
        self.rest.turns = 0;
        self.open_door.readable().await.map_err(io::Error::from)
    }

    fn has_work(&mut self, is_idle: &mut impl FnMut() -> bool) -> bool {
        self.ring.has_completions() || !is_idle()
    }

    /// True when something came within the spin: the round trip halves, at no more CPU as long as
    /// it succeeds. Tried only after several short sleeps.
    fn spin(&mut self, is_idle: &mut impl FnMut() -> bool) -> bool {
        if self.rest.trust < SPIN_TRUST || self.settings.spin.is_zero() {
            return false;
        }
        let started = Instant::now();
        let mut found = false;
        while !found && started.elapsed() < self.settings.spin {
            for _ in 0..16 {
                std::hint::spin_loop();
            }
            found = self.has_work(is_idle);
        }
        self.rest.on_spun(found);
        self.counters.spun += started.elapsed();
        self.counters.spins += u64::from(found);
        self.counters.futile_spins += u64::from(!found);
        found
    }

    /// An earlier timeout than needed stays and wakes once for nothing: cheaper than moving it.
    fn arm_timeout(&mut self, at: Instant, now: Instant) -> io::Result<()> {
        if let Some((armed, number)) = self.rest.timeout {
            if armed <= at {
                return Ok(());
            }
            let target = timeout_token(number);
            let cancel = token(Kind::Cancel, ConnectionKey { index: 0, generation: 0 });
            self.ring.push(cancel, Operation::CancelTimeout(target))?;
        }
        self.rest.timeouts = self.rest.timeouts.wrapping_add(1);
        let number = self.rest.timeouts;
        self.rest.timeout = Some((at, number));
        self.ring.push(timeout_token(number), Operation::Timeout(at - now))
    }
}

fn timeout_token(number: u32) -> u64 {
    token(Kind::Timeout, ConnectionKey { index: number, generation: 0 })
}
