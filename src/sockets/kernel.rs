//! The io_uring of one executor and the few system calls that std, socket2 and io-uring leave
//! unsafe. Goes in: [`Operation`]s with a token of the caller's. Comes out: [`Completion`]s.
//! Invariant: an operation carries descriptors and numbers only, never memory of the caller's.
//! What the tokens mean is decided in `sockets`.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use io_uring::types::{Fd, TimeoutFlags, Timespec};
use io_uring::{IoUring, opcode, squeue};

/// Marks completions that carry a new descriptor; a token of the caller's leaves this bit free.
const ACCEPT_BIT: u64 = 1 << 63;

/// What to do about too little locked memory.
pub(crate) const LOCKED_MEMORY_ADVICE: &str = "set LimitMEMLOCK=infinity in the systemd unit, or raise `ulimit -l`";

/// The kernel says ENOMEM when a ring or its buffers exceed the locked memory: says so.
pub(crate) fn explain_memory(error: io::Error) -> io::Error {
    if error.raw_os_error() != Some(libc::ENOMEM) {
        return error;
    }
    let text = format!("{error}: too little locked memory for an io_uring; {LOCKED_MEMORY_ADVICE}");
    io::Error::new(io::ErrorKind::OutOfMemory, text)
}

/// How the kernel delivers completions, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingMode {
    /// DEFER_TASKRUN (Linux 6.1): completions are worked off when this thread asks for them.
    Deferred,
    /// COOP_TASKRUN (Linux 5.19): at this thread's next system call. Costs about a third.
    Cooperative,
    /// An interrupt for each completion.
    Plain,
}

impl fmt::Display for RingMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RingMode::Deferred => "DEFER_TASKRUN",
            RingMode::Cooperative => "COOP_TASKRUN (slower: Linux 6.1 has DEFER_TASKRUN)",
            RingMode::Plain => "plain (slower: Linux 6.1 has DEFER_TASKRUN)",
        })
    }
}

/// Sizes of a ring's queues; the kernel rounds both up to a power of two.
#[derive(Clone, Copy, Debug)]
pub struct RingSizes {
    /// Operations that fit before a system call is needed; 64 bytes each.
    pub submissions: u32,
    /// Completions that fit before the kernel has to keep them itself; 16 bytes each.
    pub completions: u32,
}

/// What the kernel is asked to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    /// Accept until told to stop.
    AcceptMany(RawFd),
    /// Accept one (before Linux 5.19).
    AcceptOne(RawFd),
    /// Report readiness until cancelled.
    PollMany(RawFd, u32),
    /// Report readiness once.
    PollOnce(RawFd, u32),
    /// Complete after this long.
    Timeout(Duration),
    /// End the operation with this token early.
    Cancel(u64),
    /// End an accept with this token early.
    CancelAccept(u64),
    /// End a timeout with this token early.
    CancelTimeout(u64),
}

/// What came of an operation.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// A new connection.
    Accepted(OwnedFd),
    /// The operation's number: ready events of a poll, else 0.
    Done(u32),
    /// The operation ended with an error.
    Failed(io::Error),
}

/// One completion.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) token: u64,
    pub(crate) outcome: Outcome,
    /// False when the operation ended.
    pub(crate) has_more: bool,
}

/// One io_uring; used by the thread that made it and by no other.
pub(crate) struct Ring {
    ring: IoUring,
    mode: RingMode,
    /// Operations that found the submission queue full.
    waiting: VecDeque<squeue::Entry>,
    /// Read by the kernel while a timeout is submitted, so it has an address of its own.
    timespec: Box<Timespec>,
}

