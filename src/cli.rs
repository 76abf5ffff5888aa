//! The commands of the program, one module each, and the HTTP response parser that the load generator uses.

pub mod serve;
pub mod bench;
pub mod config;
pub mod response;
