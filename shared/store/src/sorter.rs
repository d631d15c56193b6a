//! An external sort for the index entries of a bulk load, which may not fit into memory.
//!
//! An index written in parts would be read and rewritten once per part. So entries that do not fit into memory are
//! sorted into unnamed files, which no crash leaves behind, and merged once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Seek, Write};
use std::path::Path;
use std::{mem, vec};

use bincode::config::{Configuration, standard};
use bincode::error::DecodeError;
use record::id::Id;
use record::model::Term;

use super::layout::{self, TermKey};

/// The number of entries held in memory: 24 MiB, besides texts.
const IN_MEMORY: usize = 1 << 20;

/// The bytes read from or written to a file at once.
const BUFFER: usize = 64 << 10;

const CONFIG: Configuration = standard();

/// The bytes of a block of texts. A vector that grew as a whole would be copied again and again, into fresh memory.
const BLOCK: usize = if cfg!(test) { 2 << 10 } else { 1 << 20 };

/// The most blocks of texts held in memory: 16 MiB.
const BLOCKS_IN_MEMORY: usize = 16;

/// The number of texts that are recognized when they come again: 64 KiB.
const KNOWN: usize = 1 << 14;

/// No text begins here.
const NOWHERE: u32 = u32::MAX;

/// A term, and a record found by it.
pub(super) type Entry = (TermKey, Id);

/// An entry in memory. Its term's text, if it has one, lies in the sorter's `texts`.
#[derive(Clone, Copy)]
struct Pending {
    /// The term's first bytes; without a text, the whole term.
    head: u64,
    id: Id,
    /// Its block in `texts`, and the place there.
    begin: u32,
    /// 0 without a text.
    length: u16,
}

/// A collector of entries in any order.
#[derive(Default)]
pub(super) struct Sorter {
    pending: Vec<Pending>,
    texts: Texts,
    /// The text of the term that is added.
    text: Vec<u8>,
    spilled: Vec<Spilled>,
}

impl Sorter {
    /// Adds an entry. Files are created in `folder`.
    pub(super) fn push(&mut self, term: &Term, id: Id, folder: &Path) -> io::Result<()> {
        if let Term::Id(referred) = term {
            return self.push_head(referred.get(), id, folder);
        }
        self.text.clear();
        layout::push_term(term, &mut self.text);
        let head = layout::head_of(&self.text);
        let length = u16::try_from(self.text.len()).expect("long terms are cut");
        let begin = self.texts.push(&self.text);
        self.add(Pending { head, id, begin, length }, folder)
    }

    /// Adds an entry whose term is a number in a key.
    pub(super) fn push_head(&mut self, head: u64, id: Id, folder: &Path) -> io::Result<()> {
        self.add(Pending { head, id, begin: 0, length: 0 }, folder)
    }

    fn add(&mut self, entry: Pending, folder: &Path) -> io::Result<()> {
        // Saves most of the copies of a growing vector; memory that is never written to costs nothing.
        if self.pending.capacity() == 0 {
            self.pending.reserve_exact(IN_MEMORY / 4);
        }
        self.pending.push(entry);
        if self.pending.len() == IN_MEMORY || self.texts.are_many() { self.spill(folder) } else { Ok(()) }
    }

    fn spill(&mut self, folder: &Path) -> io::Result<()> {
        let left = self.pending.len();
        let mut out = BufWriter::with_capacity(BUFFER, tempfile::tempfile_in(folder)?);
        for (term, id) in InMemory::sort(mem::take(&mut self.pending), mem::take(&mut self.texts)) {
            let bytes = bincode::encode_to_vec((term, id.get()), CONFIG);
            out.write_all(&bytes.expect("memory takes every value"))?;
        }
        let mut file = out.into_inner()?;
        file.rewind()?;
        self.spilled.push(Spilled { file: BufReader::with_capacity(BUFFER, file), left });
        Ok(())
    }

    /// Returns all entries, ascending.
    pub(super) fn sorted(self) -> io::Result<Sorted> {
        let in_memory = InMemory::sort(self.pending, self.texts);
        if self.spilled.is_empty() {
            return Ok(Sorted::InMemory(in_memory));
        }
        let mut sources: Vec<Source> = vec![Box::new(in_memory.map(Ok))];
        sources.extend(self.spilled.into_iter().map(|spilled| Box::new(spilled) as Source));
        let mut heads = BinaryHeap::new();
        for (number, source) in sources.iter_mut().enumerate() {
            if let Some(first) = source.next() {
                heads.push(Reverse((first?, number)));
            }
        }
        Ok(Sorted::Merged { sources, heads })
    }
}

/// The texts of pending entries, one after the other: an allocation for each would take longer.
#[derive(Default)]
struct Texts {
    blocks: Vec<Vec<u8>>,
    /// Where some texts begin, each in the slot of its checksum. Many records share a text, which then takes no further memory.
    known: Vec<u32>,
}

