//! Tests through the real thing: a real server on a free port, real sockets, a real browser.

#![expect(
    clippy::as_conversions,
    clippy::assigning_clones,
    clippy::case_sensitive_file_extension_comparisons,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::format_collect,
    clippy::format_push_string,
    clippy::indexing_slicing,
    clippy::let_underscore_must_use,
    clippy::needless_for_each,
    clippy::panic,
    clippy::string_slice,
    clippy::type_complexity,
    reason = "a test that fails says where, and nobody serves from here"
)]

mod harness;

mod auth;
mod bench;
mod browser;
mod cli;
mod clients;
mod cluster;
mod crash;
mod deploy;
mod disk;
mod disk_log;
mod hostile;
mod hosts;
mod limits;
mod metrics;
mod model;
mod power;
mod proxies;
mod publish;
mod fast;
mod fronts;
mod headers;
mod registry;
mod shutdown;
mod slow;
mod smoke;
mod storm;
mod subscribe;
mod subscribers;
mod tickets;
mod tidy;
mod tls;
mod topics;
mod wire;
