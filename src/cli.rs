//! The commands of the program, one module each, and below them what they share.

pub mod serve;
pub mod bench;
pub mod config;
pub mod response;
