//! The open segment files of one executor, and what is done with them through its io_uring.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use glommio::io::{BufferedFile, OpenOptions};

use super::{fatal, segment};

/// Descriptors that a log keeps.
const OPEN_MAX: usize = 16;

type Failure = glommio::GlommioError<()>;

/// The files of one log; the most recently used last.
pub(super) struct Files {
    dir: PathBuf,
    open: RefCell<Vec<(u32, Rc<BufferedFile>)>>,
}

impl Files {
    pub fn new(dir: PathBuf) -> Self {
        Files { dir, open: RefCell::default() }
    }

    pub fn path_of(&self, number: u32) -> PathBuf {
        segment::path_of(&self.dir, number)
    }

    /// Forgets a file that is being removed.
    pub fn close(&self, number: u32) {
        self.open.borrow_mut().retain(|&(open, _)| open != number);
    }

    async fn file(&self, number: u32) -> Result<Rc<BufferedFile>, Failure> {
        if let Some(file) = self.used(number) {
            return Ok(file);
        }
        let mut options = OpenOptions::new();
        let file = Rc::new(options.read(true).write(true).buffered_open(self.path_of(number)).await?);
        let mut open = self.open.borrow_mut();
        if open.len() >= OPEN_MAX {
            open.remove(0);
        }
        open.push((number, file.clone()));
        Ok(file)
    }

    fn used(&self, number: u32) -> Option<Rc<BufferedFile>> {
        let mut open = self.open.borrow_mut();
        let at = open.iter().position(|&(open, _)| open == number)?;
        let used = open.remove(at);
        let file = used.1.clone();
        open.push(used);
        Some(file)
    }

    /// Writes and syncs, or ends the process.
    pub async fn flush(&self, number: u32, offset: u32, bytes: Vec<u8>) {
        if let Err(reason) = self.try_flush(number, offset, bytes).await {
            fatal(&format!("cannot flush {}: {reason}", self.path_of(number).display()));
        }
    }

    async fn try_flush(&self, number: u32, offset: u32, bytes: Vec<u8>) -> Result<(), String> {
        let file = self.file(number).await.map_err(|error| error.to_string())?;
        let length = bytes.len();
        let written = file.write_at(bytes, u64::from(offset)).await.map_err(|error| error.to_string())?;
        // The kernel goes on with regular files by itself: fewer bytes are an error that it could not tell.
        if written < length {
            return Err(format!("{written} of {length} bytes written at {offset}"));
        }
        file.fdatasync().await.map_err(|error| error.to_string())
    }

    /// Reads; fewer bytes where the file ends. `None`, and a word to the operator, if the disk cannot.
    pub async fn read(&self, number: u32, offset: u32, bytes: u32) -> Option<glommio::io::ReadResult> {
        let read = match self.file(number).await {
            Ok(file) => file.read_at(u64::from(offset), bytes as usize).await,
            Err(error) => Err(error),
        };
        match read {
            Ok(result) => Some(result),
            Err(cause) => {
                let path = self.path_of(number);
                tracing::error!(path = %path.display(), offset, %cause, "cannot read");
                None
            }
        }
    }
}
