//! `iris send`: one message, and what became of it.

use super::{Exit, Failure, Server, print, say};
use crate::client::{Client, Event, Login, name_of};
use clap::{Args, ValueEnum};
use iris_shards::id::MessageId;
use serde_json::json;
use std::io::Read;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Prints `delivered ID` (the recipient has it) or `stored ID` (it is on disk).
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub struct Send {
    #[command(flatten)]
    server: Server,
    /// Who sends.
    #[arg(long, value_name = "ALICE")]
    user: String,
    /// Who receives.
    #[arg(value_name = "BOB")]
    recipient: String,
    /// What; several words are joined by spaces. Without any, standard input is sent.
    text: Vec<String>,
    /// What to wait for.
    #[arg(long, value_enum, default_value_t = Wait::Stored)]
    wait: Wait,
    /// How long to wait, in seconds.
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    timeout: f64,
    /// Print what happens as lines of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wait {
    /// The message is safe: on disk, or with the recipient already.
    Stored,
    /// The recipient's client has acknowledged it.
    Delivered,
}

impl Send {
    pub fn run(self) -> Result<(), Failure> {
        let timeout = super::seconds(self.timeout)?;
        let body = self.body()?;
        let login = Login { server: self.server.server.clone(), user: self.user.clone(), reconnect: false };
        let (client, events) = Client::connect(login)?;
        let id = client.send(&self.recipient, &body)?;
        let result = self.follow(&events, id, Instant::now() + timeout);
        client.close();
        result
    }

    fn body(&self) -> Result<Vec<u8>, Failure> {
        if !self.text.is_empty() {
            return Ok(self.text.join(" ").into_bytes());
        }
        let mut body = Vec::new();
        std::io::stdin().read_to_end(&mut body)?;
        Ok(body)
    }

    fn follow(&self, events: &Receiver<Event>, id: MessageId, deadline: Instant) -> Result<(), Failure> {
        let mut is_stored = false;
        loop {
            match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::Delivered(confirmed)) if confirmed == id => return self.report("delivered", id),
                Ok(Event::Stored(confirmed)) if confirmed == id => {
                    is_stored = true;
                    self.report("stored", id)?;
                    if self.wait == Wait::Stored {
                        return Ok(());
                    }
                }
                Ok(Event::Refused { code, wait_ms, reason, .. }) => return Err(refused(code, wait_ms, &reason)),
                Ok(Event::Ended(error)) if is_stored => {
                    say("the message is stored; whether it was delivered will not be heard");
                    return Err(error.into());
                }
                Ok(Event::Ended(error)) => return Err(error.into()),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Err(self.timed_out(is_stored)),
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::new(Exit::Failed, "the client ended")),
            }
        }
    }

    fn report(&self, state: &str, id: MessageId) -> Result<(), Failure> {
        let line = if self.json {
            json!({"state": state, "id": id.to_string(), "recipient": self.recipient}).to_string()
        } else {
            format!("{state} {id}")
        };
        Ok(print(&line)?)
    }

    fn timed_out(&self, is_stored: bool) -> Failure {
        let so_far = if is_stored { "stored, but not delivered" } else { "not confirmed" };
        Failure::new(Exit::TimedOut, format!("{so_far} within {} s (--timeout)", self.timeout))
    }
}

fn refused(code: u16, wait_ms: u32, reason: &str) -> Failure {
    let reason = if reason.is_empty() { String::new() } else { format!(" ({})", super::printable(reason)) };
    let again = match Duration::from_millis(wait_ms.into()) {
        Duration::ZERO => "trying again is useless".to_owned(),
        wait => format!("try again in {wait:?}"),
    };
    Failure::new(Exit::Refused, format!("refused: {}{reason}; {again}", name_of(code)))
}
