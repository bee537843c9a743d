//! Bounded rings between every ordered pair of executors, an executor and itself included. Goes
//! in: items for an executor, any number per turn. Comes out: items of the others, in the order of
//! each sender; one wake-up per sender and turn. Nobody waits for a full ring: what does not fit
//! stays with the sender, in order, and the receiver tells it when there is room again.
//! Invariant: no lost wake (see `bell`). Bounding what the sender keeps is up to the credits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crossbeam_utils::CachePadded;
use rtrb::{Consumer, Producer, PushError, RingBuffer};

use crate::bell::Bell;

/// Slots of one ring, whatever the memory limit.
pub const SLOTS_MIN: usize = 16;
/// Slots of one ring, whatever the memory limit.
pub const SLOTS_MAX: usize = 8192;

/// One bit per executor.
struct Bits(Box<[CachePadded<AtomicU64>]>);

impl Bits {
    fn new(executors: usize) -> Bits {
        let words = executors.div_ceil(64);
        Bits((0..words).map(|_| CachePadded::new(AtomicU64::new(0))).collect())
    }

    /// True when the bit was clear. The caller has put a full fence before.
    fn set(&self, executor: usize) -> bool {
        let (word, bit) = (&self.0[executor / 64], 1 << (executor % 64));
        word.load(Ordering::Relaxed) & bit == 0 && word.fetch_or(bit, Ordering::AcqRel) & bit == 0
    }

    fn are_clear(&self) -> bool {
        self.0.iter().all(|word| word.load(Ordering::Acquire) == 0)
    }

    /// Clears all bits and adds those that were set to `taken`.
    fn take(&self, taken: &mut [u64]) {
        for (word, taken) in self.0.iter().zip(taken) {
            if word.load(Ordering::Relaxed) != 0 {
                *taken |= word.swap(0, Ordering::AcqRel);
            }
        }
    }
}

/// What the others see of one executor.
struct Door {
    bell: Bell,
    /// Who has something for this executor, or room again for what it kept.
    ready: Bits,
    /// Who waits for room in its ring to this executor.
    waiting: Bits,
}

/// One executor's end of the mesh; moves to its thread.
pub struct Endpoint<T> {
    /// Apart from `inbound`, so that an item can be answered while others are drained.
    pub outbound: Outbound<T>,
    /// Items from the others.
    pub inbound: Inbound<T>,
}

/// The endpoints of all executors, in the order of their bells.
///
/// `bytes_max` bounds the memory of all rings together, within [`SLOTS_MIN`] and [`SLOTS_MAX`]
/// items per ring; it becomes resident only as far as a ring was ever filled.
#[must_use]
pub fn mesh<T: Send>(bells: Vec<Bell>, bytes_max: usize) -> Vec<Endpoint<T>> {
    let executors = bells.len();
    let slots = slots_per_ring(executors, bytes_max, size_of::<T>());
    let doors = bells.into_iter().map(|bell| Door { bell, ready: Bits::new(executors), waiting: Bits::new(executors) });
    let doors: Arc<[Door]> = doors.collect();
    let mut producers: Vec<Vec<Producer<T>>> = Vec::new();
    let mut consumers: Vec<Vec<Consumer<T>>> = (0..executors).map(|_| Vec::new()).collect();
    for _ in 0..executors {
        let pairs = consumers.iter_mut().map(|consumers| {
            let (producer, consumer) = RingBuffer::new(slots);
            consumers.push(consumer);
            producer
        });
        producers.push(pairs.collect());
    }
    let ends = producers.into_iter().zip(consumers).enumerate();
    ends.map(|(own, (rings, sources))| Endpoint {
        outbound: Outbound::new(own, Arc::clone(&doors), rings),
        inbound: Inbound::new(own, Arc::clone(&doors), sources),
    })
    .collect()
}

/// Items that fit into one ring.
#[must_use]
pub fn slots_per_ring(executors: usize, bytes_max: usize, item_bytes: usize) -> usize {
    let rings = executors * executors;
    let slots = bytes_max / rings.max(1) / item_bytes.max(1);
    slots.clamp(SLOTS_MIN, SLOTS_MAX)
}

/// The way from one executor to one other.
struct Lane<T> {
    ring: Producer<T>,
    /// What found the ring full; older than anything pushed later.
    backlog: VecDeque<T>,
    is_touched: bool,
}

