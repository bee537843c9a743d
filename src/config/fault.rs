//! What can be wrong with a configuration, and where.
//!
//! Every fault names its culprit: the file with line and column (or the command-line flag), the field, and what is
//! allowed there.

use std::fmt;
use std::path::PathBuf;

/// Everything that is wrong with a configuration; never empty.
#[derive(Debug, thiserror::Error)]
#[error("{}", .faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError {
    /// In the order in which they were found.
    pub faults: Vec<Fault>,
}

impl From<Fault> for ConfigError {
    fn from(fault: Fault) -> Self {
        ConfigError { faults: vec![fault] }
    }
}

/// One thing that is wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it was written.
    pub place: Place,
    /// The field, such as `node.edge.retry_ms`; empty if it is the file as a whole.
    pub field: String,
    /// What is wrong.
    pub problem: Problem,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        self.problem.fmt(f)
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file, with line and column from 1.
    File {
        /// As it was named.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
    },
    /// A file as a whole.
    WholeFile(PathBuf),
    /// A flag of the command line.
    Flag(&'static str),
    /// No file says it: it is the default of `conf/laptop.ron`.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { file, line, column } => write!(f, "{}:{line}:{column}", file.display()),
            Place::WholeFile(file) => write!(f, "{}", file.display()),
            Place::Flag(flag) => f.write_str(flag),
            Place::Default => f.write_str("default configuration"),
        }
    }
}

