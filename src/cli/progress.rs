//! The progress line on stderr, for commands that take time.

use std::io::{self, IsTerminal as _, Write as _};

/// The interval between lines on a terminal, in nanoseconds.
const INTERVAL_ON_TERMINAL: u64 = 1_000_000_000;
/// The interval between lines elsewhere, in nanoseconds.
const INTERVAL: u64 = 5_000_000_000;
/// Moves to the beginning of the line, and erases it.
const ERASE_LINE: &str = "\r\x1b[K";

pub struct Progress {
    is_terminal: bool,
    interval: u64,
    /// The time of the next line, in nanoseconds since the run began.
    next: u64,
}

impl Progress {
    pub fn new() -> Self {
        let is_terminal = io::stderr().is_terminal();
        let interval = if is_terminal { INTERVAL_ON_TERMINAL } else { INTERVAL };
        Self { is_terminal, interval, next: interval }
    }

    /// Writes the line if it is time. On a terminal it replaces the last line.
    pub fn report(&mut self, now: u64, line: impl FnOnce() -> String) {
        if now < self.next {
            return;
        }
        self.next = now + self.interval;
        let line = line();
        let text = if self.is_terminal { format!("{ERASE_LINE}{line}") } else { format!("{line}\n") };
        // If stderr is closed, the run continues.
        write!(io::stderr(), "{text}").ok();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_terminal {
            write!(io::stderr(), "{ERASE_LINE}").ok();
        }
    }
}
