//! A file's identity: its length and its SHA-256.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::Error;

/// The size of reads and writes, in bytes.
pub const BUFFER: usize = 1 << 20;

/// A file's length and hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The SHA-256, hexadecimal; empty if it was not computed.
    pub sha256: String,
    /// The length in bytes.
    pub bytes: u64,
}

/// A writer that counts and hashes the bytes written through it.
pub struct Hashed<W> {
    inner: W,
    sha256: Option<Sha256>,
    bytes: u64,
}

impl<W: Write> Hashed<W> {
    /// Returns a writer to `inner`; it hashes only if `hash`, because hashing takes time.
    pub fn new(inner: W, hash: bool) -> Self {
        Self { inner, sha256: hash.then(Sha256::new), bytes: 0 }
    }

    /// Returns the SHA-256 of the bytes so far; zeros if it is not computed.
    pub fn digest(&self) -> [u8; 32] {
        self.sha256.as_ref().map_or([0; 32], |sha256| sha256.clone().finalize().into())
    }

    /// Flushes the writer, and returns the identity of all that was written.
    pub fn finish(mut self) -> io::Result<Identity> {
        self.inner.flush()?;
        let sha256 = self.sha256.map(|sha256| hex::encode(sha256.finalize()));
        Ok(Identity { sha256: sha256.unwrap_or_default(), bytes: self.bytes })
    }
}

impl<W> Hashed<W> {
    /// Returns the number of bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(&bytes[..written]);
        }
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Returns the folder of `path`.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Reads the file at `path`, and returns its identity.
pub fn identify(path: &Path) -> Result<Identity, Error> {
    let file = File::open(path).map_err(Error::io(path))?;
    let mut hashed = Hashed::new(io::sink(), true);
    io::copy(&mut BufReader::with_capacity(BUFFER, file), &mut hashed).map_err(Error::io(path))?;
    hashed.finish().map_err(Error::io(path))
}
