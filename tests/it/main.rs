//! Tests through the real thing: a real server on a free port, real sockets, a real browser.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::large_futures,
    reason = "a test that fails says where; nobody serves from here"
)]

mod harness;

mod browser;
mod cli;
mod limits;
mod model;
mod publish;
mod shutdown;
mod slow;
mod smoke;
mod storm;
mod subscribe;
mod tidy;
mod topics;
mod wire;
