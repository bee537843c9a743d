//! The admin socket: one JSON request per line, one JSON answer per line, on a Unix socket of its owner only.
//!
//! Serves on threads of its own, never on an executor; [`ask`] is the other end. `{"verb":"status"}` → [`Status`];
//! `{"verb":"drain","rate":500}` → [`Draining`].

mod status;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs::Permissions;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub use status::{
    ExecutorStatus, Histogram, IdleStatus, LinkStatus, LogStatus, Messages, Paths, Shards, Status, StorageStatus,
    Totals, Traffic,
};

const REQUEST_BYTES_MAX: u64 = 4_096;
/// Connections served at a time.
const CONNECTIONS_MAX: usize = 16;
/// How long one peer may say nothing.
const PATIENCE: Duration = Duration::from_secs(5);

/// The socket cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("the admin socket {} cannot be opened: {cause} (node.admin names another one)", .path.display())]
pub struct AdminError {
    /// Where it was to be.
    path: PathBuf,
    /// Why not.
    cause: io::Error,
}

/// No answer from the admin socket.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody serves it.
    #[error("no server answers at {}: {cause}", .path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// The server did not do it.
    #[error("the server refused: {0}")]
    Refused(String),
    /// What came is no answer.
    #[error("the server's answer cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    verb: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate: Option<u32>,
}

/// The answer to `drain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// False if the node was draining already.
    pub has_begun: bool,
    /// The process that ends when it has drained.
    pub pid: u32,
}

/// What the socket offers; called for each request, by several threads.
pub struct Verbs {
    /// What the node is doing.
    pub status: Box<dyn Fn() -> Status + Send + Sync>,
    /// Asks the node to stop, with so many clients per second asked to leave.
    pub drain: Box<dyn Fn(Option<u32>) -> Draining + Send + Sync>,
}

/// The served socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct Admin {
    path: PathBuf,
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
    }
}

/// Serves the socket until the process ends. A file that an ended process left behind is replaced.
///
/// Errors: the socket cannot be opened, or is served already.
pub fn serve(path: &Path, verbs: Verbs) -> Result<Admin, AdminError> {
    let failed = |cause| AdminError { path: path.to_path_buf(), cause };
    if UnixStream::connect(path).is_ok() {
        return Err(failed(io::Error::new(io::ErrorKind::AddrInUse, "another server answers there")));
    }
    if path.symlink_metadata().is_ok_and(|found| std::os::unix::fs::FileTypeExt::is_socket(&found.file_type())) {
        std::fs::remove_file(path).map_err(failed)?;
    }
    if let Some(directory) = path.parent() {
        // That of an edge, which keeps no data, may be new.
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let admin = Admin { path: path.to_path_buf() };
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
    let verbs = Arc::new(verbs);
    let thread = std::thread::Builder::new().name("admin".into()).spawn(move || {
        let served = Arc::new(AtomicUsize::new(0));
        for stream in listener.incoming() {
            let begun = stream.and_then(|stream| begin(stream, &verbs, &served));
            if let Err(error) = begun {
                tracing::debug!(%error, "an admin connection cannot be served");
                // Out of descriptors, most likely: do not spin.
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    });
    thread.map_err(failed)?;
    Ok(admin)
}

/// Serves one connection on a thread of its own, so that a silent one holds up nobody; too many are closed at once.
fn begin(stream: UnixStream, verbs: &Arc<Verbs>, served: &Arc<AtomicUsize>) -> io::Result<()> {
    if served.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
        return Ok(());
    }
    served.fetch_add(1, Ordering::Relaxed);
    let (verbs, ours) = (verbs.clone(), served.clone());
    let conversation = std::thread::Builder::new().name("admin-connection".into()).spawn(move || {
        if let Err(error) = converse(&stream, &verbs) {
            tracing::debug!(%error, "an admin connection ended");
        }
        ours.fetch_sub(1, Ordering::Relaxed);
    });
    if conversation.is_err() {
        served.fetch_sub(1, Ordering::Relaxed);
    }
    conversation.map(drop)
}

fn converse(stream: &UnixStream, verbs: &Verbs) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut requests = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if requests.by_ref().take(REQUEST_BYTES_MAX).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut answer = answer(&line, verbs).to_string();
        answer.push('\n');
        let mut stream = stream;
        stream.write_all(answer.as_bytes())?;
    }
}

