//! One line of progress on standard error, if that is a terminal; nothing otherwise.

use std::io::{IsTerminal, Write, stderr};

const BAR: usize = 24;

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

    /// Replaces the line by a bar: how much of the work is done, from 0 to 1.
    pub fn bar(&mut self, text: &str, done: f64) {
        self.show(&format!("{} {text}", bar(done)));
    }

    /// Leaves a line above.
    pub fn keep(&mut self, text: &str) {
        self.show(text);
        if self.is_shown {
            let _terminal_gone = writeln!(stderr());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.show("");
    }
}

/// Eighths of a cell, so that a slow bar moves too.
fn bar(done: f64) -> String {
    const PARTS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = (done.clamp(0.0, 1.0) * (BAR * 8) as f64) as usize;
    let mut text = "█".repeat(eighths / 8);
    if eighths / 8 < BAR {
        text.push(PARTS[eighths % 8]);
        text.extend(std::iter::repeat_n(' ', BAR - 1 - eighths / 8));
    }
    format!("▕{text}▏{:>3.0}%", done.clamp(0.0, 1.0) * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_always_as_wide() {
        for done in [-1.0, 0.0, 0.001, 0.5, 0.999, 1.0, 7.0, f64::NAN] {
            assert_eq!(bar(done).chars().count(), BAR + 6, "{done}");
        }
        assert!(bar(1.0).contains(&"█".repeat(BAR)) && bar(0.0).contains("  0%"));
    }
}
