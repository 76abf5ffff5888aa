//! The tests that are fast enough to run for each mutant: see "Mutation testing" in CONTRIBUTING.md.

#![expect(
    dead_code,
    unused_imports,
    clippy::as_conversions,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::format_push_string,
    clippy::indexing_slicing,
    clippy::let_underscore_must_use,
    clippy::panic,
    clippy::string_slice,
    reason = "a test that fails says where, and not all of the harness is used"
)]

mod harness;

mod model;
mod registry;
mod wire;
