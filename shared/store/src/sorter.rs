//! An external sort for the index entries of a bulk load, which may not fit into memory.
//!
//! An index written in parts would be read and rewritten once per part. So entries that do not fit into memory are
//! sorted into unnamed files, which no crash leaves behind, and merged once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Seek, Write};
use std::mem;
use std::path::Path;

use bincode::config::{Configuration, standard};
use bincode::error::DecodeError;
use record::id::Id;

use super::layout::TermKey;

/// The number of entries held in memory: 24 MiB.
const IN_MEMORY: usize = 1 << 20;

/// The bytes read from or written to a file at once.
const BUFFER: usize = 64 << 10;

const CONFIG: Configuration = standard();

/// A term, and a record found by it.
type Entry = (TermKey, Id);

/// A collector of entries in any order.
#[derive(Default)]
pub(super) struct Sorter {
    pending: Vec<Entry>,
    spilled: Vec<Spilled>,
}

impl Sorter {
    /// Adds an entry. Files are created in `folder`.
    pub(super) fn push(&mut self, entry: Entry, folder: &Path) -> io::Result<()> {
        self.pending.push(entry);
        if self.pending.len() == IN_MEMORY { self.spill(folder) } else { Ok(()) }
    }

    fn spill(&mut self, folder: &Path) -> io::Result<()> {
        sort(&mut self.pending);
        let mut out = BufWriter::with_capacity(BUFFER, tempfile::tempfile_in(folder)?);
        let left = self.pending.len();
        for (term, id) in self.pending.drain(..) {
            let bytes = bincode::encode_to_vec((term, id.get()), CONFIG);
            out.write_all(&bytes.expect("memory takes every value"))?;
        }
        let mut file = out.into_inner()?;
        file.rewind()?;
        self.spilled.push(Spilled { file: BufReader::with_capacity(BUFFER, file), left });
        Ok(())
    }

    /// Returns all entries, ascending.
    pub(super) fn sorted(mut self) -> io::Result<Sorted> {
        sort(&mut self.pending);
        let mut sources: Vec<Source> = vec![Box::new(self.pending.into_iter().map(Ok))];
        sources.extend(self.spilled.into_iter().map(|spilled| Box::new(spilled) as Source));
        let mut heads = BinaryHeap::new();
        for (number, source) in sources.iter_mut().enumerate() {
            if let Some(first) = source.next() {
                heads.push(Reverse((first?, number)));
            }
        }
        Ok(Sorted { sources, heads })
    }
}

/// Sorts entries by comparing few texts. Texts are scattered in memory; if many records share one, comparing them would
/// take most of the time.
fn sort(entries: &mut [Entry]) {
    entries.sort_unstable_by_key(|(term, id)| (term.head(), *id));
    for alike in entries.chunk_by_mut(|a, b| a.0.head() == b.0.head()) {
        if alike.iter().any(|(term, _)| *term != alike[0].0) {
            alike.sort_unstable();
        }
    }
}

/// Entries in a file, ascending.
struct Spilled {
    file: BufReader<File>,
    left: usize,
}

impl Spilled {
    fn read(&mut self) -> Result<Entry, DecodeError> {
        let (term, id): (TermKey, u64) = bincode::decode_from_std_read(&mut self.file, CONFIG)?;
        Ok((term, Id::try_from(id).map_err(|_| DecodeError::Other("an id is invalid"))?))
    }
}

impl Iterator for Spilled {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some(self.read().map_err(|error| match error {
            DecodeError::Io { inner, .. } => inner,
            other => io::Error::other(other),
        }))
    }
}

type Source = Box<dyn Iterator<Item = io::Result<Entry>>>;

/// An iterator over all entries, ascending, made by [`Sorter::sorted`].
pub(super) struct Sorted {
    sources: Vec<Source>,
    /// The next entry of each source, and its number.
    heads: BinaryHeap<Reverse<(Entry, usize)>>,
}

impl Iterator for Sorted {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut least = self.heads.peek_mut()?;
        Some(match self.sources[least.0.1].next() {
            Some(next) => next.map(|next| mem::replace(&mut least.0.0, next)),
            None => Ok(PeekMut::pop(least).0.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use record::model::Term;

    use super::*;

    #[test]
    fn entries_in_files_and_in_memory_come_in_one_order() {
        let folder = tempfile::tempdir().unwrap();
        let id = |number: u64| Id::try_from(number).unwrap();
        let mut entries = Vec::new();
        for number in 1..=100 {
            // One term is as long as a term may be; others are prefixes of each other.
            let name = TermKey::of(&Term::from(&*"ab".repeat(number as usize % 7 * 300)));
            let referred = TermKey::of(&Term::Id(id(1 + number * 37 % 11)));
            entries.extend([(name, id(number)), (referred, id(number << 40))]);
        }
        entries.rotate_left(77);
        let mut sorter = Sorter::default();
        for part in entries.chunks(60) {
            for entry in part {
                sorter.push(entry.clone(), folder.path()).unwrap();
            }
            if part.len() == 60 {
                sorter.spill(folder.path()).unwrap();
            }
        }
        assert_eq!((sorter.spilled.len(), sorter.pending.len()), (3, 20));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        entries.sort();
        assert_eq!(sorter.sorted().unwrap().collect::<io::Result<Vec<_>>>().unwrap(), entries);
    }
}
