//! Tidings: a topic-based publish/subscribe broker over Server-Sent Events.
//!
//! ```text
//!  publish ─► http ─► auth, limits ─► registry ──────────────────► log ─┐ append: position, commit
//!                                                                       │ one ordered feed of commits
//!  subscribe ─► http ─► auth, limits ─► registry ─► topic (actor)       ▼
//!                └── the socket itself is handed to ─────────────────► hub (one per worker) ─► sockets
//!                                                                       ▲ catch up: read(topics, after)
//!                                                                 the same log
//! ```
//!
//! For a publish, the registry only looks up the number of subscribers. A publish does not use the actor of its topic:
//! the log puts the events in order, and remembers idempotency keys.
//!
//! # Invariants
//! - *One sequence.* The log gives every event a position in one global sequence. An event id consists of that position
//!   and the epoch, which names the history. So one id is enough to resume any set of topics.
//! - *Commit first.* An event is acknowledged and delivered only after the log has committed it.
//! - *Order.* When a subscriber gets the event at position n, it has got every matching event before n. This holds
//!   because each hub reads the one ordered feed and owns connections, not topics. Fan-out by topic would break it.
//! - *A subscriber is a cursor.* It has no queue: it reads from the log, and replay and live delivery use the same
//!   code. If retention has removed events that a slow subscriber did not get, it is told so.
//! - *Everything has a limit.* Above a limit, the server refuses, and names the limit.
//!
//! # Modules
//! They are listed in order: a module uses only modules below it.
//! - [`server`]: the composition root and the workers.
//! - [`http`]: the fast path and the fallback, which read requests, and `http::serve`, which decides what a request
//!   means.
//! - [`auth`]: verifies credentials, and says who may do what.
//! - [`hub`]: the sockets of one worker's subscribers.
//! - [`registry`]: finds a topic by its name, and starts and retires topics.
//! - [`topic`]: the actor of a topic, and its handle.
//! - [`limits`]: limits on connections, topics and bytes, and on how often clients publish and subscribe.
//! - [`log`]: the interface of the log, and its engines.
//! - [`peers`]: what the servers of a cluster ask and tell each other.
//! - [`frame`]: encodes events for the wire.
//! - [`event`]: the basic types: topic names, events, ids.
//! - [`transport`]: a client's connection: a socket, and a session if it speaks TLS.
//! - [`identity`]: who a request or a stream belongs to.
//! - [`metrics`]: counters, histograms, and their text.
//! - [`later`]: an outcome that is known now or later.
//! - [`config`]: defaults < `config.toml` < environment < flags.

pub mod server;
pub mod http;
pub mod auth;
pub mod hub;
pub mod registry;
pub mod topic;
pub mod limits;
pub mod log;
pub mod peers;
pub mod frame;
pub mod event;
pub mod transport;
pub mod identity;
pub mod metrics;
pub mod later;
pub mod config;
#[cfg(test)]
mod fuzz;
