//! What a conversation looks like, and what was said in it. Colours and prompts are for terminals only.

use super::super::{printable, printable_body, rfc3339};
use crate::client::{Message, name_of};
use crate::clock::unix_ms;
use iris_shards::frame::{STATE_OFFLINE, STATE_ONLINE};
use iris_shards::id::MessageId;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IsTerminal, Write};

/// Lines of history that are kept.
const HISTORY_MAX: usize = 1_000;
/// Characters of a message that are repeated beside its mark.
const QUOTE_MAX: usize = 30;

const DIM: &str = "2";
const GREEN: &str = "32";
const RED: &str = "31";
const BOLD_CYAN: &str = "1;36";

struct Said {
    /// Our own message, which may still be confirmed.
    id: Option<MessageId>,
    who: String,
    text: String,
    mark: &'static str,
}

/// See the module.
pub struct Screen {
    user: String,
    is_terminal: bool,
    has_colours: bool,
    history: VecDeque<Said>,
    presences: BTreeMap<String, (u8, u64)>,
}

impl Screen {
    pub fn new(user: &str) -> Self {
        let is_terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
        Screen {
            user: user.to_owned(),
            is_terminal,
            has_colours: is_terminal && std::env::var_os("NO_COLOR").is_none(),
            history: VecDeque::new(),
            presences: BTreeMap::new(),
        }
    }

    /// Shows that a line can be typed, and for whom it is.
    pub fn prompt(&self, recipient: Option<&str>) -> io::Result<()> {
        if !self.is_terminal {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        // What is there already is written over: an event may have said nothing.
        write!(out, "\r\x1b[K{} ", self.painted(DIM, &format!("{} >", printable(recipient.unwrap_or("(nobody)")))))?;
        out.flush()
    }

    /// A line that is not part of the conversation.
    pub fn note(&self, text: &str) -> io::Result<()> {
        self.line(&self.painted(DIM, &format!("  {text}")))
    }

    pub fn sent(&mut self, id: MessageId, recipient: &str, text: &str) {
        let who = format!("{} → {}", self.user, recipient);
        self.remember(Said { id: Some(id), who, text: text.to_owned(), mark: "…" });
    }

    pub fn received(&mut self, message: &Message) -> io::Result<()> {
        let text = printable_body(&message.body);
        let (who, ago) = (printable(&message.sender), ago(message.sent_at));
        let late = if message.is_late { " (late)" } else { "" };
        let name = self.painted(BOLD_CYAN, &who);
        self.line(&format!("{name}: {text}{}", self.painted(DIM, &format!("{ago}{late}"))))?;
        self.remember(Said { id: None, who, text, mark: "" });
        Ok(())
    }

    pub fn stored(&mut self, id: MessageId) -> io::Result<()> {
        self.marked(id, "✓", GREEN, "stored")
    }

    pub fn delivered(&mut self, id: MessageId) -> io::Result<()> {
        self.marked(id, "✓✓", GREEN, "delivered")
    }

    pub fn refused(&mut self, id: MessageId, code: u16, reason: &str) -> io::Result<()> {
        self.marked(id, "✗", RED, &format!("refused, {} {}", name_of(code), printable(reason)))
    }

    fn marked(&mut self, id: MessageId, mark: &'static str, colour: &str, state: &str) -> io::Result<()> {
        let Some(said) = self.history.iter_mut().rev().find(|said| said.id == Some(id)) else { return Ok(()) };
        said.mark = mark;
        let quote = said.text.chars().take(QUOTE_MAX).collect::<String>();
        let quote = format!("{}{}", printable(&quote), if quote.len() < said.text.len() { "…" } else { "" });
        let line =
            format!("  {} {}", self.painted(colour, mark), self.painted(DIM, &format!("{}: {quote}", state.trim())));
        self.line(&line)
    }

    pub fn presence(&mut self, user: String, state: u8, last_seen: u64) -> io::Result<()> {
        let before = self.presences.insert(user.clone(), (state, last_seen));
        if before.is_some_and(|(before, _)| before == state) {
            return Ok(());
        }
        self.note(&presence(&user, state, last_seen))
    }

    pub fn who(&self) -> io::Result<()> {
        if self.presences.is_empty() {
            return self.note("nothing is known of anybody yet; /watch USER asks");
        }
        self.presences.iter().try_for_each(|(user, (state, last_seen))| self.note(&presence(user, *state, *last_seen)))
    }

    pub fn history(&self) -> io::Result<()> {
        if self.history.is_empty() {
            return self.note("nothing was said yet");
        }
        self.history.iter().try_for_each(|said| {
            self.note(&format!("{:2} {}: {}", said.mark, printable(&said.who), printable(&said.text)))
        })
    }

    fn remember(&mut self, said: Said) {
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(said);
    }

    /// On a terminal the prompt makes room first; the caller shows it again.
    fn line(&self, line: &str) -> io::Result<()> {
        super::super::print(&if self.is_terminal { format!("\r\x1b[K{line}") } else { line.to_owned() })
    }

    fn painted(&self, colour: &str, text: &str) -> String {
        if self.has_colours && !text.is_empty() { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn presence(user: &str, state: u8, last_seen: u64) -> String {
    let user = printable(user);
    match state {
        STATE_ONLINE => format!("{user} is online"),
        STATE_OFFLINE if last_seen == 0 => format!("{user} is offline"),
        STATE_OFFLINE => format!("{user} is offline, last seen {}", rfc3339(last_seen)),
        _ => format!("nobody knows where {user} is"),
    }
}

/// Nothing for what was said just now.
fn ago(sent_at: u64) -> String {
    let seconds = unix_ms().saturating_sub(sent_at) / 1_000;
    match seconds {
        0..60 => String::new(),
        60..3_600 => format!("  ({} min ago)", seconds / 60),
        3_600..86_400 => format!("  ({} h ago)", seconds / 3_600),
        _ => format!("  ({} days ago)", seconds / 86_400),
    }
}
