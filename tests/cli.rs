//! The command line as scripts and people see it: output, exit codes, and errors that say what to change.

mod process;

use process::{Done, run, run_with};
use std::net::TcpListener;
use std::path::PathBuf;

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("iris.ron");
    std::fs::write(&path, text).expect("written");
    (directory, path)
}

fn check(text: &str, arguments: &[&str]) -> Done {
    let (directory, path) = file(text);
    let mut command = process::command(&["check", path.to_str().expect("UTF-8")]);
    command.args(arguments).env("HOME", directory.path());
    run_with(command, "")
}

/// Runs a command that fails before it does anything, and returns what it says.
fn refused(text: &str) -> String {
    let done = check(text, &[]);
    assert_eq!((done.code, done.out.as_str()), (Some(2), ""), "{}", done.err);
    done.err
}

#[test]
fn a_good_configuration_is_called_good() {
    let done = check("(node: (name: \"n1\", listen: [\"127.0.0.1:9\"]))", &[]);
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert!(done.out.contains("is good: node n1 listens on 127.0.0.1:9"), "{}", done.out);
    let laptop = run_with(
        {
            let mut command = process::command(&["check", "conf/laptop.ron", "--json"]);
            command.env("HOME", "/home/ada");
            command
        },
        "",
    );
    assert_eq!((laptop.code, laptop.json()["ok"].as_bool()), (Some(0), Some(true)), "{}", laptop.err);
}

#[test]
fn an_unknown_field_is_named_with_its_place() {
    let err = refused("(\n    node: (\n        drain_m: 1,\n    ),\n)");
    assert!(err.contains("iris.ron:3:9: node: unknown field `drain_m`, did you mean `drain_ms`?"), "{err}");
}

#[test]
fn a_wrong_type_is_named_with_its_place() {
    let err = refused("(node: (\n  executors: \"two\"))");
    assert!(err.contains("iris.ron:2:14: node.executors: expected Auto or a number"), "{err}");
    let err = refused("(node: (\n  insecure: yes))");
    assert!(err.contains("iris.ron:2:13: node.insecure: "), "{err}");
}

#[test]
fn an_unset_variable_is_named_with_its_place() {
    let err = refused("(node: (\n  name: Env(\"IRIS_TEST_UNSET\")))");
    assert!(err.contains("iris.ron:2:9: node.name: the environment variable IRIS_TEST_UNSET is not set"), "{err}");
}

#[test]
fn impossible_combinations_are_all_named_as_json_too() {
    let text = "(cluster: (copies: 3), node: (core: (page_bytes: 1)))";
    let done = check(text, &["--json"]);
    assert_eq!((done.code, done.err.as_str()), (Some(2), ""));
    let faults = done.json()["faults"].as_array().expect("a list").clone();
    let fields: Vec<_> = faults.iter().map(|fault| fault["field"].as_str().expect("a field")).collect();
    assert!(fields.contains(&"cluster.copies") && fields.contains(&"node.core.page_bytes"), "{fields:?}");
    assert!(faults.iter().all(|fault| fault["line"] == 1), "{faults:?}");
}

#[test]
fn a_file_that_is_not_there_is_a_mistake_of_the_command_line() {
    let done = run(&["check", "/no/such/file.ron"]);
    assert_eq!(done.code, Some(2));
    assert!(done.err.contains("/no/such/file.ron: cannot be read"), "{}", done.err);
    assert_eq!(run(&["dance"]).code, Some(2));
    assert_eq!(run(&["--help"]).code, Some(0));
    assert!(run(&["--help"]).out.contains("Exit codes:"));
}

#[test]
fn listening_for_everybody_needs_to_be_allowed_by_the_configuration() {
    let done = run(&["serve", "--listen", "0.0.0.0:0", "--data", "/nonexistent"]);
    assert_eq!(done.code, Some(2));
    assert!(done.err.contains("--listen: node.listen: `0.0.0.0:0` can be reached from other machines"), "{}", done.err);
    assert!(done.err.contains("insecure: true"), "{}", done.err);
}

#[test]
fn a_node_needs_a_place_for_its_data() {
    let mut command = process::command(&["serve"]);
    command.env_remove("HOME");
    let done = run_with(command, "");
    assert_eq!(done.code, Some(2));
    assert!(done.err.contains("--data DIR"), "{}", done.err);
}

/// A port that nothing listens on.
fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").to_string()
}

#[test]
fn clients_say_that_no_server_is_there() {
    let nowhere = free_port();
    for arguments in [
        &["send", "--user", "alice", "bob", "hi", "--server", &nowhere][..],
        &["listen", "--user", "bob", "--server", &nowhere],
        &["chat", "alice", "--server", &nowhere],
    ] {
        let done = run(arguments);
        assert_eq!((done.code, done.out.as_str()), (Some(4), ""), "{arguments:?}");
        assert!(done.err.contains(&format!("cannot reach {nowhere}")), "{}", done.err);
    }
    let done = run(&["status", "--data", "/nonexistent"]);
    assert_eq!(done.code, Some(4));
    assert!(done.err.contains("/nonexistent/admin.sock"), "{}", done.err);
}

#[test]
fn a_user_that_cannot_be_is_refused_before_anything_is_sent() {
    let done = run(&["send", "--user", "", "bob", "hi", "--server", &free_port()]);
    assert_eq!(done.code, Some(2));
    assert!(done.err.contains("the user id is empty"), "{}", done.err);
}
