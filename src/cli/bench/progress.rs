//! A line on stderr that says how far it is.

use std::io::{self, IsTerminal as _, Write as _};

const EACH_ON_TERMINAL: u64 = 1_000_000_000;
const EACH: u64 = 5_000_000_000;

pub struct Progress {
    is_terminal: bool,
    /// When to tell next, in nanoseconds since the run began.
    next: u64,
    is_written: bool,
}

impl Progress {
    pub fn new() -> Self {
        let is_terminal = io::stderr().is_terminal();
        Self { is_terminal, next: if is_terminal { EACH_ON_TERMINAL } else { EACH }, is_written: false }
    }

    /// Writes the line when it is time: over the last one on a terminal, which would else be full of them.
    pub fn tell(&mut self, now: u64, line: impl FnOnce() -> String) {
        if now < self.next {
            return;
        }
        let line = line();
        // Nobody may be reading; the run goes on all the same.
        if self.is_terminal {
            self.next = now + EACH_ON_TERMINAL;
            self.is_written = true;
            write!(io::stderr(), "\r\x1b[K{line}").ok();
        } else {
            self.next = now + EACH;
            writeln!(io::stderr(), "{line}").ok();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_written {
            write!(io::stderr(), "\r\x1b[K").ok();
        }
    }
}