impl<T> Lane<T> {
    fn push(&mut self, item: T) {
        if !self.backlog.is_empty() {
            return self.backlog.push_back(item);
        }
        if let Err(PushError::Full(item)) = self.ring.push(item) {
            self.backlog.push_back(item);
        }
    }

    /// Moves what fits, in one go.
    fn refill(&mut self) {
        let fits = self.ring.slots().min(self.backlog.len());
        if fits == 0 {
            return;
        }
        if let Ok(chunk) = self.ring.write_chunk_uninit(fits) {
            chunk.fill_from_iter(self.backlog.drain(..fits));
        }
        if self.backlog.is_empty() {
            self.backlog = VecDeque::new();
        }
    }
}

/// The sending half of an [`Endpoint`].
pub struct Outbound<T> {
    own: usize,
    doors: Arc<[Door]>,
    lanes: Vec<Lane<T>>,
    touched: Vec<usize>,
    backlog: usize,
    sent: u64,
}

impl<T> Outbound<T> {
    fn new(own: usize, doors: Arc<[Door]>, rings: Vec<Producer<T>>) -> Outbound<T> {
        let lane = |ring| Lane { ring, backlog: VecDeque::new(), is_touched: false };
        let lanes: Vec<Lane<T>> = rings.into_iter().map(lane).collect();
        Outbound { own, doors, lanes, touched: Vec::new(), backlog: 0, sent: 0 }
    }

    /// Executors, this one included.
    #[must_use]
    pub fn executors(&self) -> usize {
        self.lanes.len()
    }

    /// Sends an item with the next [`Outbound::flush`]. Never waits.
    ///
    /// # Panics
    /// If there is no executor `target`.
    pub fn push(&mut self, target: usize, item: T) {
        let lane = &mut self.lanes[target];
        let before = lane.backlog.len();
        lane.push(item);
        self.backlog += lane.backlog.len() - before;
        self.sent += 1;
        if !lane.is_touched {
            lane.is_touched = true;
            self.touched.push(target);
        }
    }

    /// Ends a turn: makes what was pushed known, one ring of the bell per target, and moves what
    /// was kept where there is room again.
    pub fn flush(&mut self) {
        if self.touched.is_empty() {
            return;
        }
        let mut touched = std::mem::take(&mut self.touched);
        for &target in &touched {
            self.refill(target);
        }
        // `Bits::set` relies on it: the items are in the rings before it looks at the bits.
        fence(Ordering::SeqCst);
        for &target in &touched {
            self.announce(target);
        }
        touched.retain(|&target| {
            let lane = &mut self.lanes[target];
            lane.is_touched = !lane.backlog.is_empty();
            lane.is_touched
        });
        self.touched = touched;
    }

    fn announce(&self, target: usize) {
        let door = &self.doors[target];
        // A bit that is still set has been rung for, and its owner looks before it sleeps.
        if door.ready.set(self.own) {
            door.bell.ring();
        }
    }

    /// Moves what fits of the backlog. If some stays, the receiver knows that we wait for room.
    fn refill(&mut self, target: usize) {
        let lane = &mut self.lanes[target];
        let before = lane.backlog.len();
        lane.refill();
        if !lane.backlog.is_empty() {
            fence(Ordering::SeqCst);
            self.doors[target].waiting.set(self.own);
            fence(Ordering::SeqCst);
            // It may have made room before it could see that we wait.
            lane.refill();
        }
        self.backlog -= before - lane.backlog.len();
    }

    /// Items kept for `target` because its ring is full.
    #[must_use]
    pub fn backlog_len(&self, target: usize) -> usize {
        self.lanes[target].backlog.len()
    }

    /// Items kept for all targets together.
    #[must_use]
    pub fn backlog_total(&self) -> usize {
        self.backlog
    }

    /// Items pushed since the start.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }
}

/// The receiving half of an [`Endpoint`].
pub struct Inbound<T> {
    own: usize,
    doors: Arc<[Door]>,
    sources: Vec<Consumer<T>>,
    /// Who may have something, as far as this executor knows.
    pending: Vec<u64>,
    /// Who waited for room, while they are told.
    starved: Vec<u64>,
    /// Where the next drain begins, so that nobody is always last.
    first: usize,
    received: u64,
}

