//! Looks before the start for what would fail later in an obscure way: io_uring, locked memory,
//! open files, a port in use. Goes in: addresses and numbers of the configuration. Comes out:
//! listeners, or an error that names the cause and what to change.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::sockets::kernel::{LOCKED_MEMORY_ADVICE, Ring};
use crate::sockets::{Limit, RingMode, RingSizes};

/// The kernel tears the sockets of a killed process down asynchronously: an address may stay in
/// use for a moment after its owner is gone.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(2);
const ADDRESS_RETRY: Duration = Duration::from_millis(50);
/// glommio refuses to start below it.
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;
/// Four rings (three of them glommio's, with registered buffers) took 325 KiB on Linux 6.18.
const MEMLOCK_BYTES_PER_EXECUTOR: u64 = 384 << 10;

/// Why this machine cannot run us, and what to change.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// The kernel has no io_uring.
    #[error("this kernel has no io_uring (io_uring_setup: ENOSYS); Linux 5.19 or newer is needed")]
    NoIoUring,
    /// The sysctl forbids io_uring.
    #[error(
        "io_uring is switched off here: kernel.io_uring_disabled is {0}; set it to 0, or to 1 and \
         run iris in the group of kernel.io_uring_group"
    )]
    IoUringDisabled(u8),
    /// Something else forbids io_uring.
    #[error(
        "io_uring is forbidden to this process (io_uring_setup: EPERM): most likely the seccomp \
         profile of the container or of the systemd unit (SystemCallFilter=@io-uring allows it)"
    )]
    IoUringForbidden,
    /// There is io_uring, but a ring could not be made.
    #[error("cannot make an io_uring: {0}")]
    IoUring(#[source] io::Error),
    /// The executors would not start.
    #[error(
        "{executors} executors need {needed} bytes of locked memory, and {limit} are allowed; {LOCKED_MEMORY_ADVICE}"
    )]
    LockedMemory {
        /// Executors asked for.
        executors: usize,
        /// Bytes they need.
        needed: u64,
        /// Bytes that may be locked.
        limit: u64,
    },
    /// No client would have a descriptor.
    #[error(
        "{limit} open files are allowed, and {needed} are needed before the first client; raise the limit \
         (LimitNOFILE= in the systemd unit, `ulimit -n` in a shell)"
    )]
    OpenFiles {
        /// What the node itself needs.
        needed: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The limits could not be read or set.
    #[error("cannot read or raise the limit of {0:?}: {1}")]
    Limit(Limit, #[source] io::Error),
    /// Another process listens there.
    #[error("{0} is in use: address already in use by another process (`ss -ltnp` shows which)")]
    AddressInUse(SocketAddr),
    /// A port below 1024, for instance.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, #[source] io::Error),
}

/// Tries to make a ring, and says of which mode.
pub fn probe_io_uring() -> Result<RingMode, PreflightError> {
    let sizes = RingSizes { submissions: 8, completions: 16 };
    match Ring::best(sizes) {
        Ok(ring) => Ok(ring.mode()),
        Err(error) => Err(explain_io_uring(error, io_uring_disabled())),
    }
}

fn io_uring_disabled() -> Option<u8> {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

fn explain_io_uring(error: io::Error, disabled: Option<u8>) -> PreflightError {
    match (error.raw_os_error(), disabled) {
        (Some(libc::ENOSYS), _) => PreflightError::NoIoUring,
        (Some(libc::EPERM), Some(level)) if level > 0 => PreflightError::IoUringDisabled(level),
        (Some(libc::EPERM | libc::EACCES), _) => PreflightError::IoUringForbidden,
        _ => PreflightError::IoUring(error),
    }
}

/// Whether as many executors can register their buffers. Root may lock what it wants to.
pub fn check_locked_memory(executors: usize) -> Result<(), PreflightError> {
    let (limit, _) = Limit::LockedMemory.read().map_err(|error| PreflightError::Limit(Limit::LockedMemory, error))?;
    locked_memory(executors, limit, may_lock_anything())
}

fn locked_memory(executors: usize, limit: u64, is_free: bool) -> Result<(), PreflightError> {
    let all = MEMLOCK_BYTES_PER_EXECUTOR * executors as u64;
    // glommio looks at the limit itself, whoever we are.
    let needed = if is_free { MEMLOCK_BYTES_MIN } else { all.max(MEMLOCK_BYTES_MIN) };
    if limit < needed {
        return Err(PreflightError::LockedMemory { executors, needed, limit });
    }
    Ok(())
}

/// CAP_IPC_LOCK is bit 14 of the effective capabilities.
fn may_lock_anything() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> 14 & 1 == 1)
}

/// Raises the number of files we may open as far as it goes without privileges, and returns it.
pub fn raise_open_files() -> Result<u64, PreflightError> {
    let told = |error| PreflightError::Limit(Limit::OpenFiles, error);
    let (soft, hard) = Limit::OpenFiles.read().map_err(told)?;
    if soft < hard {
        Limit::OpenFiles.set_soft(hard).map_err(told)?;
    }
    Ok(hard)
}

/// How to listen.
#[derive(Clone, Copy, Debug)]
pub struct ListenSettings {
    /// Clients that may wait to be accepted, per executor; the kernel caps it at
    /// `net.core.somaxconn`.
    pub backlog: u32,
    /// How long to wait for an address in use to become free.
    pub patience: Duration,
}

impl Default for ListenSettings {
    fn default() -> Self {
        ListenSettings { backlog: 4096, patience: ADDRESS_PATIENCE }
    }
}

