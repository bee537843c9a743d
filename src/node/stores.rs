//! What keeps the messages of a core: the files of its data directory, or a cluster that it shares with other cores.
//!
//! Opened before the executors start, so that what an operator has to change is said at once. A cluster that cannot be
//! reached is no reason not to start: what goes straight to clients needs none.

use iris_shards::id::NodeId;
use iris_shards::storage::Reach;

use crate::config::Config;
use crate::cpus::Layout;
use crate::storage::cassandra::{CassandraOptions, CassandraThreads, StorageFault, first_copies};
use crate::storage::{DataDir, StorageError, StorageOptions, StorageSeat};

/// See the module.
pub struct Stores {
    /// Keeps the lock.
    _data: Option<DataDir>,
    seats: Vec<Option<StorageSeat>>,
    reach: Reach,
}

impl Stores {
    /// Blocks. An edge keeps nothing.
    pub fn open(config: &Config, layout: &Layout) -> Result<Stores, StorageError> {
        match config.storage.shared() {
            _ if !config.role.is_core() => Ok(Stores::none(layout)),
            Some(options) => Ok(Stores::shared(options, config, layout)?),
            None => Stores::log(config, layout),
        }
    }

    fn none(layout: &Layout) -> Stores {
        Stores { _data: None, seats: (0..layout.executors).map(|_| None).collect(), reach: Reach::Own }
    }

    fn log(config: &Config, layout: &Layout) -> Result<Stores, StorageError> {
        let options = StorageOptions::of(config, config.data.clone(), layout.executors as u16);
        let mut data = DataDir::open(&options)?;
        let seats = data.take_seats().into_iter().map(StorageSeat::Log).map(Some).collect();
        Ok(Stores { _data: Some(data), seats, reach: Reach::Own })
    }

    /// Rows have the number of the node that wrote them, which comes from its name.
    fn shared(options: &CassandraOptions, config: &Config, layout: &Layout) -> Result<Stores, StorageFault> {
        let copies = match first_copies(options) {
            Err(fault) if fault.may_pass() => {
                tracing::warn!(
                    "{fault}; messages for absent users wait, and are refused after {} ms; trying on",
                    options.away_ms
                );
                // What can be said of a cluster that has said nothing.
                1
            }
            copies => copies?,
        };
        let threads = CassandraThreads::start(options)?;
        let node = NodeId::of_name(&config.name);
        let seat = |executor| Some(StorageSeat::Cassandra(threads.seat(executor as u16, node)));
        let seats = (0..layout.executors).map(seat).collect();
        Ok(Stores { _data: None, seats, reach: Reach::Shared { copies } })
    }

    /// What the executors need, in their order; once.
    pub fn take_seats(&mut self) -> Vec<Option<StorageSeat>> {
        std::mem::take(&mut self.seats)
    }

    /// Which cores see what this one keeps.
    pub fn reach(&self) -> Reach {
        self.reach
    }
}
