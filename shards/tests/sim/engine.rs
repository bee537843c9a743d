//! The storage engine of an executor: the fast model, or the real log on a simulated disk.

use iris_shards::id::MessageId;
use iris_shards::storage::{Record, StorageEvent, StorageRequest};

use crate::logged::{Files, Logged};
use crate::model::{Model, Platter};
use crate::rng::Rng;
use crate::shared::{Common, Shared};

/// A living engine.
pub enum Engine {
    Model(Box<Model>),
    Log(Box<Logged>),
    Shared(Box<Shared>),
}

/// What outlives the process.
pub enum Medium {
    Model(Platter),
    Log(Box<Files>),
    Shared(Common),
}

impl Medium {
    /// An empty one.
    pub fn new(real_log: bool, salt: u32) -> Self {
        if real_log { Medium::Log(Box::new(Files::new(salt))) } else { Medium::Model(Platter::default()) }
    }

    /// An empty one takes its place.
    pub fn wipe(&mut self) {
        match self {
            Medium::Model(platter) => *platter = Platter::default(),
            Medium::Log(files) => files.wipe(),
            Medium::Shared(_) => {}
        }
    }

    /// The messages that are on it.
    pub fn ids(&self) -> Vec<MessageId> {
        match self {
            Medium::Model(platter) => platter.ids(),
            Medium::Log(files) => files.ids(),
            Medium::Shared(common) => common.borrow().ids(),
        }
    }
}

impl Engine {
    pub fn new(medium: Medium, flush_us: (u64, u64)) -> Self {
        match medium {
            Medium::Model(platter) => Engine::Model(Box::new(Model::new(platter, flush_us))),
            Medium::Log(files) => Engine::Log(Box::new(Logged::new(*files, flush_us))),
            Medium::Shared(common) => Engine::Shared(Box::new(Shared::new(common, flush_us))),
        }
    }

    /// The process has died.
    pub fn crash(self, rng: &mut Rng) -> Medium {
        match self {
            Engine::Model(model) => Medium::Model(model.crash(rng)),
            Engine::Log(log) => Medium::Log(Box::new(log.crash(rng))),
            Engine::Shared(shared) => Medium::Shared(shared.crash(rng)),
        }
    }

    /// What a recovery finds.
    pub fn recover(&mut self) -> Vec<StorageEvent> {
        match self {
            Engine::Model(model) => model.recover(),
            Engine::Log(log) => log.recover(),
            Engine::Shared(_) => Vec::new(),
        }
    }

    /// Performs a request. Returns the record that was given up by a trim.
    pub fn request(&mut self, request: StorageRequest, now_us: u64, rng: &mut Rng) -> Option<Record> {
        match self {
            Engine::Model(model) => model.request(request, now_us, rng),
            Engine::Log(log) => log.request(request, now_us, rng),
            Engine::Shared(shared) => {
                shared.request(request, now_us, rng);
                None
            }
        }
    }

    /// The end of a turn.
    pub fn flush(&mut self, now_us: u64, rng: &mut Rng) {
        match self {
            Engine::Model(model) => model.flush(now_us, rng),
            Engine::Log(log) => log.flush(now_us, rng),
            Engine::Shared(shared) => shared.flush(now_us, rng),
        }
    }

    pub fn set_full(&mut self, full: bool) {
        match self {
            Engine::Model(model) => model.set_full(full),
            Engine::Log(log) => log.set_full(full),
            Engine::Shared(shared) => shared.set_away(full),
        }
    }

    pub fn set_slow(&mut self, slow_us: u64) {
        match self {
            Engine::Model(model) => model.slow_us = slow_us,
            Engine::Log(log) => log.slow_us = slow_us,
            Engine::Shared(shared) => shared.slow_us = slow_us,
        }
    }

    /// When the next thing can be told.
    pub fn next_at(&self) -> Option<u64> {
        match self {
            Engine::Model(model) => model.next_at(),
            Engine::Log(log) => log.next_at(),
            Engine::Shared(shared) => shared.next_at(),
        }
    }

    /// Whether something can be told at this time.
    pub fn is_ready(&self, now_us: u64) -> bool {
        self.next_at().is_some_and(|at| at <= now_us)
    }

    /// The next thing to tell, and what has reached the disk with it. Call only when ready.
    pub fn tell(&mut self, now_us: u64, rng: &mut Rng) -> (Option<StorageEvent>, Vec<Record>) {
        match self {
            Engine::Model(model) => model.tell(now_us, rng),
            Engine::Log(log) => log.tell(now_us, rng),
            Engine::Shared(shared) => shared.tell(now_us, rng),
        }
    }

    /// The messages that are on disk.
    pub fn ids(&self) -> Vec<MessageId> {
        match self {
            Engine::Model(model) => model.platter.ids(),
            Engine::Log(log) => log.files.ids(),
            Engine::Shared(shared) => shared.ids(),
        }
    }
}
