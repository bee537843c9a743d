//! The house rules as a test: what a reader may count on in every file of this repository.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
const MODULE_DOC_LINES_MAX: usize = 5;

/// Rooms without a concept.
const BAD_NAMES: [&str; 10] =
    ["util", "utils", "common", "helper", "helpers", "impl", "impls", "manager", "misc", "types"];

/// Where the kernel's ring is driven, and where a segment is mapped.
const UNSAFE_FILES: [&str; 3] = ["src/sockets.rs", "src/sockets/", "src/storage/segment.rs"];

/// What the machines must not see: each word would make a run depend on something else than its seed.
const WALL: [&str; 12] = [
    "std::time",
    "SystemTime",
    "std::thread",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::os",
    "std::io",
    "std::collections::HashMap",
    "std::collections::HashSet",
    "async fn",
];

struct File {
    /// From the root of the repository.
    path: String,
    text: String,
}

impl File {
    /// Everything before the unit tests at its end.
    fn product(&self) -> &str {
        let tests = self.text.find("\n#[cfg(test)]\nmod ");
        &self.text[..tests.unwrap_or(self.text.len())]
    }

    fn is_test(&self) -> bool {
        self.path.contains("tests/") || self.path.ends_with("tests.rs")
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(folders: &[&str]) -> Vec<File> {
    let mut found = Vec::new();
    folders.iter().for_each(|folder| collect(&root().join(folder), &mut found));
    assert!(!found.is_empty());
    found
}

fn collect(folder: &Path, found: &mut Vec<File>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a readable file");
            let path = path.strip_prefix(root()).expect("inside").to_string_lossy().into_owned();
            found.push(File { path, text });
        }
    }
}

fn everything() -> Vec<File> {
    files(&["src", "shards/src", "perf/src", "tests", "shards/tests", "perf/tests"])
}

fn product() -> Vec<File> {
    files(&["src", "shards/src", "perf/src"])
}

/// Fails with all complaints at once.
fn none(complaints: &[String]) {
    let mut told = String::new();
    complaints.iter().for_each(|complaint| writeln!(told, "  {complaint}").expect("memory"));
    assert!(complaints.is_empty(), "house rules:\n{told}");
}

#[test]
fn files_are_short() {
    let mut complaints = Vec::new();
    for file in everything() {
        let lines = file.text.lines().count();
        if lines > FILE_LINES_MAX {
            complaints.push(format!("{} has {lines} lines, at most {FILE_LINES_MAX}", file.path));
        }
    }
    none(&complaints);
}

/// Relies on rustfmt: a function ends at the first brace that stands as far to the right as the function itself.
#[test]
fn functions_are_short() {
    let mut complaints = Vec::new();
    for file in product().iter().filter(|file| !file.is_test()) {
        let lines: Vec<&str> = file.product().lines().collect();
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| is_function(line)) {
            let end = format!("{}}}", &line[..line.len() - line.trim_start().len()]);
            let length = lines[at..].iter().position(|line| **line == end).map_or(0, |end| end + 1);
            if length > FUNCTION_LINES_MAX {
                complaints.push(format!("{}:{} {length} lines, at most {FUNCTION_LINES_MAX}", file.path, at + 1));
            }
        }
    }
    none(&complaints);
}

fn is_function(line: &str) -> bool {
    let line = line.trim_start();
    let words = line
        .split_whitespace()
        .take_while(|word| matches!(*word, "fn" | "const" | "async" | "unsafe" | "extern") || word.starts_with("pub"));
    let is_one = words.last() == Some("fn");
    is_one && !line.ends_with('}') && !line.ends_with(';')
}

#[test]
fn every_file_says_what_it_is() {
    let mut complaints = Vec::new();
    for file in everything() {
        let doc: Vec<&str> = file.text.lines().take_while(|line| line.starts_with("//!")).collect();
        let lines = doc.iter().filter(|line| **line != "//!").count();
        if lines == 0 {
            complaints.push(format!("{} does not begin with a module doc", file.path));
        }
        // The crates' front pages are tours, and the format of records is specified in its place.
        let may_be_long = file.path.ends_with("lib.rs") || file.path == "shards/src/record.rs" || file.is_test();
        if lines > MODULE_DOC_LINES_MAX && !may_be_long {
            complaints.push(format!("{} has a module doc of {lines} lines, at most {MODULE_DOC_LINES_MAX}", file.path));
        }
    }
    none(&complaints);
}

#[test]
fn modules_are_named_after_concepts() {
    let is_bad = |file: &File| {
        let path = Path::new(&file.path).with_extension("");
        path.iter().any(|part| BAD_NAMES.contains(&part.to_string_lossy().as_ref()))
    };
    let bad = everything().iter().filter(|file| is_bad(file)).map(|file| file.path.clone()).collect::<Vec<_>>();
    none(&bad);
}

#[test]
fn unsafe_is_where_it_may_be() {
    let mut complaints = Vec::new();
    for file in everything() {
        let is_allowed =
            UNSAFE_FILES.iter().any(|allowed| file.path.starts_with(allowed)) || file.path == "tests/tidy.rs";
        let uses = file.text.lines().enumerate().filter(|(_, line)| is_unsafe(line));
        complaints.extend(uses.filter(|_| !is_allowed).map(|(at, _)| format!("{}:{} is unsafe", file.path, at + 1)));
    }
    none(&complaints);
}

fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"].iter().any(|word| code.contains(word))
}

#[test]
fn the_machines_see_no_machine() {
    let mut complaints = Vec::new();
    for file in files(&["shards/src"]) {
        for (at, line) in file.product().lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let seen = WALL.iter().filter(|word| code.contains(**word));
            complaints.extend(seen.map(|word| format!("{}:{} mentions {word}", file.path, at + 1)));
        }
    }
    none(&complaints);
    let manifest = fs::read_to_string(root().join("shards/Cargo.toml")).expect("a manifest");
    for library in ["glommio", "tokio", "async-std", "rand", "libc", "memmap2", "io-uring"] {
        let is_named = manifest.lines().any(|line| line.split(['=', '.', ' ']).next() == Some(library));
        assert!(!is_named, "shards/Cargo.toml depends on {library}");
    }
    let front = fs::read_to_string(root().join("shards/src/lib.rs")).expect("a front page");
    assert!(front.contains("#![forbid(unsafe_code)]"));
}

#[test]
fn nothing_points_at_a_machine_of_ours() {
    let mut complaints = Vec::new();
    let documents = ["README.md", "CHANGELOG.md", "conf/laptop.ron", "systemd/iris.service", "scripts/check"];
    for document in documents {
        let text = fs::read_to_string(root().join(document)).expect(document);
        for word in ["/root/", "/work/", "/tmp/t-"] {
            if text.contains(word) {
                complaints.push(format!("{document} mentions {word}"));
            }
        }
    }
    none(&complaints);
}
