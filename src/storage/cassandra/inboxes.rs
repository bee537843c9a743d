//! All inboxes of one executor: whose turn it is to write, within a bound of writes under way.
//!
//! In: records and answers. Out: jobs for the storage thread. No I/O of its own.

use std::collections::VecDeque;

use ahash::RandomState;
use hashbrown::HashMap;
use iris_shards::id::{Key, UserId};
use iris_shards::storage::{Place, Record};

use super::inbox::{Inbox, Next};
use super::job::{Found, Job, Row, Step, Wanted};
use super::order::Order;
use super::place::{At, Clock, Writers, bucket_of, bucket_of_ms};
use crate::storage::fatal;

/// Inboxes without messages that are remembered, so that their next message costs one write and not two.
const IDLE_MAX: usize = 1 << 16;

const TOO_MANY_WRITERS: &str = "more than 65,536 nodes have stored messages for the users of one executor";

/// See the module.
#[derive(Debug)]
pub struct Inboxes {
    by_user: HashMap<UserId, Inbox, RandomState>,
    queue: VecDeque<UserId>,
    idle: VecDeque<UserId>,
    /// Users whose floors have risen.
    lagging: Vec<UserId>,
    /// By the numbers of their jobs.
    under_way: HashMap<u64, UnderWay, RandomState>,
    writes_max: usize,
    order: Order,
    /// Numbers of other nodes, and places.
    pub writers: Writers,
    /// Times of new rows.
    pub clock: Clock,
}

#[derive(Debug)]
struct UnderWay {
    user: UserId,
    appends: Vec<u64>,
}

impl Inboxes {
    /// Of this writer, with at most so many writes under way.
    pub fn new(writer: i32, writes_max: usize) -> Self {
        Inboxes {
            by_user: HashMap::default(),
            queue: VecDeque::new(),
            idle: VecDeque::new(),
            lagging: Vec::new(),
            under_way: HashMap::default(),
            writes_max,
            order: Order::default(),
            writers: Writers::new(writer),
            clock: Clock::default(),
        }
    }

    /// Appends a record.
    pub fn append(&mut self, record: Record, wall_ms: u64) {
        let at = self.clock.next(wall_ms);
        let own = self.writers.own();
        let place = self.writers.place(own, at).unwrap_or_else(|| fatal(TOO_MANY_WRITERS));
        let append = self.order.push(place);
        match record {
            Record::Entry(entry) => {
                let step = Step::Entry { at, key: entry.key, sent_at: entry.sent_at, body: entry.body };
                self.inbox(&entry.user).put((place, own, at), step, append);
                self.on_changed(&entry.user);
            }
            Record::Tombstone { user, key, taken_at, kills } => {
                let taken = (bucket_of_ms(key.id.time_ms()), Step::Taken { key: key.clone(), taken_at });
                let row = kills.map(|place| (place, key));
                let inbox = self.by_user.entry(user.clone()).or_default();
                inbox.take(taken, row, &mut self.writers, append);
                self.lagging.push(user.clone());
                self.on_changed(&user);
            }
            // Nothing is kept here that could be incomplete.
            Record::Complete(_) => self.order.written(append),
        }
    }

    /// This is wanted of a user.
    pub fn load(&mut self, user: &UserId, wanted: Wanted) {
        self.inbox(user).load(wanted);
        self.on_changed(user);
    }

    fn inbox(&mut self, user: &UserId) -> &mut Inbox {
        self.by_user.entry_ref(user).or_default()
    }

    /// Something waits, or nothing does any more.
    fn on_changed(&mut self, user: &UserId) {
        let Some(inbox) = self.by_user.get_mut(user) else { return };
        if inbox.is_ready() && !inbox.is_queued {
            inbox.is_queued = true;
            self.queue.push_back(user.clone());
        } else if inbox.is_forgettable() && !inbox.is_idle {
            inbox.is_idle = true;
            self.idle.push_back(user.clone());
            self.forget_idle();
        }
    }

