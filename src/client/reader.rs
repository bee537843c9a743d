//! The thread of a client: reads frames, keeps the connection alive, connects again.

use super::ids::{jittered, random};
use super::inbox::Arrival;
use super::wire::{self, FrameReader, Granted, NoFrame};
use super::{ClientError, Event, Login, Message, Shared, State};
use iris_shards::frame::{ClientFrame, Code, Deliver, LEVEL_DELIVERED, Ranges, ServerFrame};
use iris_shards::id::Sequence;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How often the thread looks whether the client was told to end.
const NAP: Duration = Duration::from_millis(50);

/// See the module.
pub struct Reader {
    pub login: Login,
    pub shared: Arc<Shared>,
    pub events: Sender<Event>,
}

/// Why a connection is over.
enum Over {
    /// The server said CLOSE.
    Closed(ClientError),
    /// It broke, or does not answer.
    Lost(String),
    /// DRAIN: its time has come.
    Drained,
}

/// What a frame asks of the reader beyond what was done with it.
enum Turn {
    On,
    Drain(Duration),
    Over(Over),
}

impl Reader {
    pub fn run(&mut self, stream: TcpStream, frames: FrameReader, granted: Granted) {
        let mut next = Some((stream, frames, granted));
        let last = loop {
            let Some((stream, frames, granted)) = next.take() else { break None };
            let over = self.converse(stream, frames, granted);
            self.shared.lock().stream = None;
            if self.shared.lock().has_ended {
                break None;
            }
            if let Some(error) = self.final_error(&over) {
                break Some(error);
            }
            self.tell(Event::Offline { reason: reason_of(&over) });
            match self.connect_again(over) {
                Ok(connected) => next = connected,
                Err(error) => break Some(error),
            }
        };
        self.shared.lock().has_ended = true;
        self.shared.changed.notify_all();
        self.tell(Event::Ended(last.unwrap_or_else(|| ClientError::Lost("the client was closed".into()))));
    }

    /// Nobody may listen any more.
    fn tell(&self, event: Event) {
        drop(self.events.send(event));
    }

    /// The error that no reconnect can help, if it is one.
    fn final_error(&self, over: &Over) -> Option<ClientError> {
        match over {
            Over::Closed(error) if !self.login.reconnect || is_final(error) => Some(error.clone()),
            Over::Lost(cause) if !self.login.reconnect => Some(ClientError::Lost(cause.clone())),
            _ => None,
        }
    }

    fn converse(&mut self, stream: TcpStream, mut frames: FrameReader, granted: Granted) -> Over {
        let (node, region) = (granted.node.clone(), granted.region.clone());
        let ping_after = ping_after(granted.silent_ms_max);
        self.shared.lock().on_connected(stream, granted);
        self.tell(Event::Online { node, region });
        let mut leave_at: Option<Instant> = None;
        let mut silences = 0;
        loop {
            if leave_at.is_some_and(|at| at <= Instant::now()) {
                return Over::Drained;
            }
            let wait = leave_at.map_or(ping_after, |at| at.duration_since(Instant::now()).min(ping_after));
            match frames.next(wait, |frame| self.on_frame(frame)) {
                Ok(Turn::On) => silences = 0,
                Ok(Turn::Drain(wait)) => leave_at = self.login.reconnect.then(|| Instant::now() + wait),
                Ok(Turn::Over(over)) => return over,
                Err(NoFrame::Ended(cause)) => return Over::Lost(cause),
                // Each silence was answered by a PING; three without a PONG are the silence of a dead peer.
                Err(NoFrame::Silence) if silences == 3 => return Over::Lost("the server does not answer".into()),
                Err(NoFrame::Silence) => silences += 1,
            }
            self.ping_if_silent(ping_after);
        }
    }

    fn ping_if_silent(&self, ping_after: Duration) {
        let mut state = self.shared.lock();
        if state.written_at.elapsed() >= ping_after.mul_f64(0.9) {
            state.write(&ClientFrame::Ping { token: random() });
        }
    }

