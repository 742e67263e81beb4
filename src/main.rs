//! The `finalizer` command: parse, set up logging, run, exit.

use std::process::ExitCode;

fn main() -> ExitCode {
    finalizer::cli::main()
}
