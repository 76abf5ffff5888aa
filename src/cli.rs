//! The commands of the program, one module each.

pub mod serve;
pub mod bench;
pub mod config;
pub mod token;
