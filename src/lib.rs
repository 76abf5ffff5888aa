//! Tidings: a topic-based publish/subscribe broker over Server-Sent Events.
//!
//! ```text
//!  publish ─► http ─► limits ─► registry ──────────────────► log ─┐ append: position, commit
//!                                                                 │ one ordered feed of commits
//!  subscribe ─► http ─► limits ─► registry ─► topic (actor)       ▼
//!                └── the socket itself is handed to ───────────► hub (one a worker) ─► sockets
//!                                                                 ▲ catch up: read(topics, after)
//!                                                                log
//! ```
//!
//! # Invariants
//! - *One sequence.* The log gives every event a position in one global sequence; an id is that position and the name
//!   of the history. So one id resumes any set of topics.
//! - *Acknowledge and deliver after the commit*, never before.
//! - *Order.* A subscriber that has been given position n has been given every matching event below n: each hub takes
//!   the one ordered feed and owns connections, not topics. Fan-out by topic would break this.
//! - *A subscriber is a cursor.* There is no queue for it: history is the send queue, replay and live are one path, and
//!   what a slow one has lost to retention it is told.
//! - *One event a key.* The log remembers idempotency keys, for every engine in one place.
//! - *Everything has a limit*, and past it there is a refusal that says which.
//!
//! # Modules
//! In order: a module uses only modules below it.
//! - [`server`]: the composition root, and the workers.
//! - [`http`]: who reads a request, the fast path or the fallback; what it means, in one place for both.
//! - [`limits`]: how much: permits that free themselves.
//! - [`hub`]: the subscribers' sockets of one worker.
//! - [`registry`]: name to live topic.
//! - [`topic`]: the actor of a topic and its handle.
//! - [`log`]: the contract of the log, and its engines.
//! - [`frame`]: an event to bytes.
//! - [`event`]: the vocabulary.
//! - [`config`]: defaults < `config.toml` < environment < flags.

pub mod server;
pub mod http;
pub mod limits;
pub mod hub;
pub mod registry;
pub mod topic;
pub mod log;
pub mod frame;
pub mod event;
pub mod config;
