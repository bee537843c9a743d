//! Configuration: RON as written → [`Config`] as used.
//!
//! In: at most one file over the compiled-in `conf/laptop.ron`, then flags. Out: checked values with their units in
//! their names, and the limits of the machines. Nothing here touches sockets, disks or CPUs.

mod check;
mod cluster;
mod fault;
mod registry;
mod secret;
mod shards;
mod storage;
mod text;
mod used;
mod written;

pub use fault::{ConfigError, Fault, Place, Problem};
pub use registry::Registry;
pub use secret::{SECRET_BYTES_MAX, SECRET_BYTES_MIN, Secret, Token};
pub use shards::{Ranges, parse_shards, shards_text, united};
pub use used::{Cluster, Config, Discovery, LinkConfig, ListedNode, LogFormat, Role, Spread, Storage};

use std::path::{Path, PathBuf};
use text::{Environment, Source};

/// The default configuration, and the documentation of every field.
pub const LAPTOP: &str = include_str!("../conf/laptop.ron");

/// What the command line says about the configuration. It wins over files.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--listen`, any number of times.
    pub listen: Vec<String>,
    /// `--data`.
    pub data: Option<PathBuf>,
    /// `--executors`.
    pub executors: Option<u64>,
}

impl Config {
    /// Reads a file (or none), lays it over the default and flags over both, and checks the result.
    ///
    /// Errors: everything that is wrong, as far as it could be read.
    pub fn load(file: Option<&Path>, flags: &Flags) -> Result<Config, ConfigError> {
        load(file, flags, &|name| std::env::var(name).ok())
    }
}

fn load(file: Option<&Path>, flags: &Flags, environment: Environment) -> Result<Config, ConfigError> {
    let default = Source::plain(Path::new("conf/laptop.ron"), LAPTOP);
    let whole: written::Written = parse(&default)?;
    let Some(file) = file else {
        return check::checked(whole, &default, flags, environment);
    };
    let text = std::fs::read_to_string(file).map_err(|error| Fault {
        place: Place::WholeFile(file.to_path_buf()),
        field: String::new(),
        problem: Problem::Unreadable(error.to_string()),
    })?;
    let source = Source::with_environment(file, &text, LAPTOP, environment)?;
    let part: written::WrittenPart = parse(&source)?;
    check::checked(whole.with(part), &source, flags, environment)
}

fn parse<T: serde::de::DeserializeOwned>(source: &Source) -> Result<T, ConfigError> {
    let options = ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME);
    options.from_str(&source.text).map_err(|error| fault_of(source, error).into())
}

fn fault_of(source: &Source, error: ron::error::SpannedError) -> Fault {
    use ron::Error;
    let at = error.span.start;
    let problem = match error.code {
        Error::NoSuchStructField { expected, found, .. } => Problem::UnknownField { found, allowed: expected },
        Error::NoSuchEnumVariant { expected, found, .. } => Problem::UnknownValue { found, allowed: expected },
        code => Problem::Malformed(code.to_string()),
    };
    let (place, mut field) = source.locate(at.line, at.col);
    if let Problem::UnknownField { found, .. } = &problem
        && let Some(group) = field.strip_suffix(found.as_str())
    {
        field = group.trim_end_matches('.').to_owned();
    }
    Fault { place, field, problem }
}

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod tests;
