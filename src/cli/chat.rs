//! `iris chat`: a conversation in the terminal, a line at a time; works with pipes too.
//!
//! One loop over one channel: lines from standard input and events of the client come in, lines go out. What it shows,
//! and the history of this session, is in `screen`.

mod screen;

use super::{Exit, Failure, Server, printable, say};
use crate::client::{Client, ClientError, Event, Login};
use clap::Args;
use iris_shards::id::MessageId;
use screen::Screen;
use std::collections::HashSet;
use std::io::BufRead;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// How long confirmations are waited for at the end of standard input.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Lines and events that wait to be looked at; more make their sources wait.
const INPUTS_MAX: usize = 256;

const HELP: &str = "\
/to USER     whom the following lines are for
/who         who is online, of those you talk to or watch
/watch USER  be told when somebody comes or goes
/history     what was said since you came, and how far it got (✓ stored, ✓✓ delivered, ✗ refused)
/quit        leave (so does Ctrl-D)
A line that begins with // is sent with one / less.";

/// Lines are messages; lines that begin with / are commands, and /help lists them.
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub struct Chat {
    #[command(flatten)]
    server: Server,
    /// Who you are.
    user: String,
    /// Whom your first lines are for.
    #[arg(long, value_name = "USER")]
    to: Option<String>,
}

enum Input {
    Line(String),
    /// Standard input has ended.
    End,
    Event(Event),
}

struct Conversation {
    client: Client,
    screen: Screen,
    recipient: Option<String>,
    /// Our messages of which nothing was heard yet.
    unconfirmed: HashSet<MessageId>,
    /// A message was refused, which a script wants to know.
    refused: bool,
}

impl Chat {
    pub fn run(self) -> Result<(), Failure> {
        let login = Login { server: self.server.server, user: self.user.clone(), reconnect: true };
        let (client, events) = Client::connect(login)?;
        let mut conversation = Conversation {
            client,
            screen: Screen::new(&self.user),
            recipient: None,
            unconfirmed: HashSet::new(),
            refused: false,
        };
        conversation.screen.note(&format!("you are {}; /help tells what you can do", printable(&self.user)))?;
        if let Some(recipient) = &self.to {
            conversation.talk_to(recipient)?;
        }
        let inputs = inputs(events)?;
        let result = conversation.run(&inputs);
        let refused = conversation.refused;
        conversation.client.close();
        result?;
        if refused { Err(Failure::new(Exit::Refused, "a message was refused")) } else { Ok(()) }
    }
}

/// Both sources in one channel, each read by a thread. Standard input waits while many lines are unread.
fn inputs(events: Receiver<Event>) -> Result<Receiver<Input>, Failure> {
    let (inputs, received) = sync_channel(INPUTS_MAX);
    let lines = inputs.clone();
    let threads = std::thread::Builder::new().name("events".into()).spawn(move || {
        let _: Option<()> = events.iter().try_for_each(|event| inputs.send(Input::Event(event)).ok());
    });
    threads.and_then(|_| std::thread::Builder::new().name("input".into()).spawn(move || read_lines(&lines)))?;
    Ok(received)
}

fn read_lines(inputs: &SyncSender<Input>) {
    for line in std::io::stdin().lock().lines() {
        let sent = match line {
            Ok(line) => inputs.send(Input::Line(line)),
            Err(error) => {
                say(&format!("standard input: {error}"));
                break;
            }
        };
        if sent.is_err() {
            return;
        }
    }
    drop(inputs.send(Input::End));
}

impl Conversation {
    fn run(&mut self, inputs: &Receiver<Input>) -> Result<(), Failure> {
        self.screen.prompt(self.recipient.as_deref())?;
        loop {
            let is_over = match inputs.recv() {
                Ok(Input::Line(line)) => self.on_line(&line)?,
                Ok(Input::Event(event)) => self.on_event(event)?,
                Ok(Input::End) | Err(_) => return self.finish(inputs),
            };
            if is_over {
                return Ok(());
            }
            self.screen.prompt(self.recipient.as_deref())?;
        }
    }

