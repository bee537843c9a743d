//! Figures of one machine, as `iris-perf capacity` writes them: the interface between the two is this JSON file.

use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What the file calls itself.
pub const SCHEMA: &str = "iris-measured/1";
/// What a socket takes of the kernel where that could not be measured (it needs root), bytes.
pub const KERNEL_BYTES: f64 = 4_700.0;

/// What a node can do.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Measured {
    /// [`SCHEMA`].
    pub schema: String,
    /// Resident bytes of a node without connections.
    pub node_bytes: f64,
    /// What one idle connection costs.
    pub connection: Connection,
    /// What one second of one CPU does.
    pub per_cpu_second: PerCpuSecond,
    /// What one message that waits costs.
    pub stored: Stored,
    /// Where it was measured, for people.
    #[serde(default)]
    pub environment: Value,
}

/// What one idle connection costs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Connection {
    /// Of the server's own memory, bytes.
    pub resident_bytes: f64,
    /// Of the kernel's, at the server's end, bytes.
    pub kernel_bytes: Option<f64>,
    /// Of a CPU: a share.
    pub cpus: f64,
}

/// What one second of one CPU does.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct PerCpuSecond {
    /// Messages delivered, each acknowledged, one at a time.
    pub messages: f64,
    /// Logins, each on a new connection.
    pub logins: f64,
    /// Messages stored.
    pub stored: f64,
    /// Messages taken from the inbox of a user who comes back.
    pub drained: f64,
}

/// What one message that waits costs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Stored {
    /// Of disk, bytes, with a body of [`Stored::body_bytes`].
    pub disk_bytes: f64,
    /// Of memory, bytes.
    pub memory_bytes: f64,
    /// The body that was measured with.
    pub body_bytes: f64,
}

/// Why a file of figures cannot be used. The operator's fault.
#[derive(Debug, Error)]
pub enum MeasuredError {
    /// The system said no.
    #[error("--measured {path}: cannot be read: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Not what `iris-perf capacity` writes.
    #[error("--measured {path}: {error}; `iris-perf capacity --out FILE` writes such a file")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is missing or wrong, with line and column.
        error: serde_json::Error,
    },
    /// Another version of the format.
    #[error("--measured {path}: schema is {schema:?}, this calculator knows {SCHEMA:?}: measure again")]
    Schema {
        /// The file.
        path: PathBuf,
        /// What it calls itself.
        schema: String,
    },
    /// A figure that cannot be.
    #[error("--measured {path}: {field} is {value}: it has to be a positive number")]
    Impossible {
        /// The file.
        path: PathBuf,
        /// Which figure.
        field: &'static str,
        /// Its value.
        value: f64,
    },
}

impl Measured {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Self, MeasuredError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| MeasuredError::Unreadable { path: path.to_owned(), error })?;
        Self::parse(&text, path)
    }

    /// Checks a file's text.
    pub fn parse(text: &str, path: &Path) -> Result<Self, MeasuredError> {
        let malformed = |error| MeasuredError::Malformed { path: path.to_owned(), error };
        let measured: Measured = serde_json::from_str(text).map_err(malformed)?;
        if measured.schema != SCHEMA {
            return Err(MeasuredError::Schema { path: path.to_owned(), schema: measured.schema });
        }
        match measured.impossible() {
            Some((field, value)) => Err(MeasuredError::Impossible { path: path.to_owned(), field, value }),
            None => Ok(measured),
        }
    }

    /// The first figure that would make nonsense of a plan.
    fn impossible(&self) -> Option<(&'static str, f64)> {
        let (connection, work) = (&self.connection, &self.per_cpu_second);
        let above_zero = [
            ("connection.resident_bytes", connection.resident_bytes),
            ("per_cpu_second.messages", work.messages),
            ("per_cpu_second.logins", work.logins),
            ("per_cpu_second.stored", work.stored),
            ("per_cpu_second.drained", work.drained),
            ("stored.disk_bytes", self.stored.disk_bytes),
            ("stored.memory_bytes", self.stored.memory_bytes),
        ];
        let not_below_zero = [
            ("node_bytes", self.node_bytes),
            ("connection.kernel_bytes", connection.kernel_bytes.unwrap_or(0.0)),
            ("connection.cpus", connection.cpus),
            ("stored.body_bytes", self.stored.body_bytes),
        ];
        let above = above_zero.into_iter().find(|(_, value)| !(value.is_finite() && *value > 0.0));
        above.or_else(|| not_below_zero.into_iter().find(|(_, value)| !(value.is_finite() && *value >= 0.0)))
    }

    /// Memory of one idle connection, the kernel's included, bytes.
    #[must_use]
    pub fn connection_bytes(&self) -> f64 {
        self.connection.resident_bytes + self.connection.kernel_bytes.unwrap_or(KERNEL_BYTES)
    }

    /// Disk of one stored message with such a body, bytes.
    #[must_use]
    pub fn stored_bytes(&self, body_bytes: u64) -> f64 {
        (self.stored.disk_bytes - self.stored.body_bytes).max(0.0) + body_bytes as f64
    }
}
