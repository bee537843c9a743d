//! One user's rows as this executor knows them: what waits to be written, what is alive, and below what all is dead.
//!
//! Writes of one user follow one another, so that what the database has of an inbox is always a prefix of what was
//! appended to it, whatever happens to this node. Everything of one partition that waits meanwhile is the next group.

use std::collections::{BTreeSet, VecDeque};

use iris_shards::id::{Key, UserId};
use iris_shards::storage::Place;

use super::job::{Found, Group, Step, Wanted};
use super::place::{At, Writers, bucket_of, end_of};

/// Steps of a group, and bytes of bodies after which no more is added.
const GROUP_STEPS_MAX: usize = 128;
const GROUP_BYTES_MAX: usize = 128 << 10;
/// Rows that may die before the floor is written while there is always something else to write.
const FLOOR_LAG_MAX: usize = 512;

/// See the module.
#[derive(Debug, Default)]
pub struct Inbox {
    waiting: VecDeque<Waiting>,
    /// A group or a load is under way.
    pub is_busy: bool,
    /// Waits for room among the writes under way.
    pub is_queued: bool,
    /// Is in the list of those that may be forgotten.
    pub is_idle: bool,
    /// Whether `alive` has everything that the database has of this user.
    is_loaded: bool,
    /// The newest bucket that the user's own row names.
    known: Option<i32>,
    alive: BTreeSet<Place>,
    floors: Vec<Floor>,
    /// Rows that died since the floors were written.
    lag: usize,
}

/// How far everything of one writer is dead.
#[derive(Debug)]
struct Floor {
    writer: i32,
    /// The newest row that was seen.
    top: At,
    at: At,
    written: At,
}

#[derive(Debug)]
struct Waiting {
    /// Of the partition; `None` for the user's own row.
    bucket: Option<i32>,
    what: What,
    /// The append that is told when this is written.
    append: Option<u64>,
}

#[derive(Debug)]
enum What {
    Step(Step),
    Load(Wanted),
}

/// What is to be done next for a user.
#[derive(Debug)]
pub enum Next {
    /// Write, and then these appends are told.
    Write(Group, Vec<u64>),
    /// Find what is wanted.
    Load(Wanted),
}

impl Inbox {
    /// A message at this place.
    pub fn put(&mut self, (place, writer, at): (Place, i32, At), step: Step, append: u64) {
        let bucket = bucket_of(at);
        if self.known.is_none_or(|known| known < bucket) {
            self.known = Some(bucket);
            self.wait(None, Step::Known { bucket }, None);
        }
        self.alive.insert(place);
        let floor = self.floor(writer);
        floor.top = floor.top.max(at);
        self.wait(Some(bucket), step, Some(append));
    }

    /// A key was taken. First that is written, and then its row dies: a crash between the two shows it once more.
    pub fn take(&mut self, taken: (i32, Step), row: Option<(Place, Key)>, writers: &mut Writers, append: u64) {
        let (bucket, step) = taken;
        let Some((place, key)) = row else { return self.wait(Some(bucket), step, Some(append)) };
        self.wait(Some(bucket), step, None);
        let (writer, at) = writers.row(place);
        self.alive.remove(&place);
        self.lag += 1;
        let dead_up_to = self.raise_floor(writer, writers);
        let end = end_of(bucket_of(at));
        let step = match dead_up_to {
            Some(floor) if floor >= at => Step::DeadUpTo { writer, at: floor.min(end) },
            _ => Step::Dead { writer, at, key },
        };
        self.wait(Some(bucket_of(at)), step, Some(append));
    }

    /// Up to where all rows of a writer are dead, if that is known.
    fn raise_floor(&mut self, writer: i32, writers: &mut Writers) -> Option<At> {
        if !self.is_loaded {
            return None;
        }
        let (low, high) = (writers.place(writer, 0)?, writers.place(writer, At::MAX)?);
        let lowest = self.alive.range(low..=high).next().map(|&place| writers.row(place).1);
        let floor = self.floor(writer);
        floor.at = floor.at.max(lowest.map_or(floor.top, |lowest| lowest - 1));
        Some(floor.at)
    }

