//! One line of progress on standard error, if that is a terminal; nothing otherwise.

use std::io::{IsTerminal, Write, stderr};

/// The line. It is wiped when this is dropped.
pub struct Progress {
    is_shown: bool,
}

impl Progress {
    /// Nothing is shown yet.
    pub fn new() -> Self {
        Self { is_shown: stderr().is_terminal() }
    }

    /// Replaces the line.
    pub fn show(&mut self, text: &str) {
        if self.is_shown {
            let _terminal_gone = write!(stderr(), "\r\x1b[K{text}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.show("");
    }
}
