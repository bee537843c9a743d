//! The machine and the build, for every result: figures without them cannot be compared.

use super::cpus;
use crate::report::Fields;
use rustix::process::{Resource, getrlimit};
use std::fs;
use std::process::Command;

/// Everything that is known about where this runs.
pub fn fields() -> Fields {
    let mut fields = Fields::default();
    fields.put("kernel", first_line("/proc/sys/kernel/osrelease"));
    fields.put("cpu", cpu_model());
    fields.put("cpus", cpus::allowed().map_or(0, |cpus| cpus.len()));
    fields.put("memory_bytes", memory_bytes());
    fields.put("load_average", first_line("/proc/loadavg"));
    fields.put("files_max", getrlimit(Resource::Nofile).current);
    fields.put("memlock_bytes_max", getrlimit(Resource::Memlock).current);
    fields.put("commit", commit());
    fields.put("iris_perf", env!("CARGO_PKG_VERSION"));
    fields.put("is_debug_build", cfg!(debug_assertions));
    fields.put("command", std::env::args().skip(1).collect::<Vec<_>>().join(" "));
    fields
}

fn first_line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

fn cpu_model() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, model)| model.to_owned())
}

fn memory_bytes() -> Option<u64> {
    let line = first_line("/proc/meminfo");
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// The commit of the working tree that this was built from, with `-dirty` where it differs; null elsewhere.
fn commit() -> Option<String> {
    let arguments = ["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--exclude", "*"];
    let output = Command::new("git").args(arguments).output().ok()?;
    let name = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!name.is_empty()).then_some(name)
}