    fn floor(&mut self, writer: i32) -> &mut Floor {
        let at = self.floors.iter().position(|floor| floor.writer == writer).unwrap_or_else(|| {
            self.floors.push(Floor { writer, top: 0, at: 0, written: 0 });
            self.floors.len() - 1
        });
        &mut self.floors[at]
    }

    /// This is wanted, behind what waits.
    pub fn load(&mut self, wanted: Wanted) {
        self.waiting.push_back(Waiting { bucket: None, what: What::Load(wanted), append: None });
    }

    fn wait(&mut self, bucket: Option<i32>, step: Step, append: Option<u64>) {
        self.waiting.push_back(Waiting { bucket, what: What::Step(step), append });
    }

    /// Whether something waits and nothing is under way.
    pub fn is_ready(&self) -> bool {
        !self.is_busy && (!self.waiting.is_empty() || self.lag > FLOOR_LAG_MAX)
    }

    /// Whether a floor has risen that was not written.
    pub fn has_lag(&self) -> bool {
        self.lag > 0
    }

    /// Whether nothing would be missed but knowledge that can be had again.
    pub fn is_forgettable(&self) -> bool {
        self.waiting.is_empty() && !self.is_busy && self.lag == 0
    }

    /// What is to be done next; `floors`: or the floors, if there is nothing else.
    pub fn next(&mut self, user: &UserId, writers: &mut Writers, floors: bool) -> Option<Next> {
        if self.lag > FLOOR_LAG_MAX || (floors && self.lag > 0 && self.waiting.is_empty()) {
            let steps = self.floor_steps();
            if !steps.is_empty() {
                return Some(Next::Write(Group { user: user.clone(), bucket: None, steps }, Vec::new()));
            }
        }
        if let What::Load(wanted) = &mut self.waiting.front_mut()?.what {
            let wanted = std::mem::take(wanted);
            self.waiting.pop_front();
            if wanted.entries {
                self.begin_load(writers);
            }
            return Some(Next::Load(wanted));
        }
        Some(self.next_group(user))
    }

    fn floor_steps(&mut self) -> Vec<Step> {
        self.lag = 0;
        let risen = self.floors.iter_mut().filter(|floor| floor.at > floor.written);
        risen
            .map(|floor| {
                floor.written = floor.at;
                Step::Floor { writer: floor.writer, at: floor.at }
            })
            .collect()
    }

    /// What is alive is what will be found, and what waits.
    fn begin_load(&mut self, writers: &mut Writers) {
        self.is_loaded = false;
        let own = writers.own();
        let waiting = self.waiting.iter().filter_map(|waiting| match &waiting.what {
            What::Step(Step::Entry { at, .. }) => writers.place(own, *at),
            _ => None,
        });
        self.alive = waiting.collect();
    }

    fn next_group(&mut self, user: &UserId) -> Next {
        let bucket = self.waiting.front().and_then(|first| first.bucket);
        let (mut steps, mut appends, mut bytes) = (Vec::new(), Vec::new(), 0);
        while steps.len() < GROUP_STEPS_MAX
            && bytes < GROUP_BYTES_MAX
            && self.waiting.front().is_some_and(|waiting| waiting.is_of(bucket))
            && let Some(waiting) = self.waiting.pop_front()
        {
            appends.extend(waiting.append);
            let What::Step(step) = waiting.what else { continue };
            bytes += if let Step::Entry { body, .. } = &step { body.len() } else { 0 };
            drop_outdone(&mut steps, &step);
            steps.push(step);
        }
        Next::Write(Group { user: user.clone(), bucket, steps }, appends)
    }

    /// A row was found.
    pub fn found(&mut self, (place, writer, at): (Place, i32, At)) {
        self.alive.insert(place);
        let floor = self.floor(writer);
        floor.top = floor.top.max(at);
    }

