//! What `scripts/bench` runs beside the product: `tools TOOL ARGUMENT…`. One program, so that it is
//! linked once; each run of it is a process of its own.
#![expect(clippy::print_stdout, reason = "it tells the script that started it")]

use anyhow::bail;

mod calls;
mod claim;
mod limits;
mod load;
mod naive;
mod pipeline;
mod plain;
mod read;
mod sink;

/// What follows the tool's name.
type Arguments = std::iter::Skip<std::env::Args>;

fn main() -> anyhow::Result<()> {
    let tool = std::env::args().nth(1).unwrap_or_default();
    let arguments = std::env::args().skip(2);
    match tool.as_str() {
        "claim" => claim::run(arguments),
        "limits" => limits::run(arguments),
        "load" => load::run(arguments),
        "naive" => naive::run(arguments),
        "pipeline" => pipeline::run(arguments),
        "read" => read::run(arguments),
        "sink" => sink::run(arguments),
        _ => bail!("usage: tools claim|limits|load|naive|pipeline|read|sink ARGUMENT…"),
    }
}