impl Ring {
    /// The best ring that this kernel offers.
    pub(crate) fn best(sizes: RingSizes) -> io::Result<Ring> {
        let mut refused = io::Error::from_raw_os_error(libc::EINVAL);
        for mode in [RingMode::Deferred, RingMode::Cooperative, RingMode::Plain] {
            match Ring::with_mode(sizes, mode) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = error,
                result => return result,
            }
        }
        Err(refused)
    }

    /// A ring of exactly this mode; EINVAL when the kernel lacks it.
    pub(crate) fn with_mode(sizes: RingSizes, mode: RingMode) -> io::Result<Ring> {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(sizes.completions.max(sizes.submissions)).setup_clamp();
        match mode {
            RingMode::Deferred => {
                builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
            }
            RingMode::Cooperative => {
                builder.setup_coop_taskrun().setup_taskrun_flag();
            }
            RingMode::Plain => {}
        }
        Ok(Ring {
            ring: builder.build(sizes.submissions)?,
            mode,
            waiting: VecDeque::new(),
            timespec: Box::new(Timespec::new()),
        })
    }

    pub(crate) fn mode(&self) -> RingMode {
        self.mode
    }

    /// Has `eventfd` written to whenever a completion appears.
    pub(crate) fn signal(&self, eventfd: RawFd) -> io::Result<()> {
        self.ring.submitter().register_eventfd(eventfd)
    }

    /// Queues an operation; it reaches the kernel with the next [`Ring::submit`] or when the
    /// queue is full.
    pub(crate) fn push(&mut self, token: u64, operation: Operation) -> io::Result<()> {
        if matches!(operation, Operation::Timeout(_)) {
            // An earlier timeout may still be queued and point to the timespec.
            self.submit()?;
        }
        let entry = self.entry(token, operation);
        if self.waiting.is_empty() && self.try_push(&entry) {
            return Ok(());
        }
        self.waiting.push_back(entry);
        self.submit()
    }

    fn entry(&mut self, token: u64, operation: Operation) -> squeue::Entry {
        debug_assert!(token & ACCEPT_BIT == 0);
        let accept_flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let no_address = std::ptr::null_mut();
        let entry = match operation {
            Operation::AcceptMany(fd) => {
                let entry = opcode::AcceptMulti::new(Fd(fd)).flags(accept_flags).build();
                return entry.user_data(token | ACCEPT_BIT);
            }
            Operation::AcceptOne(fd) => {
                let accept = opcode::Accept::new(Fd(fd), no_address, std::ptr::null_mut());
                return accept.flags(accept_flags).build().user_data(token | ACCEPT_BIT);
            }
            Operation::PollMany(fd, events) => opcode::PollAdd::new(Fd(fd), events).multi(true).build(),
            Operation::PollOnce(fd, events) => opcode::PollAdd::new(Fd(fd), events).build(),
            Operation::Timeout(after) => {
                *self.timespec = Timespec::from(after);
                let timeout = opcode::Timeout::new(&raw const *self.timespec);
                timeout.flags(TimeoutFlags::empty()).build()
            }
            Operation::Cancel(target) => opcode::AsyncCancel::new(target).build(),
            Operation::CancelAccept(target) => opcode::AsyncCancel::new(target | ACCEPT_BIT).build(),
            Operation::CancelTimeout(target) => opcode::TimeoutRemove::new(target).build(),
        };
        entry.user_data(token)
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: an entry refers to descriptors, which the kernel checks, and at most to the
        // boxed timespec, which lives as long as the ring, changes only after a submit, and is
        // copied by the kernel during the submit (IORING_FEAT_SUBMIT_STABLE, Linux 5.5).
        unsafe { self.ring.submission().push(entry).is_ok() }
    }

    /// Hands what is queued to the kernel and lets it finish what it had deferred.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        loop {
            match self.ring.submit() {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => continue,
                // The kernel wants its completions collected first: the caller's next step.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN)) => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            if self.waiting.is_empty() {
                return Ok(());
            }
            let before = self.waiting.len();
            while let Some(entry) = self.waiting.pop_front() {
                if !self.try_push(&entry) {
                    self.waiting.push_front(entry);
                    break;
                }
            }
            if self.waiting.len() == before {
                return Ok(());
            }
        }
    }

    /// True when a [`Ring::submit`] would do something.
    pub(crate) fn needs_submit(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow() || !self.waiting.is_empty()
    }

    /// True when completions are there or would appear with a submit.
    pub(crate) fn has_completions(&mut self) -> bool {
        let queue = self.ring.submission();
        let deferred = queue.taskrun() || queue.cq_overflow();
        drop(queue);
        deferred || !self.ring.completion().is_empty()
    }

    /// Moves the completions that are there to `batch`.
    pub(crate) fn take_completions(&mut self, batch: &mut Vec<Completion>) {
        for entry in self.ring.completion() {
            let (token, result) = (entry.user_data(), entry.result());
            let outcome = if result < 0 {
                Outcome::Failed(io::Error::from_raw_os_error(-result))
            } else if token & ACCEPT_BIT != 0 {
                // SAFETY: the kernel installed this descriptor for an accept of ours and told
                // nobody else; each completion is seen once.
                Outcome::Accepted(unsafe { OwnedFd::from_raw_fd(result) })
            } else {
                Outcome::Done(result.unsigned_abs())
            };
            batch.push(Completion {
                token: token & !ACCEPT_BIT,
                outcome,
                has_more: io_uring::cqueue::more(entry.flags()),
            });
        }
    }
}

/// A new eventfd, non-blocking and closed on exec.
pub(crate) fn eventfd(value: u32) -> io::Result<File> {
    // SAFETY: takes two numbers.
    let fd = unsafe { libc::eventfd(value, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// True when a read of `file` would not block, at once or within the time; -1 waits for ever.
pub(crate) fn is_readable(file: &File, within_ms: i32) -> bool {
    let mut poll = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, on this stack for the whole call.
    unsafe { libc::poll(&raw mut poll, 1, within_ms) == 1 }
}

/// A limit of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Open descriptors.
    OpenFiles,
    /// Bytes that may be locked into memory.
    LockedMemory,
}

impl Limit {
    /// Soft and hard value.
    pub(crate) fn read(self) -> io::Result<(u64, u64)> {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        let target = &raw mut limit;
        // SAFETY: writes one rlimit, on this stack for the whole call.
        let failed = unsafe {
            match self {
                Limit::OpenFiles => libc::getrlimit(libc::RLIMIT_NOFILE, target),
                Limit::LockedMemory => libc::getrlimit(libc::RLIMIT_MEMLOCK, target),
            }
        };
        if failed != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((limit.rlim_cur, limit.rlim_max))
    }

    /// Sets the soft value, which cannot exceed the hard one.
    pub(crate) fn set_soft(self, soft: u64) -> io::Result<()> {
        let (_, hard) = self.read()?;
        let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
        let source = &raw const limit;
        // SAFETY: reads one rlimit, on this stack for the whole call.
        let failed = unsafe {
            match self {
                Limit::OpenFiles => libc::setrlimit(libc::RLIMIT_NOFILE, source),
                Limit::LockedMemory => libc::setrlimit(libc::RLIMIT_MEMLOCK, source),
            }
        };
        if failed != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}
