//! What a cluster costs: Tidings on NATS, beside the bare client of NATS in the same run.
//!
//! `cargo bench --bench cluster` starts NATS, the Tidings servers ("nodes") and the load on this machine, and prints the
//! tables of [`publish`], [`latency`], [`follow`], [`fanout`] and [`open`]. `-- --only publish,open` runs only these parts,
//! `--rounds 5` more rounds. Rounds alternate between the rows, and a figure is the median of its rounds. All programs
//! share the cores of this machine, so the ratios and the CPU times count more than the rates.
//!
//! `TIDINGS_NATS_SERVER` names the `nats-server` to use; otherwise it is the one on PATH.

#![expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "a benchmark that fails says where; its counts fit into the numbers of a table"
)]

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

mod publish;
mod latency;
mod follow;
mod fanout;
mod open;
mod bare;
mod http;
mod load;
mod node;
mod nats;
mod process;
mod figures;

const ROUNDS: usize = 3;
const PARTS: [&str; 5] = ["publish", "latency", "follow", "fanout", "open"];
/// The content of each event.
const EVENT_BYTES: usize = 100;
/// The topics that events are published to.
const TOPICS: usize = 64;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let (mut parts, mut rounds) = (PARTS.map(str::to_owned).to_vec(), ROUNDS);
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| io::Error::other(format!("{argument}: a value is missing")));
        match argument.as_str() {
            "--only" => parts = value()?.split(',').map(str::to_owned).collect(),
            "--rounds" => rounds = value()?.parse().map_err(io::Error::other)?,
            // Cargo says so to every bench.
            "--bench" => {}
            _ => return Err(io::Error::other(format!("{argument}: there are --only PART,… and --rounds N"))),
        }
    }
    rlimit::increase_nofile_limit(u64::MAX)?;
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("cluster-{}", std::process::id()));
    println!("events of {EVENT_BYTES} bytes; medians of {rounds} rounds");
    for part in parts {
        fs::create_dir_all(&directory)?;
        let measured = run(&part, &directory, rounds).await;
        fs::remove_dir_all(&directory)?;
        measured?;
    }
    Ok(())
}

async fn run(part: &str, directory: &Path, rounds: usize) -> io::Result<()> {
    match part {
        "publish" => publish::measure(directory, rounds).await,
        "latency" => latency::measure(directory, rounds).await,
        "follow" => follow::measure(directory, rounds).await,
        "fanout" => fanout::measure(directory, rounds).await,
        "open" => open::measure(directory, rounds).await,
        _ => Err(io::Error::other(format!("{part}: the parts are {}", PARTS.join(", ")))),
    }
}
