//! The progress line on stderr.

use std::io::{self, IsTerminal as _, Write as _};

/// The interval between lines on a terminal, in nanoseconds.
const INTERVAL_ON_TERMINAL: u64 = 1_000_000_000;
/// The interval between lines elsewhere, in nanoseconds.
const INTERVAL: u64 = 5_000_000_000;

pub struct Progress {
    is_terminal: bool,
    /// The time of the next line, in nanoseconds since the run began.
    next: u64,
    /// There is a line on the terminal, which must be erased.
    has_line: bool,
}

impl Progress {
    pub fn new() -> Self {
        let is_terminal = io::stderr().is_terminal();
        Self { is_terminal, next: if is_terminal { INTERVAL_ON_TERMINAL } else { INTERVAL }, has_line: false }
    }

    /// Writes the line if it is time. On a terminal it replaces the last line.
    pub fn report(&mut self, now: u64, line: impl FnOnce() -> String) {
        if now < self.next {
            return;
        }
        let line = line();
        // If stderr is closed, the run continues.
        if self.is_terminal {
            self.next = now + INTERVAL_ON_TERMINAL;
            self.has_line = true;
            write!(io::stderr(), "\r\x1b[K{line}").ok();
        } else {
            self.next = now + INTERVAL;
            writeln!(io::stderr(), "{line}").ok();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.has_line {
            write!(io::stderr(), "\r\x1b[K").ok();
        }
    }
}