    /// Writes nothing that is there already. Returns the appends that this answers, with the rows that are there.
    pub fn drop_found(&mut self, found: &Found, writers: &mut Writers) -> Vec<(u64, (At, i32))> {
        let (alive, mut answered) = (&mut self.alive, Vec::new());
        self.waiting.retain(|waiting| {
            let (What::Step(Step::Entry { at, key, .. }), Some(append)) = (&waiting.what, waiting.append) else {
                return true;
            };
            let Some(&row) = found.newest.get(key) else { return true };
            if let Some(place) = writers.place(writers.own(), *at) {
                alive.remove(&place);
            }
            answered.push((append, row));
            false
        });
        answered
    }

    /// Another row has the key of this one.
    pub fn outdone(&mut self, (place, writer, at): (Place, i32, At), key: Key) {
        self.alive.remove(&place);
        self.wait(Some(bucket_of(at)), Step::Dead { writer, at, key }, None);
    }

    /// A row is not there any more.
    pub fn gone(&mut self, place: Place) {
        self.alive.remove(&place);
    }

    /// All rows were found, behind these floors.
    pub fn loaded(&mut self, floors: &[(i32, At)]) {
        self.is_loaded = true;
        for &(writer, at) in floors {
            let floor = self.floor(writer);
            (floor.at, floor.written) = (floor.at.max(at), floor.written.max(at));
            floor.top = floor.top.max(at);
        }
    }
}

impl Waiting {
    fn is_of(&self, bucket: Option<i32>) -> bool {
        self.bucket == bucket && matches!(self.what, What::Step(_))
    }
}

/// A later range covers an earlier one of the same group.
fn drop_outdone(steps: &mut Vec<Step>, by: &Step) {
    let Step::DeadUpTo { writer: of, .. } = by else { return };
    steps.retain(|step| !matches!(step, Step::DeadUpTo { writer, .. } if writer == of));
}

#[cfg(test)]
mod tests {
    use super::*;
    use iris_shards::id::MessageId;

    const DAY: At = 86_400_000 * 64;

    fn user() -> UserId {
        UserId::parse(b"bob").unwrap()
    }

    fn key(n: u64) -> Key {
        Key { id: MessageId::v7(n, 1), sender: UserId::parse(b"alice").unwrap() }
    }

    struct Rig {
        inbox: Inbox,
        writers: Writers,
        appends: u64,
    }

    impl Rig {
        fn new() -> Self {
            let mut rig = Rig { inbox: Inbox::default(), writers: Writers::new(1), appends: 0 };
            rig.inbox.loaded(&[]);
            rig
        }

        fn put(&mut self, at: At) -> Place {
            let place = self.writers.place(1, at).unwrap();
            let step = Step::Entry { at, key: key(at as u64), sent_at: 0, body: [1][..].into() };
            self.inbox.put((place, 1, at), step, self.appends);
            self.appends += 1;
            place
        }

        fn take(&mut self, place: Place) {
            let at = self.writers.row(place).1;
            let taken = (bucket_of(at), Step::Taken { key: key(at as u64), taken_at: 0 });
            self.inbox.take(taken, Some((place, key(at as u64))), &mut self.writers, self.appends);
            self.appends += 1;
        }

        fn next(&mut self) -> (Vec<Step>, Vec<u64>) {
            match self.inbox.next(&user(), &mut self.writers, true) {
                Some(Next::Write(group, appends)) => (group.steps, appends),
                _ => (Vec::new(), Vec::new()),
            }
        }
    }

    #[test]
    fn what_waits_for_one_partition_is_one_group() {
        let mut rig = Rig::new();
        for at in 1..=3 {
            rig.put(at);
        }
        rig.put(DAY + 1);
        assert_eq!(rig.next().0, [Step::Known { bucket: bucket_of(1) }]);
        let (steps, appends) = rig.next();
        assert_eq!((steps.len(), appends), (3, vec![0, 1, 2]));
        assert_eq!(rig.next().0, [Step::Known { bucket: bucket_of(DAY + 1) }]);
        assert_eq!(rig.next().1, [3]);
        assert!(rig.next().0.is_empty());
    }

