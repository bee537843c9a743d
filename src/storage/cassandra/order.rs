//! Appends in their order: each is told when it and all before it are written.

use std::collections::VecDeque;

use iris_shards::storage::Place;

/// Appends that were not told yet.
#[derive(Debug, Default)]
pub struct Order {
    /// The number of the first.
    first: u64,
    list: VecDeque<(Place, bool)>,
}

impl Order {
    /// The next append, which will be at this place. Returns its number.
    pub fn push(&mut self, place: Place) -> u64 {
        self.list.push_back((place, false));
        self.first + self.list.len() as u64 - 1
    }

    /// This one is written.
    pub fn written(&mut self, append: u64) {
        if let Some((_, written)) = self.waiting(append) {
            *written = true;
        }
    }

    /// It was written before, at this place.
    pub fn written_at(&mut self, append: u64, place: Place) {
        if let Some(waiting) = self.waiting(append) {
            *waiting = (place, true);
        }
    }

    fn waiting(&mut self, append: u64) -> Option<&mut (Place, bool)> {
        append.checked_sub(self.first).and_then(|at| self.list.get_mut(at as usize))
    }

    /// Those that can be told now.
    pub fn take(&mut self) -> Vec<Place> {
        let count = self.list.iter().take_while(|(_, written)| *written).count();
        self.first += count as u64;
        self.list.drain(..count).map(|(place, _)| place).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_told_before_what_is_older() {
        let mut order = Order::default();
        let appends: Vec<u64> = (0..4).map(|n| order.push(Place(n))).collect();
        order.written(appends[1]);
        order.written(appends[3]);
        assert!(order.take().is_empty());
        order.written(appends[0]);
        assert_eq!(order.take(), [Place(0), Place(1)]);
        order.written_at(appends[2], Place(7));
        assert_eq!(order.take(), [Place(7), Place(3)]);
        assert_eq!(order.push(Place(9)), 4);
    }
}
