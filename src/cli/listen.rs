//! `iris listen`: the messages of a user, a line each. A message is acknowledged once its line is written.

use super::{Exit, Failure, Server, print, printable, printable_body, rfc3339, say};
use crate::client::{Client, Event, Login, Message};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use serde_json::json;
use std::time::{Duration, Instant};

/// With --json each line has `id`, `sender`, `sent_at` (ms since 1970) and `text`, or `body` in base64 if it is no text.
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub struct Listen {
    #[command(flatten)]
    server: Server,
    /// Whose messages.
    #[arg(long, value_name = "BOB")]
    user: String,
    /// End after so many messages.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End with code 5 if no message came for so many seconds.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    /// Print messages as lines of JSON.
    #[arg(long)]
    json: bool,
}

/// Far enough to be never.
const FOREVER: Duration = Duration::from_secs(86_400 * 365);

impl Listen {
    pub fn run(self) -> Result<(), Failure> {
        let patience = self.timeout.map(super::seconds).transpose()?.unwrap_or(FOREVER);
        let login = Login { server: self.server.server.clone(), user: self.user.clone(), reconnect: true };
        let (client, events) = Client::connect(login)?;
        let mut left = self.count.unwrap_or(u64::MAX);
        let mut deadline = Instant::now() + patience;
        while left > 0 {
            match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::Message(message)) => {
                    print(&self.line(&message))?;
                    client.acknowledge(&message);
                    left -= 1;
                    deadline = Instant::now() + patience;
                }
                Ok(Event::Offline { reason }) => say(&format!("disconnected: {}; trying again", printable(&reason))),
                Ok(Event::Online { node, region }) => {
                    say(&format!("listening as {} at {} ({})", self.user, printable(&node), printable(&region)));
                }
                Ok(Event::Ended(error)) => return Err(error.into()),
                Ok(_) => {}
                Err(_) => return Err(Failure::new(Exit::TimedOut, "no message within --timeout")),
            }
        }
        client.close();
        Ok(())
    }

    fn line(&self, message: &Message) -> String {
        if !self.json {
            let late = if message.is_late { " (late)" } else { "" };
            let (sender, body) = (printable(&message.sender), printable_body(&message.body));
            return format!("{}{late} {sender}: {body}", rfc3339(message.sent_at));
        }
        let mut line = json!({
            "id": message.id.to_string(),
            "sender": message.sender,
            "sent_at": message.sent_at,
        });
        match std::str::from_utf8(&message.body) {
            Ok(text) => line["text"] = text.into(),
            Err(_) => line["body"] = BASE64_STANDARD.encode(&message.body).into(),
        }
        if message.is_late {
            line["late"] = true.into();
        }
        line.to_string()
    }
}