    #[test]
    fn what_is_taken_in_order_is_one_range() {
        let mut rig = Rig::new();
        let places: Vec<Place> = (1..=5).map(|at| rig.put(at)).collect();
        rig.next();
        rig.next();
        rig.take(places[3]);
        rig.take(places[0]);
        rig.take(places[1]);
        let (steps, appends) = rig.next();
        assert_eq!(appends, [5, 6, 7], "told when all of it is written");
        let ranges: Vec<&Step> = steps.iter().filter(|step| matches!(step, Step::DeadUpTo { .. })).collect();
        assert_eq!(ranges, [&Step::DeadUpTo { writer: 1, at: 2 }]);
        assert!(steps.contains(&Step::Dead { writer: 1, at: 4, key: key(4) }), "out of order: a row");
        assert_eq!(rig.next().0, [Step::Floor { writer: 1, at: 2 }]);
        rig.take(places[2]);
        assert_eq!(rig.next().0[1], Step::DeadUpTo { writer: 1, at: 4 }, "past what was dead already");
        rig.take(places[4]);
        assert_eq!(rig.next().0[1], Step::DeadUpTo { writer: 1, at: 5 });
        assert_eq!(rig.next().0, [Step::Floor { writer: 1, at: 5 }]);
        assert!(rig.inbox.is_forgettable());
    }

    #[test]
    fn nothing_is_known_to_be_dead_before_all_is_known() {
        let mut rig = Rig::new();
        rig.inbox.is_loaded = false;
        let place = rig.put(7);
        rig.next();
        rig.next();
        rig.take(place);
        assert!(rig.next().0.contains(&Step::Dead { writer: 1, at: 7, key: key(7) }));
    }

    #[test]
    fn a_load_waits_for_writes_before_it_and_holds_those_behind_it() {
        let mut rig = Rig::new();
        rig.put(1);
        rig.inbox.load(Wanted { entries: true, keys: vec![key(8)] });
        let behind = rig.put(2);
        rig.next();
        rig.next();
        let next = rig.inbox.next(&user(), &mut rig.writers, true);
        assert!(matches!(next, Some(Next::Load(wanted)) if wanted.keys == [key(8)]));
        assert_eq!(rig.inbox.alive.iter().collect::<Vec<_>>(), [&behind]);
        let other = rig.writers.place(9, 5).unwrap();
        rig.inbox.found((other, 9, 5));
        rig.inbox.loaded(&[(9, 4)]);
        assert_eq!(rig.next().1, [1]);
        rig.take(other);
        let dead = rig.next().0.into_iter().chain(rig.next().0);
        assert!(dead.into_iter().any(|step| step == Step::DeadUpTo { writer: 9, at: 5 }));
    }

    #[test]
    fn what_is_found_is_not_written_again() {
        let mut rig = Rig::new();
        rig.inbox.load(Wanted { entries: true, keys: Vec::new() });
        rig.put(2);
        rig.put(3);
        assert!(matches!(rig.inbox.next(&user(), &mut rig.writers, true), Some(Next::Load(_))));
        let found = Found { floors: Vec::new(), newest: [(key(2), (5, 9))].into_iter().collect() };
        assert_eq!(rig.inbox.drop_found(&found, &mut rig.writers), [(0, (5, 9))], "by another writer");
        rig.inbox.loaded(&[]);
        rig.next();
        let (steps, appends) = rig.next();
        assert!(matches!(&steps[..], [Step::Entry { at: 3, .. }]) && appends == [1]);
    }

    #[test]
    fn asking_for_keys_forgets_nothing() {
        let mut rig = Rig::new();
        let place = rig.put(1);
        rig.next();
        rig.next();
        rig.inbox.load(Wanted { entries: false, keys: vec![key(8)] });
        assert!(matches!(rig.inbox.next(&user(), &mut rig.writers, true), Some(Next::Load(_))));
        rig.take(place);
        assert!(rig.next().0.contains(&Step::DeadUpTo { writer: 1, at: 1 }));
    }
}
