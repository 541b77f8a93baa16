//! Files that payloads move to when memory is full, and parts of the recent past (*io*).
//!
//! A segment has no name: it vanishes with its last reader, also when the process is killed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;

/// Bytes after which the next segment begins. Disk space comes back a segment at a time.
const SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// One file, only ever appended to.
#[derive(Debug)]
pub(crate) struct Segment {
    file: File,
}

/// The end of the newest segment.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) segment: std::sync::Arc<Segment>,
    pub(crate) length: u64,
}

impl Tail {
    /// A new segment in `directory`.
    ///
    /// # Errors
    /// The directory cannot be made or written.
    pub(crate) fn create(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let file = tempfile::tempfile_in(directory)?;
        Ok(Self {
            segment: std::sync::Arc::new(Segment { file }),
            length: 0,
        })
    }

    /// Whether what comes next belongs into another segment.
    pub(crate) const fn is_full(&self) -> bool {
        self.length >= SEGMENT_BYTES_MAX
    }

    /// Writes `bytes` at the end and says where they begin.
    ///
    /// # Errors
    /// The disk is full or broken; the segment's length is then unchanged.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let offset = self.length;
        self.segment.file.write_all_at(bytes, offset)?;
        self.length = offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(offset)
    }
}

impl Segment {
    /// Reads `length` bytes at `offset`. Blocks for as long as the page cache takes.
    ///
    /// # Errors
    /// The disk is broken.
    pub(crate) fn read(&self, offset: u64, length: u32) -> io::Result<Bytes> {
        let mut buffer = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut buffer, offset)?;
        Ok(buffer.into())
    }
}
