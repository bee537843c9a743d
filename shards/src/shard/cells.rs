//! Bodies in memory, by cell: a leaf that gives cells out, and all memory back once none is filled.

use crate::id::Body;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Cells {
    list: Vec<Option<(u64, Body)>>,
    free: Vec<u32>,
}

impl Cells {
    /// Keeps a body. Returns its cell.
    pub(super) fn put(&mut self, sent_at: u64, body: Body) -> u32 {
        match self.free.pop() {
            Some(cell) => {
                self.list[cell as usize] = Some((sent_at, body));
                cell
            }
            None => {
                self.list.push(Some((sent_at, body)));
                (self.list.len() - 1) as u32
            }
        }
    }

    /// What is in a cell that is filled.
    pub(super) fn at(&self, cell: u32) -> (u64, Body) {
        self.list[cell as usize].clone().expect("an entry's cell is filled")
    }

    /// The body is not needed any more.
    pub(super) fn clear(&mut self, cell: u32) {
        self.list[cell as usize] = None;
        self.free.push(cell);
        if self.free.len() == self.list.len() {
            *self = Cells::default();
        }
    }
}
