//! Segment files: names, making, removing, cutting, mapping. Everything here blocks: for threads without an executor.
//!
//! `<data>/generation-<g>/log-<k>/<number as 10 digits>.seg`. The only file of the storage that has `unsafe`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use memmap2::{Advice, Mmap};

use super::StorageError;

const ZEROS: &[u8] = &[0; 1 << 20];

/// The bytes of a segment.
#[derive(Debug)]
pub struct Mapped(Option<Mmap>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

/// The file of a segment.
#[must_use]
pub fn path_of(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:010}.seg"))
}

fn number_of(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() == 10).then(|| digits.parse().ok()).flatten()
}

/// Names the culprit.
pub(super) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.to_owned();
    move |cause| StorageError::File { what, path, cause }
}

/// The numbers of the segments in a directory, ascending. Other files are left alone.
pub fn list(dir: &Path) -> Result<Vec<u32>, StorageError> {
    let mut numbers = Vec::new();
    for file in std::fs::read_dir(dir).map_err(failed("read the directory", dir))? {
        let file = file.map_err(failed("read the directory", dir))?;
        numbers.extend(file.file_name().to_str().and_then(number_of));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Makes names in a directory durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes a segment of zeros and syncs it with its directory. Nothing is left of it after an error.
pub fn prepare(dir: &Path, number: u32, bytes: u64) -> io::Result<()> {
    let path = path_of(dir, number);
    let made = fill(&path, bytes).and_then(|()| sync_dir(dir));
    if made.is_err() {
        // It may not be there; a recovery removes it otherwise.
        let _ = std::fs::remove_file(&path);
    }
    made
}

/// Real zeros, not holes: a commit then changes no metadata, and never finds the disk full.
fn fill(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    allocate(&file, bytes)?;
    let mut left = bytes as usize;
    while left > 0 {
        let part = left.min(ZEROS.len());
        file.write_all(&ZEROS[..part])?;
        left -= part;
    }
    file.sync_all()
}

/// Fails at once where there is no room; without it a full disk is found only by writing.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    // SAFETY: a system call on a descriptor that `file` keeps open; it touches no memory of ours.
    let result = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes as libc::off_t) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    let is_unknown = error.raw_os_error() == Some(libc::EOPNOTSUPP) || error.raw_os_error() == Some(libc::ENOSYS);
    if is_unknown { Ok(()) } else { Err(error) }
}

/// Removes a segment durably.
pub fn remove(dir: &Path, number: u32) -> io::Result<()> {
    std::fs::remove_file(path_of(dir, number))?;
    sync_dir(dir)
}

/// Cuts a segment off, durably.
pub fn truncate(dir: &Path, number: u32, bytes: u32) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path_of(dir, number))?;
    file.set_len(u64::from(bytes))?;
    file.sync_all()
}

/// Makes what the kernel has of a segment durable.
pub fn sync(dir: &Path, number: u32) -> io::Result<()> {
    File::open(path_of(dir, number))?.sync_all()
}

/// Maps a segment for one reading from start to end.
pub fn map(dir: &Path, number: u32) -> Result<Mapped, StorageError> {
    let path = path_of(dir, number);
    let mut file = File::open(&path).map_err(failed("open", &path))?;
    if read_through(&mut file).map_err(failed("read", &path))? == 0 {
        return Ok(Mapped(None));
    }
    // SAFETY: nobody writes or cuts this file while it is mapped: the data directory is locked for other processes, and
    // this one maps only before the log may append, and drops the map before the file is cut.
    let map = unsafe { Mmap::map(&file) }.map_err(failed("map", &path))?;
    map.advise(Advice::Sequential).map_err(failed("map", &path))?;
    Ok(Mapped(Some(map)))
}

/// Brings the file into the page cache, so that a sector that cannot be read is an error here and not a SIGBUS later.
fn read_through(file: &mut File) -> io::Result<usize> {
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(total),
            read => total += read,
        }
    }
}
