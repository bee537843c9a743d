//! `scripts/instructions` against a valgrind that counts what it is told: what passes, what fails, what is recorded.

use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const VALGRIND: &str = r#"#!/bin/sh
[ "$1" = --version ] && { echo valgrind-fake; exit; }
for argument; do
    case "$argument" in --callgrind-out-file=*) out="${argument#*=}" ;; esac
done
echo "summary: $COUNTED" >"$out"
"#;
const WORKLOADS: &str = "#!/bin/sh\nprintf 'relay\\t100\\ta message\\nwheel\\t10\\ta timer\\n'\n";

struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Bench { directory: tempfile::tempdir().expect("a directory") };
        bench.program("valgrind", VALGRIND);
        bench.program("workloads", WORKLOADS);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn program(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("written");
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).expect("made executable");
    }

    /// Counts `counted` instructions for every workload.
    fn run(&self, counted: u32, arguments: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/instructions");
        let path = format!("{}:{}", self.directory.path().display(), std::env::var("PATH").expect("a PATH"));
        let mut command = Command::new(script);
        command.arg("--binary").arg(self.path("workloads")).args(arguments);
        command.env("PATH", path).env("COUNTED", counted.to_string());
        command.env("IRIS_INSTRUCTIONS", self.path("baseline.json"));
        command.output().expect("scripts/instructions starts")
    }

    fn baseline(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(self.path("baseline.json")).expect("a baseline")).expect("JSON")
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn three_percent_pass_and_more_fails_in_either_direction() {
    let bench = Bench::new();
    assert_eq!(bench.run(100_000, &["--update", "--reason", "first"]).status.code(), Some(0));
    for (counted, code) in [(100_000, 0), (102_900, 0), (97_100, 0), (103_200, 1), (96_800, 1)] {
        let output = bench.run(counted, &[]);
        assert_eq!(output.status.code(), Some(code), "{counted}: {}", said(&output));
    }
    let output = bench.run(110_000, &["relay"]);
    let said = said(&output);
    assert!(
        said.contains("+10.0%") && said.contains("changed by more than 3%: relay.") && !said.contains("wheel"),
        "{said}"
    );
}

#[test]
fn a_new_baseline_needs_a_reason_and_keeps_it() {
    let bench = Bench::new();
    let output = bench.run(100_000, &["--update"]);
    assert!(output.status.code() == Some(2) && said(&output).contains("--update needs --reason"), "{}", said(&output));
    assert_eq!(bench.run(100_000, &["--update", "--reason", "first"]).status.code(), Some(0));
    assert_eq!(bench.run(150_000, &["--update", "--reason", "twice the checks", "relay"]).status.code(), Some(0));
    let baseline = bench.baseline();
    assert_eq!(baseline["workloads"]["relay"]["instructions"], 1_500.0);
    assert_eq!(baseline["workloads"]["wheel"]["instructions"], 10_000.0, "what was not counted is kept");
    assert_eq!(baseline["reasons"][0]["reason"], "twice the checks");
    assert_eq!(baseline["reasons"][0]["changes"]["relay"], "+50.0%");
    assert_eq!(baseline["reasons"][1]["reason"], "first");
}

#[test]
fn a_workload_that_is_new_or_gone_fails_too() {
    let bench = Bench::new();
    assert_eq!(bench.run(100_000, &["--update", "--reason", "first"]).status.code(), Some(0));
    bench.program("workloads", "#!/bin/sh\nprintf 'relay\\t100\\ta message\\ninbox\\t10\\tan entry\\n'\n");
    let output = bench.run(100_000, &["--json"]);
    assert_eq!(output.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&json["gone"][0], &json["workloads"][1]["change"]), (&Value::from("wheel"), &Value::Null));
}

#[test]
fn nothing_counted_is_an_error_and_not_a_success() {
    let bench = Bench::new();
    for (counted, arguments, words) in [(0, &[][..], "counted nothing"), (1, &["dance"], "no workload dance")] {
        let output = bench.run(counted, arguments);
        assert!(output.status.code() == Some(2) && said(&output).contains(words), "{}", said(&output));
    }
}

/// The committed baseline names the workloads that there are.
#[test]
fn the_baseline_is_complete() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json");
    let baseline: Value = serde_json::from_str(&fs::read_to_string(file).expect("a baseline")).expect("JSON");
    let source = include_str!("../instructions/main.rs");
    let workloads = baseline["workloads"].as_object().expect("workloads");
    assert_eq!(source.matches("prepare: ").count() - 1, workloads.len(), "one `prepare` is the field itself");
    for (name, workload) in workloads {
        assert!(source.contains(&format!("\"{name}\"")) && workload["instructions"].as_f64() > Some(0.0), "{name}");
    }
    assert!(baseline["reasons"][0]["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
}
