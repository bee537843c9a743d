//! Real servers (`scripts/engines`), each in a data folder of its own, ended with the test. Where a machine cannot have one
//! the test says so and why, and is skipped.
#![allow(dead_code)]

pub mod cassandra;
pub mod certificates;
pub mod registry;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/engines");
/// What a machine cannot have.
const UNAVAILABLE: i32 = 69;

/// A server.
pub struct Engine {
    kind: &'static str,
    data: tempfile::TempDir,
    options: Vec<String>,
    /// What is known of it.
    told: Value,
}

impl Engine {
    /// One that answers. None, and a sentence, if this machine cannot have it.
    pub fn up(kind: &'static str, test: &str) -> Option<Engine> {
        Engine::with(kind, test, &[])
    }

    /// The same with further options.
    pub fn with(kind: &'static str, test: &str, options: &[String]) -> Option<Engine> {
        let data = tempfile::tempdir().expect("a directory");
        let mut engine = Engine { kind, data, options: options.to_vec(), told: Value::Null };
        match engine.try_start() {
            Ok(()) => Some(engine),
            Err(why) => {
                eprintln!("SKIPPED: {test}: {why}");
                None
            }
        }
    }

    /// At the same address, with the data that it has.
    pub fn start(&mut self) {
        self.try_start().unwrap_or_else(|why| panic!("{why}"));
    }

    fn try_start(&mut self) -> Result<(), String> {
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        let pid = std::process::id().to_string();
        let output = self.script(&[&["up", self.kind, "--for", &pid], &options[..]].concat());
        let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.code() == Some(UNAVAILABLE) {
            return Err(told);
        }
        assert!(output.status.success(), "{told}");
        let started: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        self.told = started[self.kind][0].clone();
        Ok(())
    }

    fn script(&self, words: &[&str]) -> Output {
        Command::new(SCRIPT).args(words).arg("--data").arg(self.data.path()).output().expect("python3")
    }

    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// A text that is known of it, such as `host`.
    pub fn field(&self, name: &str) -> &str {
        self.told[name].as_str().unwrap_or_else(|| panic!("no {name} in {}", self.told))
    }

    /// SIGKILL.
    pub fn kill(&self) {
        self.down(&["--kill"]);
    }

    /// SIGTERM, and it has ended.
    pub fn stop(&self) {
        self.down(&[]);
    }

    fn down(&self, options: &[&str]) {
        let output = self.script(&[&["down", self.kind], options].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Removes what it has on disk. It must not run.
    pub fn wipe(&self) {
        std::fs::remove_dir_all(self.folder().join("data")).expect("removed");
    }

    pub fn folder(&self) -> PathBuf {
        Path::new(self.field("folder")).to_owned()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.told["pid"].to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().expect("kill").success());
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.data.path().join(self.kind).join("log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(25).collect();
            tail.iter().rev().for_each(|line| eprintln!("{}: {line}", self.kind));
        }
        drop(self.script(&["down", self.kind, "--kill"]));
    }
}