impl<T> Inbound<T> {
    fn new(own: usize, doors: Arc<[Door]>, sources: Vec<Consumer<T>>) -> Inbound<T> {
        let words = sources.len().div_ceil(64);
        Inbound { own, doors, sources, pending: vec![0; words], starved: vec![0; words], first: 0, received: 0 }
    }

    /// True when nothing waits here and nobody has told us that there is room again. To be asked
    /// after the bell is armed, before a sleep.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.pending.iter().all(|word| *word == 0) && self.doors[self.own].ready.are_clear()
    }

    /// Takes up to `budget` items, from each sender in its order, and returns how many. What is
    /// beyond the budget keeps [`Inbound::is_idle`] false.
    pub fn drain(&mut self, budget: usize, mut take: impl FnMut(usize, T)) -> usize {
        self.doors[self.own].ready.take(&mut self.pending);
        let executors = self.sources.len();
        let mut left = budget;
        for step in 0..executors {
            let from = (self.first + step) % executors;
            let (word, bit) = (from / 64, 1 << (from % 64));
            if self.pending[word] & bit == 0 {
                continue;
            }
            if left == 0 {
                self.first = from;
                break;
            }
            let count = self.drain_from(from, left, &mut take);
            // A short count is an empty ring; what comes later sets the bit again.
            if count < left {
                self.pending[word] &= !bit;
            }
            left -= count;
        }
        let count = budget - left;
        if count > 0 {
            self.received += count as u64;
            self.tell_of_room();
        }
        count
    }

    fn drain_from(&mut self, from: usize, budget: usize, take: &mut impl FnMut(usize, T)) -> usize {
        let count = self.sources[from].slots().min(budget);
        if let Ok(chunk) = self.sources[from].read_chunk(count) {
            for item in chunk {
                take(from, item);
            }
        }
        count
    }

    /// Those who wait for room find this executor's bit among theirs.
    fn tell_of_room(&mut self) {
        fence(Ordering::SeqCst);
        let door = &self.doors[self.own];
        if door.waiting.are_clear() {
            return;
        }
        door.waiting.take(&mut self.starved);
        for (word, starved) in self.starved.iter_mut().enumerate() {
            while *starved != 0 {
                let from = word * 64 + starved.trailing_zeros() as usize;
                *starved &= *starved - 1;
                let other = &self.doors[from];
                fence(Ordering::SeqCst);
                if other.ready.set(self.own) {
                    other.bell.ring();
                }
            }
        }
    }

    /// Items taken since the start.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    fn endpoints<T: Send>(executors: usize, bytes_max: usize) -> (Vec<Bell>, Vec<Endpoint<T>>) {
        let bells: Vec<Bell> = (0..executors).map(|_| Bell::new().unwrap()).collect();
        let ends = mesh(bells.clone(), bytes_max);
        (bells, ends)
    }

    fn taken<T>(end: &mut Endpoint<T>, budget: usize) -> Vec<(usize, T)> {
        let mut items = Vec::new();
        end.inbound.drain(budget, |from, item| items.push((from, item)));
        items
    }

    #[test]
    fn memory_is_shared_by_the_rings() {
        assert_eq!(slots_per_ring(64, 64 << 20, 64), 256);
        assert_eq!(slots_per_ring(2, 64 << 20, 64), SLOTS_MAX);
        assert_eq!(slots_per_ring(64, 0, 64), SLOTS_MIN);
        assert_eq!(slots_per_ring(1, 64 << 20, 0), SLOTS_MAX);
    }

    #[test]
    fn items_arrive_in_order_and_the_bell_rings_once() {
        let (bells, mut ends) = endpoints::<u32>(2, 1 << 20);
        bells[1].arm();
        for item in 0..100 {
            ends[0].outbound.push(1, item);
        }
        assert!(!bells[1].is_ringing(), "not before the turn ends");
        ends[0].outbound.flush();
        assert!(bells[1].is_ringing());
        let items: Vec<u32> = taken(&mut ends[1], 1000).into_iter().map(|(_, item)| item).collect();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
        assert!(ends[1].inbound.is_idle());
    }

    #[test]
    fn an_executor_can_send_to_itself() {
        let (_, mut ends) = endpoints::<u32>(1, 1 << 20);
        ends[0].outbound.push(0, 7);
        ends[0].outbound.flush();
        assert!(!ends[0].inbound.is_idle());
        assert_eq!(taken(&mut ends[0], 10), [(0, 7)]);
    }

    #[test]
    fn what_does_not_fit_waits_in_order_and_the_receiver_tells_of_room() {
        let (bells, mut ends) = endpoints::<usize>(2, 0);
        for item in 0..SLOTS_MIN + 5 {
            ends[0].outbound.push(1, item);
        }
        ends[0].outbound.flush();
        assert_eq!(ends[0].outbound.backlog_len(1), 5);
        assert_eq!(ends[0].outbound.backlog_total(), 5);
        bells[0].arm();
        assert!(ends[0].inbound.is_idle(), "a backlog alone keeps nobody awake");
        let first = taken(&mut ends[1], SLOTS_MIN);
        assert!(bells[0].is_ringing(), "there is room again");
        assert!(!ends[0].inbound.is_idle());
        assert!(taken(&mut ends[0], 10).is_empty());
        ends[0].outbound.flush();
        assert_eq!(ends[0].outbound.backlog_total(), 0);
        let all = first.into_iter().chain(taken(&mut ends[1], 100)).map(|(_, item)| item);
        assert_eq!(all.collect::<Vec<_>>(), (0..SLOTS_MIN + 5).collect::<Vec<_>>());
    }

    #[test]
    fn a_budget_leaves_the_rest_and_serves_everybody() {
        let (_, mut ends) = endpoints::<usize>(3, 1 << 20);
        for item in 0..10 {
            ends[0].outbound.push(2, item);
            ends[1].outbound.push(2, item);
        }
        ends[0].outbound.flush();
        ends[1].outbound.flush();
        let mut seen = [0; 3];
        for _ in 0..2 {
            for (from, _) in taken(&mut ends[2], 4) {
                seen[from] += 1;
            }
            assert!(!ends[2].inbound.is_idle());
        }
        assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
        assert_eq!(taken(&mut ends[2], 100).len(), 12);
        assert!(ends[2].inbound.is_idle());
    }

    /// One executor of the stress: sends its share in small turns, sleeps when idle, ends when it
    /// has everything from everybody and nothing left to send.
    fn live(own: usize, mut end: Endpoint<u64>, bell: Bell, share: u64) {
        let executors = end.outbound.executors();
        let mut next = vec![0u64; executors];
        let (mut sent, mut received) = (0, 0);
        let all = share * executors as u64;
        while sent < share || received < all || end.outbound.backlog_total() > 0 {
            // Uneven turns, so that rings fill, sleeps happen and wake-ups cross.
            for _ in 0..(own as u64 * 7 + sent) % 40 + 1 {
                if sent < share {
                    (0..executors).for_each(|target| end.outbound.push(target, sent));
                    sent += 1;
                }
            }
            received += end.inbound.drain(64, |from, item| {
                assert_eq!(item, next[from], "out of order from {from}");
                next[from] += 1;
            }) as u64;
            end.outbound.flush();
            let is_waiting = sent == share && end.inbound.is_idle();
            if is_waiting && (received < all || end.outbound.backlog_total() > 0) {
                sleep(own, &bell, &end);
            }
        }
    }

    fn sleep(own: usize, bell: &Bell, end: &Endpoint<u64>) {
        bell.silence();
        bell.arm();
        if end.inbound.is_idle() {
            assert!(bell.wait(20_000), "lost wake of executor {own}");
        }
        bell.disarm();
    }

    fn stress(executors: usize, share: u64) {
        let (bells, ends) = endpoints::<u64>(executors, 0);
        let start = Barrier::new(executors);
        thread::scope(|scope| {
            for (own, (end, bell)) in ends.into_iter().zip(bells).enumerate() {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    live(own, end, bell, share);
                });
            }
        });
    }

    #[test]
    fn no_wake_is_lost_between_few() {
        for executors in [1, 2, 3] {
            stress(executors, 60_000);
        }
    }

    #[test]
    fn no_wake_is_lost_between_many() {
        stress(16, 4_000);
        stress(64, 300);
    }

    #[test]
    fn descriptors_in_a_dropped_mesh_are_closed() {
        let (_, mut ends) = endpoints::<std::sync::Arc<()>>(2, 0);
        let item = std::sync::Arc::new(());
        for _ in 0..SLOTS_MIN + 3 {
            ends[0].outbound.push(1, item.clone());
        }
        ends[0].outbound.flush();
        drop(ends);
        assert_eq!(std::sync::Arc::strong_count(&item), 1);
    }
}