    fn on_frame(&self, frame: ServerFrame<'_>) -> Turn {
        match frame {
            ServerFrame::Deliver(message) => self.on_deliver(&message),
            ServerFrame::Confirm { level, ranges, .. } => self.on_confirm(level, ranges),
            ServerFrame::Refused { sequence, code, wait_ms, reason } => {
                self.on_refused(sequence, (code, wait_ms), reason);
            }
            ServerFrame::Presence { state, last_seen, user, .. } => {
                self.tell(Event::Presence { user: user.to_owned(), state, last_seen });
            }
            ServerFrame::Drain { wait_ms } => return Turn::Drain(Duration::from_millis(wait_ms.into())),
            ServerFrame::Close { code, wait_ms, reason } => {
                let reason = reason.to_owned();
                return Turn::Over(Over::Closed(ClientError::Closed { code, wait_ms, reason }));
            }
            ServerFrame::Welcome(_) | ServerFrame::Pong { .. } | ServerFrame::Unknown { .. } => {}
        }
        Turn::On
    }

    fn on_deliver(&self, message: &Deliver<'_>) {
        let mut state = self.shared.lock();
        let (connection, sequence) = (state.connection, message.sequence.0);
        match state.inbox.on_deliver(message.sender, message.id, connection, sequence) {
            Arrival::Acknowledge => state.acknowledge(sequence),
            Arrival::Wait => {}
            Arrival::Show { is_late } => self.tell(Event::Message(Message {
                id: message.id,
                sender: message.sender.to_owned(),
                sent_at: message.sent_at,
                body: message.body.to_vec(),
                is_late,
            })),
        }
    }

    fn on_confirm(&self, level: u8, ranges: Ranges<'_>) {
        let is_delivered = level == LEVEL_DELIVERED;
        let mut state = self.shared.lock();
        for id in state.outbox.on_confirm(is_delivered, ranges) {
            self.tell(if is_delivered { Event::Delivered(id) } else { Event::Stored(id) });
        }
        self.answered(&mut state);
    }

    fn on_refused(&self, sequence: Sequence, (code, wait_ms): (u16, u32), reason: &str) {
        let mut state = self.shared.lock();
        if let Some(id) = state.outbox.on_refused(sequence) {
            self.tell(Event::Refused { id, code, wait_ms, reason: reason.to_owned() });
        }
        self.answered(&mut state);
    }

    fn answered(&self, state: &mut State) {
        state.send_what_fits();
        self.shared.changed.notify_all();
    }

    /// Tries until it works (`Some`) or the client was told to end (`None`). Errors: ones that time does not heal.
    #[allow(clippy::type_complexity)]
    fn connect_again(&self, over: Over) -> Result<Option<(TcpStream, FrameReader, Granted)>, ClientError> {
        let mut wait = match over {
            Over::Closed(ClientError::Closed { wait_ms, .. }) if wait_ms > 0 => Duration::from_millis(wait_ms.into()),
            Over::Drained => Duration::ZERO,
            _ => jittered(FIRST_WAIT),
        };
        let mut longest = FIRST_WAIT;
        loop {
            if self.has_ended_within(wait) {
                return Ok(None);
            }
            match wire::login(&self.login.server, &self.login.user) {
                Ok(connected) => return Ok(Some(connected)),
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => {
                    longest = (longest * 2).min(LONGEST_WAIT);
                    wait = jittered(longest).max(asked_to_wait(&error));
                }
            }
        }
    }

    fn has_ended_within(&self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            if self.shared.lock().has_ended {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            std::thread::sleep(left.min(NAP));
        }
    }
}

/// One PING in each third of the server's patience is enough; without a limit, one a minute finds dead connections.
fn ping_after(silent_ms_max: u32) -> Duration {
    if silent_ms_max == 0 { Duration::from_secs(60) } else { Duration::from_millis(u64::from(silent_ms_max) / 3) }
}

/// Codes after which the same login can only fail again, or must not be repeated (`docs/protocol.md`, section 3).
fn is_final(error: &ClientError) -> bool {
    let ClientError::Closed { code, .. } = error else { return false };
    let finals =
        [Code::ProtocolError, Code::FrameTooLarge, Code::Version, Code::BadUser, Code::Unauthorized, Code::TakenOver];
    finals.iter().any(|code_of| code_of.number() == *code)
}

fn asked_to_wait(error: &ClientError) -> Duration {
    match error {
        ClientError::Closed { wait_ms, .. } => Duration::from_millis((*wait_ms).into()),
        _ => Duration::ZERO,
    }
}

fn reason_of(over: &Over) -> String {
    match over {
        Over::Closed(error) => error.to_string(),
        Over::Lost(cause) => cause.clone(),
        Over::Drained => "the server stops".into(),
    }
}