fn answer(line: &str, verbs: &Verbs) -> Value {
    let request: Request = match serde_json::from_str(line) {
        Ok(request) => request,
        Err(error) => return json!({"error": format!("no request: {error}")}),
    };
    let answer = match request.verb.as_str() {
        "status" => serde_json::to_value((verbs.status)()),
        "drain" if request.rate == Some(0) => return json!({"error": "rate is 0: nobody would ever leave"}),
        "drain" => serde_json::to_value((verbs.drain)(request.rate)),
        verb => return json!({"error": format!("unknown verb `{verb}`; known: status, drain")}),
    };
    answer.unwrap_or_else(|error| json!({"error": error.to_string()}))
}

/// Asks the server behind this socket for its status.
pub fn ask(path: &Path) -> Result<Status, AskError> {
    request(path, &Request { verb: "status".into(), rate: None })
}

/// Asks the server behind this socket to drain and end.
pub fn drain(path: &Path, rate: Option<u32>) -> Result<Draining, AskError> {
    request(path, &Request { verb: "drain".into(), rate })
}

fn request<T: serde::de::DeserializeOwned>(path: &Path, request: &Request) -> Result<T, AskError> {
    let unreachable = |cause| AskError::Unreachable { path: path.to_path_buf(), cause };
    let mut stream = UnixStream::connect(path).map_err(unreachable)?;
    stream.set_read_timeout(Some(2 * PATIENCE)).map_err(unreachable)?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(unreachable)?;
    line.clear();
    BufReader::new(stream).read_line(&mut line).map_err(unreachable)?;
    let answer: Value = serde_json::from_str(&line)?;
    match answer.get("error").and_then(Value::as_str) {
        Some(error) => Err(AskError::Refused(error.to_owned())),
        None => Ok(serde_json::from_value(answer)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verbs() -> Verbs {
        Verbs {
            status: Box::new(|| Status { node: "n1".into(), ..Status::default() }),
            drain: Box::new(|rate| Draining { has_begun: true, pid: rate.unwrap_or(1) }),
        }
    }

    fn served() -> (tempfile::TempDir, PathBuf, Admin) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("admin.sock");
        let admin = serve(&path, verbs()).expect("served");
        (directory, path, admin)
    }

    #[test]
    fn a_status_is_asked_for_and_answered() {
        let (_directory, path, admin) = served();
        assert_eq!(ask(&path).expect("an answer").node, "n1");
        let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(admin);
        assert!(matches!(ask(&path), Err(AskError::Unreachable { .. })));
    }

    #[test]
    fn a_second_server_is_refused_and_a_dead_ones_file_is_replaced() {
        let (directory, path, _admin) = served();
        assert!(serve(&path, verbs()).is_err());
        let stale = directory.path().join("stale.sock");
        drop(UnixListener::bind(&stale).expect("bound"));
        assert!(serve(&stale, verbs()).is_ok());
        let file = directory.path().join("a file");
        std::fs::write(&file, "precious").expect("written");
        assert!(serve(&file, verbs()).is_err());
        assert!(file.exists());
    }

    #[test]
    fn a_drain_is_asked_for_at_a_rate() {
        let (_directory, path, _admin) = served();
        assert_eq!(drain(&path, Some(500)).expect("an answer"), Draining { has_begun: true, pid: 500 });
        assert!(matches!(drain(&path, Some(0)), Err(AskError::Refused(_))));
    }

    #[test]
    fn nonsense_is_answered_too() {
        assert!(answer("{", &verbs())["error"].is_string());
        assert!(answer("{\"verb\":\"dance\"}", &verbs())["error"].as_str().is_some_and(|e| e.contains("dance")));
    }
}
