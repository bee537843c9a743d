//! The `iris` command.

fn main() -> std::process::ExitCode {
    iris::cli::main()
}