/// One listener per executor on the same address, and the address with its port. The kernel
/// spreads the clients over them. Port 0 lets the kernel choose one.
///
/// Refused if any other process listens there, even one that would share the port.
pub fn listen(
    address: SocketAddr,
    executors: usize,
    settings: ListenSettings,
) -> Result<(SocketAddr, Vec<Socket>), PreflightError> {
    let backlog = i32::try_from(settings.backlog).unwrap_or(i32::MAX);
    let first = listen_alone(address, backlog, settings.patience)?;
    let shared = share(first, executors, backlog);
    shared.map_err(|error| refused(address, error))
}

/// Binds and listens without sharing, so that anybody else there is noticed.
fn listen_alone(address: SocketAddr, backlog: i32, patience: Duration) -> Result<Socket, PreflightError> {
    let give_up = Instant::now() + patience;
    loop {
        match try_listen(address, backlog) {
            Ok(socket) => return Ok(socket),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < give_up => {
                std::thread::sleep(ADDRESS_RETRY);
            }
            Err(error) => return Err(refused(address, error)),
        }
    }
}

fn try_listen(address: SocketAddr, backlog: i32) -> io::Result<Socket> {
    let socket = tcp_socket(address)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket)
}

/// Opens the port of `first` to more of our own listeners; nobody can come in between.
fn share(first: Socket, executors: usize, backlog: i32) -> io::Result<(SocketAddr, Vec<Socket>)> {
    let local = first.local_addr()?.as_socket();
    let resolved = local.ok_or(io::ErrorKind::AddrNotAvailable)?;
    first.set_reuse_port(true)?;
    let mut listeners = vec![first];
    while listeners.len() < executors {
        let socket = tcp_socket(resolved)?;
        socket.set_reuse_port(true)?;
        socket.bind(&resolved.into())?;
        socket.listen(backlog)?;
        listeners.push(socket);
    }
    Ok((resolved, listeners))
}

fn refused(address: SocketAddr, error: io::Error) -> PreflightError {
    match error.kind() {
        io::ErrorKind::AddrInUse => PreflightError::AddressInUse(address),
        _ => PreflightError::Listen(address, error),
    }
}

fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier process in TIME_WAIT are no reason to refuse.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // So that 0.0.0.0 and [::] can both be listed, whatever the sysctl says.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const AT_ONCE: ListenSettings = ListenSettings { backlog: 64, patience: Duration::ZERO };

    fn loopback(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn this_machine_has_io_uring() {
        probe_io_uring().unwrap();
    }

    #[test]
    fn each_refusal_names_its_cause() {
        let explain = |errno, disabled| explain_io_uring(io::Error::from_raw_os_error(errno), disabled).to_string();
        assert!(explain(libc::ENOSYS, None).contains("Linux 5.19"));
        assert!(explain(libc::EPERM, Some(2)).contains("kernel.io_uring_disabled is 2"));
        assert!(explain(libc::EPERM, Some(0)).contains("seccomp"));
        assert!(explain(libc::ENOMEM, Some(0)).contains("cannot make an io_uring"));
    }

    #[test]
    fn too_little_locked_memory_names_the_setting() {
        let error = locked_memory(64, 8 << 20, false).unwrap_err().to_string();
        assert!(error.contains("LimitMEMLOCK=infinity") && error.contains("ulimit -l"), "{error}");
        locked_memory(21, 8 << 20, false).unwrap();
        locked_memory(64, 8 << 20, true).unwrap();
        locked_memory(1, 64 << 10, true).unwrap_err();
    }

    #[test]
    fn open_files_are_raised_to_the_hard_limit() {
        let raised = raise_open_files().unwrap();
        assert_eq!(Limit::OpenFiles.read().unwrap(), (raised, raised));
    }

    #[test]
    fn all_executors_share_the_port_that_the_kernel_chose() {
        let (address, listeners) = listen(loopback(0), 3, AT_ONCE).unwrap();
        assert_ne!(address.port(), 0);
        let _clients: Vec<TcpStream> = (0..96).map(|_| TcpStream::connect(address).unwrap()).collect();
        for listener in &listeners {
            assert_eq!(listener.local_addr().unwrap().as_socket(), Some(address));
            listener.set_nonblocking(true).unwrap();
            let accepted = std::iter::from_fn(|| listener.accept().ok()).count();
            assert!(accepted > 5, "the kernel spreads clients: {accepted} of 96");
        }
    }

    #[test]
    fn a_port_that_someone_has_is_refused_even_if_they_would_share_it() {
        let (address, _listeners) = listen(loopback(0), 2, AT_ONCE).unwrap();
        let error = listen(address, 2, AT_ONCE).unwrap_err();
        assert!(matches!(error, PreflightError::AddressInUse(at) if at == address), "{error}");
        assert!(error.to_string().contains(&address.to_string()));
    }

    #[test]
    fn a_port_that_becomes_free_in_time_is_taken() {
        let owner = TcpListener::bind(loopback(0)).unwrap();
        let address = owner.local_addr().unwrap();
        let waiting = std::thread::spawn(move || listen(address, 1, ListenSettings::default()));
        drop(owner);
        assert_eq!(waiting.join().unwrap().unwrap().0, address);
    }

    #[test]
    fn both_families_on_one_port() {
        let (four, _four) = listen("0.0.0.0:0".parse().unwrap(), 2, AT_ONCE).unwrap();
        let six = SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), four.port());
        match listen(six, 2, AT_ONCE) {
            Ok((resolved, _six)) => assert_eq!(resolved, six),
            // A machine without IPv6.
            Err(PreflightError::Listen(..)) => {}
            Err(error) => panic!("{error}"),
        }
        TcpStream::connect(loopback(four.port())).unwrap();
    }
}
