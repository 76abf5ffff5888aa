//! The page, and pages of others, in a real Chromium.
//!
//! Without chromedriver or Chromium these tests are left out and say so; `tests/run` installs both and makes leaving
//! out a failure.

mod cluster;
mod driver;
mod eventsource;
mod files;
mod markup;
mod nginx;
mod outage;
mod page;
mod polyfill;
mod proxy;
mod refusal;
mod ticket;
mod token;
mod words;

use std::{path::Path, time::Duration};

use tidings::config::{Config, Origins};

use crate::harness::{
    TestServer,
    tools::{left_out, on_path},
};
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
