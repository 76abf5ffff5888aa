//! The commands of the program, one module each.

pub mod serve;
mod check;
pub mod bench;
pub mod config;
pub mod token;
pub mod import;
mod progress;
