//! The page, and pages of others, in a real Chromium.
//!
//! Without chromedriver or Chromium these tests are left out and say so; `tests/run` installs both and makes leaving
//! out a failure.

mod driver;
mod eventsource;
mod files;
mod markup;
mod outage;
mod page;
mod polyfill;
mod proxy;
mod refusal;
mod words;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tidings::config::{Config, Origins};

use crate::harness::TestServer;
use driver::Window;

/// Reconnecting must not be what a test waits for.
const RETRY: Duration = Duration::from_millis(100);

/// A server whose subscribers come back quickly.
fn eager(config: &mut Config) {
    config.stream.retry = RETRY;
}

/// A server that pages of `origin` may use.
fn open_to(origin: &str, configure: impl FnOnce(&mut Config)) -> TestServer {
    TestServer::with(|config| {
        eager(config);
        config.cors.origins = Origins::Only(vec![origin.to_owned()]);
        configure(config);
    })
}

/// Where `program` is, as a shell would look for it.
fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Says that this test is left out for want of `missing`, or fails it when all tests are asked for.
fn left_out(missing: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var_os("TIDINGS_TEST_ALL").is_none_or(|all| all != "1"), "{test}: {missing}");
    // Not `eprintln!`, which the test runner keeps to itself when the test passes.
    let _ = std::io::stderr().write_all(format!("left out: {test}: {missing}\n").as_bytes());
}

/// A file that `tests/run` has fetched from npm, which is never part of the repository.
fn from_npm(file: &str) -> Option<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/npm/node_modules");
    let text = std::fs::read_to_string(folder.join(file)).ok();
    if text.is_none() {
        left_out(&format!("no {file} from npm (tests/run fetches it)"));
    }
    text
}

/// An event as the page shows it.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    id: String,
    topic: String,
    kind: String,
    data: String,
}

/// The events that the page shows, oldest first.
async fn rows(window: &Window<'_>) -> Vec<Row> {
    let rows = "[...document.querySelectorAll('#events li.event')].reverse().map((row) => \
                [row.dataset.id, ...['.topic', '.type', '.data'].map((part) => row.querySelector(part).textContent)])";
    let rows: Vec<[String; 4]> = serde_json::from_value(window.value(rows).await).expect("texts");
    rows.into_iter().map(|[id, topic, kind, data]| Row { id, topic, kind, data }).collect()
}

async fn until_rows(window: &Window<'_>, n: usize) {
    window.until(&format!("document.querySelectorAll('#events li.event').length >= {n}")).await;
}

async fn until_state(window: &Window<'_>, state: &str) {
    window.until(&format!("document.querySelector('#state').dataset.state === '{state}'")).await;
}