    fn forget_idle(&mut self) {
        while self.idle.len() > IDLE_MAX
            && let Some(user) = self.idle.pop_front()
            && let Some(inbox) = self.by_user.get_mut(&user)
        {
            inbox.is_idle = false;
            if inbox.is_forgettable() {
                self.by_user.remove(&user);
            }
        }
    }

    /// The next job, which gets this number, while there is room.
    pub fn next_job(&mut self, number: u64) -> Option<Job> {
        while self.under_way.len() < self.writes_max {
            let user = self.queue.pop_front()?;
            let Some(inbox) = self.by_user.get_mut(&user) else { continue };
            inbox.is_queued = false;
            let Some(next) = inbox.next(&user, &mut self.writers, true) else { continue };
            inbox.is_busy = true;
            let (job, appends) = match next {
                Next::Write(group, appends) => (Job::Write(group), appends),
                Next::Load(wanted) => (Job::Load { user: user.clone(), wanted }, Vec::new()),
            };
            self.under_way.insert(number, UnderWay { user, appends });
            return Some(job);
        }
        None
    }

    /// A group is written, or a user's inbox loaded.
    pub fn done(&mut self, number: u64) {
        let Some(done) = self.under_way.remove(&number) else { return };
        done.appends.into_iter().for_each(|append| self.order.written(append));
        if let Some(inbox) = self.by_user.get_mut(&done.user) {
            inbox.is_busy = false;
        }
        self.on_changed(&done.user);
    }

    /// Rows were found. Returns their places.
    pub fn found(&mut self, user: &UserId, rows: &[Row]) -> Vec<Place> {
        let inbox = self.by_user.entry_ref(user).or_default();
        let place_of = |row: &Row| {
            let place = self.writers.place(row.writer, row.at).unwrap_or_else(|| fatal(TOO_MANY_WRITERS));
            inbox.found((place, row.writer, row.at));
            place
        };
        rows.iter().map(place_of).collect()
    }

    /// Another row has the key of this one.
    pub fn outdone(&mut self, user: &UserId, (writer, at, key): (i32, At, Key)) {
        if let Some(place) = self.writers.place(writer, at) {
            self.inbox(user).outdone((place, writer, at), key);
        }
    }

    /// A row is not there any more.
    pub fn gone(&mut self, user: &UserId, place: Place) {
        if let Some(inbox) = self.by_user.get_mut(user) {
            inbox.gone(place);
        }
    }

    /// All rows were found. What waits to be written and is among them is written.
    pub fn loaded(&mut self, user: &UserId, found: &Found) {
        let inbox = self.by_user.entry_ref(user).or_default();
        inbox.loaded(&found.floors);
        for (append, (at, writer)) in inbox.drop_found(found, &mut self.writers) {
            if let Some(place) = self.writers.place(writer, at) {
                self.order.written_at(append, place);
            }
        }
    }

    /// Writes the floors that have risen, once there is nothing else to write for their users.
    pub fn write_floors(&mut self) {
        for user in std::mem::take(&mut self.lagging) {
            let Some(inbox) = self.by_user.get_mut(&user) else { continue };
            if inbox.has_lag() && !inbox.is_busy && !inbox.is_queued {
                inbox.is_queued = true;
                self.queue.push_back(user);
            }
        }
    }

    /// Appends that can be told now.
    pub fn take_written(&mut self) -> Vec<Place> {
        self.order.take()
    }

    /// Where a row is.
    pub fn slice_of(&self, place: Place) -> (i32, i32, At) {
        let (writer, at) = self.writers.row(place);
        (writer, bucket_of(at), at)
    }

    /// The place of a key that was read.
    pub fn place_of(&mut self, writer: i32, (at, _): &(At, Key)) -> Place {
        self.writers.place(writer, *at).unwrap_or(Place(0))
    }

    /// Appends that were not told.
    pub fn untold(&self) -> usize {
        self.order.len()
    }

    /// Whether something is to be written.
    pub fn is_writing(&self) -> bool {
        !self.under_way.is_empty() || !self.queue.is_empty()
    }
}
