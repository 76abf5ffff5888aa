//! `GET /metrics`: what the server has counted, for Prometheus.

use std::sync::Arc;

use actix_http::StatusCode;

use super::{
    answer::Answer,
    app_state::AppState,
    counts::HttpCounts,
    credentials,
    head::Head,
    problem::Problem,
    reply::{Served, reply_later},
};
use crate::{
    auth::{GrantAll, Manage},
    frame::GapReason,
    hub::{End, HubCounts},
    log::{LogStats, LogTimes},
    metrics::{Counter, Format, Kind, Text, Times, process},
};

/// Serves `GET /metrics`.
pub(super) fn serve<'a>(app: &'a AppState, head: &impl Head) -> Result<Served<'a>, Problem> {
    let grant: GrantAll<Manage> = credentials::caller(app, head)?.grant_all()?;
    // Prometheus names the newer format in `Accept` if it reads it.
    let accepts_new = head.values("accept").any(|value| {
        let value = value.to_ascii_lowercase();
        memchr::memmem::find(&value, b"application/openmetrics-text").is_some()
    });
    let format = if accepts_new { Format::OpenMetrics } else { Format::Text };
    Ok(reply_later(async move {
        let text = write(app, format, grant);
        Answer::new(StatusCode::OK).with("content-type", format.content_type()).body(text.into_bytes())
    }))
}

fn write(app: &AppState, format: Format, _: GrantAll<Manage>) -> String {
    let mut text = Text::new(format);
    text.begin("tidings_build_info", Kind::Gauge, "The version of the server.")
        .value(&[("version", env!("CARGO_PKG_VERSION"))], 1_u64);
    write_http(&mut text, &app.counts.iter().map(|counts| &**counts).collect::<Vec<_>>());
    write_streams(&mut text, app.gate.hub_counts());
    write_gaps(&mut text, app);
    write_log(&mut text, &app.gate.log_stats(), app.gate.log_times());
    write_in_use(&mut text, app);
    process(&mut text);
    text.finish()
}

fn write_http(text: &mut Text, all: &[&HttpCounts]) {
    let sum = |of: fn(&HttpCounts) -> &Counter| all.iter().map(|counts| of(counts).get()).sum::<u64>();
    text.begin("tidings_http_requests_total", Kind::Counter, "Requests that were answered.");
    for (route, status, count) in HttpCounts::requests(all) {
        text.value(&[("route", route), ("status", &status.to_string())], count);
    }
    text.begin("tidings_http_problems_total", Kind::Counter, "Requests that were refused, by the code of the problem.");
    for (code, count) in HttpCounts::problems(all) {
        text.value(&[("code", code)], count);
    }
    text.begin("tidings_streams_refused_total", Kind::Counter, "Requests to subscribe that were refused.");
    for (code, count) in HttpCounts::streams_refused(all) {
        text.value(&[("code", code)], count);
    }
    let published = sum(|counts| &counts.events_published);
    text.one("tidings_events_published_total", Kind::Counter, "Events that were acknowledged.", published);
    let bytes = sum(|counts| &counts.bytes_published);
    text.one("tidings_published_bytes_total", Kind::Counter, "Bytes of their content.", bytes);
    let help = "From a publish request to its answer.";
    let times: Times = all.iter().map(|counts| &counts.publish).collect();
    text.begin("tidings_publish_latency_seconds", Kind::Histogram, help).times(&times);
}

fn write_streams(text: &mut Text, all: &[Arc<HubCounts>]) {
    let sum = |of: fn(&HubCounts) -> &Counter| all.iter().map(|hub| of(hub).get()).sum::<u64>();
    let open: u64 = all.iter().map(|hub| hub.open()).sum();
    text.one("tidings_streams_open", Kind::Gauge, "Open streams.", open);
    let opened = sum(|hub| &hub.opened);
    text.one("tidings_streams_opened_total", Kind::Counter, "Streams that were opened.", opened);
    text.begin("tidings_streams_ended_total", Kind::Counter, "Streams that have ended, by the reason.");
    for (at, end) in End::ALL.iter().enumerate() {
        let count: u64 = all.iter().map(|hub| hub.ended.get(at).map_or(0, Counter::get)).sum();
        text.value(&[("reason", end.as_str())], count);
    }
    let events = sum(|hub| &hub.events);
    text.one("tidings_events_delivered_total", Kind::Counter, "Events that sockets have accepted.", events);
    let replayed = sum(|hub| &hub.replayed);
    let help = "Those of them that were read from the log, because the subscriber was behind.";
    text.one("tidings_events_replayed_total", Kind::Counter, help, replayed);
    let bytes = sum(|hub| &hub.bytes);
    text.one("tidings_delivered_bytes_total", Kind::Counter, "Bytes of events that sockets have accepted.", bytes);
    let help = "From the commit of an event to its acceptance by a socket, without replayed ones.";
    let times: Times = all.iter().map(|hub| &hub.delivery).collect();
    text.begin("tidings_delivery_latency_seconds", Kind::Histogram, help).times(&times);
}

fn write_gaps(text: &mut Text, app: &AppState) {
    text.begin("tidings_gaps_total", Kind::Counter, "Gaps that subscribers were told of.");
    for (at, reason) in GapReason::ALL.iter().enumerate() {
        let at_start = app.counts.iter().filter_map(|counts| counts.gaps.get(at));
        let later = app.gate.hub_counts().iter().filter_map(|hub| hub.gaps.get(at));
        let count: u64 = at_start.chain(later).map(Counter::get).sum();
        text.value(&[("reason", reason.as_str())], count);
    }
}

fn write_log(text: &mut Text, log: &LogStats, times: Option<&LogTimes>) {
    text.one("tidings_log_events", Kind::Gauge, "Events that the log holds.", log.events);
    text.one("tidings_log_bytes", Kind::Gauge, "Their bytes, with the overhead of the index.", log.bytes);
    text.one("tidings_log_hot_bytes", Kind::Gauge, "Bytes of the events in memory.", log.hot_bytes);
    text.one("tidings_log_topics", Kind::Gauge, "Topics that the log knows.", log.topics);
    text.one("tidings_log_position", Kind::Gauge, "Position of the last event or deletion.", log.position);
    text.one("tidings_log_removals_total", Kind::Counter, "Removals of events by retention or deletion.", log.removals);
    text.one("tidings_log_unreadable_total", Kind::Counter, "Events that could not be read.", log.unreadable);
    text.one("tidings_log_keys", Kind::Gauge, "Idempotency keys that are remembered.", log.keys);
    text.one("tidings_log_queue_bytes", Kind::Gauge, "Bytes that wait to be committed.", log.queue_bytes);
    let Some(times) = times else { return };
    let help = "How long the engine takes to commit a batch.";
    text.begin("tidings_commit_latency_seconds", Kind::Histogram, help).times(&[&times.commit].into_iter().collect());
    text.one("tidings_committed_events_total", Kind::Counter, "Events in these batches.", times.events.get());
}

fn write_in_use(text: &mut Text, app: &AppState) {
    let gauges = [
        ("tidings_topics_live", "Topics that are in use.", app.gate.live_topics()),
        ("tidings_subscribers", "Subscribers, as the limit counts them.", app.subscribers.reserved()),
        ("tidings_pending_connections", "Connections without a subscription.", app.pending.reserved()),
        ("tidings_request_bytes", "Bytes of requests that are received or processed.", app.bytes.reserved()),
    ];
    for (name, help, value) in gauges {
        text.one(name, Kind::Gauge, help, value);
    }
}