/// What is wrong with a value, a field or a file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// The text is no RON, or a value has another type.
    #[error("{0}")]
    Malformed(String),
    /// A field that does not exist.
    #[error("unknown field `{found}`{}; allowed here: {}", guess(.found, .allowed), .allowed.join(", "))]
    UnknownField {
        /// As written.
        found: String,
        /// What exists.
        allowed: &'static [&'static str],
    },
    /// A word that is none of the choices.
    #[error("unknown value `{found}`{}; allowed: {}", guess(.found, .allowed), .allowed.join(", "))]
    UnknownValue {
        /// As written.
        found: String,
        /// What exists.
        allowed: &'static [&'static str],
    },
    /// A choice that is reserved for later versions.
    #[error("`{found}` is not in this version; supported: {}", .supported.join(", "))]
    Unsupported {
        /// As written.
        found: &'static str,
        /// What this version has.
        supported: &'static [&'static str],
    },
    /// A number outside its bounds.
    #[error("{value} is not allowed; {min} to {max} is{}", because(.why))]
    OutOfBounds {
        /// As written.
        value: u64,
        /// Lowest allowed.
        min: u64,
        /// Highest allowed.
        max: u64,
        /// Which other field makes the bound, or nothing.
        why: &'static str,
    },
    /// A text or list with too few or too many bytes or entries.
    #[error("has {length} {unit}; {min} to {max} are allowed")]
    BadLength {
        /// How many.
        length: usize,
        /// Of what.
        unit: &'static str,
        /// Fewest allowed.
        min: usize,
        /// Most allowed.
        max: usize,
    },
    /// A listening address that is none.
    #[error("`{0}` is no address; write IP:PORT, such as 127.0.0.1:8085, [::1]:8085 or 0.0.0.0:8085")]
    BadAddress(String),
    /// Listening where others can reach it.
    #[error(
        "`{0}` can be reached from other machines, and this version has neither TLS nor authentication; listen on \
         127.0.0.1 or [::1], or write `node: (insecure: true)` in a configuration file to let anybody in"
    )]
    Insecure(String),
    /// Links where others can reach them.
    #[error(
        "`{0}` can be reached from other machines, and links are authenticated by cluster.secret but not encrypted in \
         this version; listen on 127.x.y.z or [::1], or write `node: (insecure: true)` where the network between the \
         nodes is your own"
    )]
    InsecureLinks(String),
    /// An address to dial that is none.
    #[error("`{0}` is no address to dial; write HOST:PORT with a port from 1 to 65535, such as 10.0.0.7:7085")]
    BadPeer(String),
    /// Something that a node in a cluster needs.
    #[error("{0}")]
    Needed(&'static str),
    /// A core that is not listed.
    #[error("\"{name}\" is not among cluster.nodes: {listed}")]
    NotListed {
        /// The node.
        name: String,
        /// Those that are listed.
        listed: String,
    },
    /// A node is listed twice, or two names have one id.
    #[error("\"{second}\" cannot be told apart from \"{first}\", which is listed before; give it another name")]
    SameNode {
        /// Listed first.
        first: String,
        /// Listed later.
        second: String,
    },
    /// A field of this node and its entry in the list disagree.
    #[error("`{found}`, but the entry of this node in cluster.nodes says `{listed}`; write it there only")]
    Disagrees {
        /// As written for the node.
        found: String,
        /// As listed.
        listed: String,
    },
    /// No shards.
    #[error(
        "`{found}` names no shards; write numbers and ranges below cluster.num_shards ({num_shards}), such as 7, \"0-499\" \
         or \"0-9,20\", or Auto"
    )]
    BadShards {
        /// As written.
        found: String,
        /// How many there are.
        num_shards: u32,
    },
    /// More than a datagram of gossip has room for.
    #[error(
        "name, region, zone, shards and address of a node have {length} bytes together, and gossip takes {max}; name \
         fewer or larger ranges of shards, or shorten the names"
    )]
    TooLongForGossip {
        /// As written.
        length: usize,
        /// Most allowed.
        max: usize,
    },
    /// No name of a domain.
    #[error("`{0}` is no domain; write a name of at most 200 bytes such as core.iris.internal")]
    BadDomain(String),
    /// Not where a registry answers HTTP.
    #[error("`{0}` is not where a registry answers; write http://HOST:PORT or https://HOST:PORT")]
    BadRegistry(String),
    /// A registry in plain HTTP.
    #[error(
        "`{0}` goes to another machine in plain text, where tokens can be read and answers made up; write https://HOST:PORT, \
         or `node: (insecure: true)` where the network in between is your own"
    )]
    InsecureRegistry(String),
    /// Messages in plain text.
    #[error(
        "`{0}` is another machine, and messages would go there in plain text; write `encrypted: true`, or \
         `node: (insecure: true)` where the network in between is your own"
    )]
    InsecureStorage(String),
    /// Certificates without TLS.
    #[error("certificates are for https://HOST:PORT, and the address is {0}")]
    NeedlessTls(String),
    /// A token that no header can have.
    #[error("a token has visible characters of ASCII only")]
    BadToken,
    /// More than Consul keeps of a node.
    #[error(
        "has {length} bytes, and Consul keeps {max} of a node; name fewer or larger ranges, or publish a shard map"
    )]
    TooLongForConsul {
        /// As written.
        length: usize,
        /// Most allowed.
        max: usize,
    },
    /// The data directory cannot be chosen.
    #[error("Auto needs STATE_DIRECTORY, XDG_STATE_HOME or HOME to be set; name a directory instead (--data DIR)")]
    NoHome,
    /// No filter for log lines.
    #[error("`{found}` is no log filter ({reason}); write error, warn, info, debug or trace")]
    BadLog {
        /// As written.
        found: String,
        /// What the parser says.
        reason: String,
    },
    /// The variable behind `Env("NAME")`.
    #[error("the environment variable {0} is not set")]
    EnvUnset(String),
    /// The variable behind `Env("NAME")` has something else in it.
    #[error("the environment variable {name} is `{value}`; {wanted} is expected")]
    EnvMismatch {
        /// Which variable.
        name: String,
        /// What it has.
        value: String,
        /// What the field takes.
        wanted: &'static str,
    },
}

fn because(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(" ({why})") }
}

/// `, did you mean …?` if one of the allowed words is close.
fn guess(found: &str, allowed: &[&str]) -> String {
    let near = allowed.iter().map(|word| (distance(found, word), word)).min();
    match near {
        Some((edits, word)) if edits <= 1 + word.len() / 5 => format!(", did you mean `{word}`?"),
        _ => String::new(),
    }
}

/// Levenshtein's distance, in bytes.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in right.bytes().enumerate() {
            let replaced = corner + usize::from(a != b);
            corner = row[j + 1];
            row[j + 1] = replaced.min(corner + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_is_recognised_and_nonsense_is_not() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(guess("retry_m", &["retry_ms", "pairs_max"]), ", did you mean `retry_ms`?");
        assert_eq!(guess("colour", &["retry_ms", "pairs_max"]), "");
    }
}