impl Texts {
    /// Adds a text, unless it is known. Returns the place where it begins.
    fn push(&mut self, text: &[u8]) -> u32 {
        self.known.resize(KNOWN, NOWHERE);
        let slot = crc32c::crc32c(text) as usize % KNOWN;
        // No term is a prefix of another: what begins like this text is this text.
        let (block, place) = (self.known[slot] as usize / BLOCK, self.known[slot] as usize % BLOCK);
        if self.blocks.get(block).is_some_and(|block| block[place..].starts_with(text)) {
            return self.known[slot];
        }
        if self.blocks.last().is_none_or(|block| block.len() + text.len() > BLOCK) {
            self.blocks.push(Vec::with_capacity(BLOCK));
        }
        let number = self.blocks.len() - 1;
        let block = &mut self.blocks[number];
        let begin = u32::try_from(number * BLOCK + block.len()).expect("texts are spilled before");
        block.extend_from_slice(text);
        self.known[slot] = begin;
        begin
    }

    /// Returns the text of an entry; without a text, an empty one.
    fn of(&self, Pending { begin, length, .. }: &Pending) -> &[u8] {
        let begin = *begin as usize;
        let block = self.blocks.get(begin / BLOCK).map_or(&[][..], |block| block);
        &block[begin % BLOCK..][..usize::from(*length)]
    }

    /// Tells whether they take as much memory as they may.
    fn are_many(&self) -> bool {
        self.blocks.len() > BLOCKS_IN_MEMORY
    }
}

/// Entries in memory, ascending.
pub(super) struct InMemory {
    pending: vec::IntoIter<Pending>,
    texts: Texts,
    /// The text of the last entry, where it begins, and its key.
    last: Option<(u32, TermKey)>,
}

impl InMemory {
    /// Sorts entries by comparing few texts. Texts are scattered in memory; if many records share one, comparing them
    /// would take most of the time. Entries with equal texts then refer to the same one.
    fn sort(mut pending: Vec<Pending>, texts: Texts) -> Self {
        let text = |entry: &Pending| texts.of(entry);
        pending.sort_unstable_by_key(|entry| (entry.head, entry.id));
        for alike in pending.chunk_by_mut(|a, b| a.head == b.head).filter(|alike| alike.len() > 1) {
            let first = alike[0];
            if alike.iter().any(|entry| entry.begin != first.begin && text(entry) != text(&first)) {
                alike.sort_unstable_by(|a, b| text(a).cmp(text(b)).then(a.id.cmp(&b.id)));
            }
            for same in alike.chunk_by_mut(|a, b| a.begin == b.begin || text(a) == text(b)) {
                let begin = same[0].begin;
                same.iter_mut().for_each(|entry| entry.begin = begin);
            }
        }
        Self { pending: pending.into_iter(), texts, last: None }
    }
}

impl Iterator for InMemory {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        let entry = self.pending.next()?;
        let Pending { head, id, begin, length } = entry;
        if length == 0 {
            return Some((TermKey::of_head(head), id));
        }
        if let Some((_, term)) = self.last.as_ref().filter(|last| last.0 == begin) {
            return Some((term.clone(), id));
        }
        let term = TermKey::of_text(self.texts.of(&entry).into());
        self.last = Some((begin, term.clone()));
        Some((term, id))
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

pub(super) type Source = Box<dyn Iterator<Item = io::Result<Entry>>>;

/// An iterator over all entries, ascending, made by [`Sorter::sorted`].
pub(super) enum Sorted {
    InMemory(InMemory),
    Merged {
        sources: Vec<Source>,
        /// The next entry of each source, and its number.
        heads: BinaryHeap<Reverse<(Entry, usize)>>,
    },
}

impl Iterator for Sorted {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let (sources, heads) = match self {
            Self::InMemory(entries) => return entries.next().map(Ok),
            Self::Merged { sources, heads } => (sources, heads),
        };
        let mut least = heads.peek_mut()?;
        Some(match sources[least.0.1].next() {
            Some(next) => next.map(|next| mem::replace(&mut least.0.0, next)),
            None => Ok(PeekMut::pop(least).0.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_in_files_and_in_memory_come_in_one_order() {
        let folder = tempfile::tempdir().unwrap();
        let id = |number: u64| Id::try_from(number).unwrap();
        let mut entries = Vec::new();
        for number in 1..=100 {
            // One term is as long as a term may be; others are prefixes of each other.
            let name = Term::from(&*("ab".repeat(number as usize % 7 * 300) + &(number % 5).to_string()));
            let referred = Term::Id(id(1 + number * 37 % 11));
            entries.extend([(name, id(number)), (referred, id(number << 40))]);
        }
        entries.rotate_left(77);
        let mut sorter = Sorter::default();
        // The texts of a part take more than a block.
        for part in entries.chunks(60) {
            for (term, id) in part {
                sorter.push(term, *id, folder.path()).unwrap();
            }
            if part.len() == 60 {
                assert!(sorter.texts.blocks.len() > 1);
                sorter.spill(folder.path()).unwrap();
            }
        }
        assert_eq!((sorter.spilled.len(), sorter.pending.len()), (3, 20));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        let mut few = Sorter::default();
        entries[..60].iter().for_each(|(term, id)| few.push(term, *id, folder.path()).unwrap());
        for (sorter, entries) in [(sorter, &entries[..]), (few, &entries[..60])] {
            let mut entries: Vec<Entry> = entries.iter().map(|(term, id)| (TermKey::of(term), *id)).collect();
            entries.sort();
            assert_eq!(sorter.sorted().unwrap().collect::<io::Result<Vec<_>>>().unwrap(), entries);
        }
    }
}