    /// Standard input has ended: what was said may still have to be confirmed.
    fn finish(&mut self, inputs: &Receiver<Input>) -> Result<(), Failure> {
        let deadline = Instant::now() + LAST_WORDS;
        while !self.unconfirmed.is_empty() {
            match inputs.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Input::Event(event)) => drop(self.on_event(event)?),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    let message = format!("{} messages are not confirmed", self.unconfirmed.len());
                    return Err(Failure::new(Exit::TimedOut, message));
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        Ok(())
    }

    /// Whether the conversation is over.
    fn on_line(&mut self, line: &str) -> Result<bool, Failure> {
        match line.strip_prefix('/') {
            _ if line.trim().is_empty() => {}
            None => self.on_text(line)?,
            Some(text) if text.starts_with('/') => self.on_text(text)?,
            Some(command) => return self.on_command(command),
        }
        Ok(false)
    }

    fn on_text(&mut self, text: &str) -> Result<(), Failure> {
        let Some(recipient) = self.recipient.clone() else {
            return Ok(self.screen.note("to whom? /to USER says it")?);
        };
        match self.client.send(&recipient, text.as_bytes()) {
            Ok(id) => {
                self.unconfirmed.insert(id);
                self.screen.sent(id, &recipient, text);
                Ok(())
            }
            Err(error) => self.hint(error),
        }
    }

    fn on_command(&mut self, command: &str) -> Result<bool, Failure> {
        let (verb, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (verb, rest.trim()) {
            ("quit" | "q", _) => return Ok(true),
            ("to", user) if !user.is_empty() => self.talk_to(user)?,
            ("watch", user) if !user.is_empty() => self.watch(user)?,
            ("to" | "watch", _) => self.screen.note(&format!("/{verb} needs a name: /{verb} USER"))?,
            ("who", _) => self.screen.who()?,
            ("history", _) => self.screen.history()?,
            ("help", _) => HELP.lines().try_for_each(|line| self.screen.note(line))?,
            _ => self.screen.note(&format!("there is no /{}; /help lists what there is", printable(verb)))?,
        }
        Ok(false)
    }

    fn talk_to(&mut self, user: &str) -> Result<(), Failure> {
        match self.client.watch(user) {
            Ok(()) => self.recipient = Some(user.to_owned()),
            Err(error) => self.hint(error)?,
        }
        Ok(())
    }

    fn watch(&mut self, user: &str) -> Result<(), Failure> {
        self.client.watch(user).or_else(|error| self.hint(error))
    }

    /// A mistake of the user does not end the conversation.
    fn hint(&mut self, error: ClientError) -> Result<(), Failure> {
        match error {
            ClientError::BadUser { .. } | ClientError::TooLarge { .. } => Ok(self.screen.note(&error.to_string())?),
            error => Err(error.into()),
        }
    }

    /// Whether the conversation is over.
    fn on_event(&mut self, event: Event) -> Result<bool, Failure> {
        match event {
            Event::Message(message) => {
                self.screen.received(&message)?;
                self.client.acknowledge(&message);
                if self.recipient.is_none() {
                    self.talk_to(&message.sender)?;
                }
            }
            Event::Stored(id) => {
                self.unconfirmed.remove(&id);
                self.screen.stored(id)?;
            }
            Event::Delivered(id) => {
                self.unconfirmed.remove(&id);
                self.screen.delivered(id)?;
            }
            Event::Refused { id, code, reason, .. } => {
                self.unconfirmed.remove(&id);
                self.refused = true;
                self.screen.refused(id, code, &reason)?;
            }
            Event::Presence { user, state, last_seen } => self.screen.presence(user, state, last_seen)?,
            Event::Online { node, region } => {
                self.screen.note(&format!("connected to {} ({})", printable(&node), printable(&region)))?;
            }
            Event::Offline { reason } => self.screen.note(&format!("disconnected: {}", printable(&reason)))?,
            Event::Ended(error) => return Err(error.into()),
        }
        Ok(false)
    }
}
