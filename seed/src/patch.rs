//! A newer slice as a patch of the old one, so that the disk never has to hold both.
//!
//! The patch is written before the commit point, and is short if little has changed. After the commit point, [`apply`]
//! writes the new slice from the old one and the patch. Once a stride of it is durable, the part of the old slice that
//! is no longer needed is given back to the file system. A file of its own notes the progress, so that the next run can
//! go on after an interruption.
//!
//! ```text
//! patch   the pieces, and then the SHA-256 of all of them
//! piece   offset, length: 8 bytes each, little-endian: this many bytes of the old slice from the offset on
//!         or, if the offset is all ones, followed by the bytes themselves
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use record::id::Id;
use record::model::Collection;
use roaring::RoaringTreemap;
use store::sync;

use crate::error::Error;
use crate::identity::{BUFFER, Hashed};
use crate::ids::Ids;
use crate::slice::{Sliced, closing, opening};

/// The patch's name, beside the new slice.
const PATCH: &str = "slice.patch";

/// The name of the file that notes how much of the new slice is durable.
const DONE: &str = "slice.done";

/// The number of bytes that are written before they are made durable.
const STRIDE: u64 = 16 << 20;

/// The size of the blocks that file systems take back, in bytes.
const BLOCK: u64 = 4 << 10;

/// The offset of a piece whose bytes are in the patch.
const NEW: u64 = u64::MAX;

/// The length of the hash at the patch's end, in bytes.
const HASH: u64 = 32;

/// Returns the path of the patch in the folder in which the new slice is built.
pub fn patch_in(folder: &Path) -> PathBuf {
    folder.join(PATCH)
}

/// A patch that is being written. It also describes the new slice.
pub struct Patch {
    path: PathBuf,
    collection: Collection,
    out: Hashed<BufWriter<File>>,
    old: Window,
    /// The last piece of the old slice, which the next record may extend: offset and length.
    piece: (u64, u64),
    /// New text that is not written yet; if it is not empty, the piece is.
    new: Vec<u8>,
    slice: Hashed<std::io::Sink>,
    records: u64,
    given: RoaringTreemap,
    numbers: Ids,
}

impl Patch {
    /// Creates the patch file `path` for the slice `old` of `collection`.
    pub fn create(path: &Path, old: &Path, collection: Collection) -> Result<Self, Error> {
        let out = BufWriter::new(File::create_new(path).map_err(Error::io(path))?);
        let head = format!("{{\"{}\":{}", collection.name(), opening(collection));
        Ok(Self {
            path: path.to_owned(),
            collection,
            out: Hashed::new(out, true),
            old: Window::new(old, File::open(old).map_err(Error::io(old))?),
            piece: (0, head.len() as u64),
            new: Vec::new(),
            slice: Hashed::new(std::io::sink(), true),
            records: 0,
            given: RoaringTreemap::new(),
            numbers: Ids::none(),
        })
    }

    /// Returns the place of the next record, from 1.
    pub fn next_place(&self) -> u64 {
        self.records + 1
    }

    /// Adds a record of the old slice: `length` bytes from `offset` on. `has_id` tells whether a `given` id is written
    /// there.
    pub fn put_old(&mut self, id: u64, given: bool, has_id: bool, offset: u64, length: u32) -> Result<(), Error> {
        let (mut begin, length) = (offset, u64::from(length));
        let end = begin + length;
        // The old slice's comma is copied, too.
        let comma = u64::from(self.records > 0);
        let is_to_have = given && id != self.next_place();
        let is_next = self.piece.1 > 0 && self.piece.0 + self.piece.1 + comma == begin;
        if has_id != is_to_have || !is_next {
            let mut new = if comma > 0 { ",".to_owned() } else { String::new() };
            let member = format!("{{\"id\":{id},");
            match (has_id, is_to_have) {
                (false, true) => {
                    new += &member;
                    begin += 1;
                }
                (true, false) => {
                    new.push('{');
                    begin += member.len() as u64;
                }
                _ => {}
            }
            self.put_new(new.as_bytes())?;
            self.end_new()?;
            self.piece = (begin, 0);
        }
        self.piece.1 = end - self.piece.0;
        if is_to_have {
            self.given.insert(id);
        }
        self.count(id);
        Ok(())
    }

    /// Adds a record by its canonical text, which has no id if the id is `given`.
    pub fn put_text(&mut self, id: u64, given: bool, text: &str) -> Result<(), Error> {
        if self.records > 0 {
            self.put_new(b",")?;
        }
        self.count(id);
        if !given || id == self.records {
            return self.put_new(text.as_bytes());
        }
        self.given.insert(id);
        self.put_new(format!("{{\"id\":{id},{}", &text[1..]).as_bytes())
    }

    fn count(&mut self, id: u64) {
        self.records += 1;
        if let (true, Ok(number)) = (self.collection.has_text_ids(), Id::try_from(id)) {
            self.numbers.push(self.records, number);
        }
    }

    /// Ends the patch, and describes the new slice.
    pub fn finish(mut self) -> Result<Sliced, Error> {
        self.put_new(format!("{}}}\n", closing(self.collection, self.records)).as_bytes())?;
        self.end_new()?;
        let hash = self.out.digest();
        let written = self.out.write_all(&hash).and_then(|()| self.out.flush());
        written.map_err(Error::io(&self.path))?;
        let file = self.slice.finish().map_err(Error::io(&self.path))?;
        Ok(Sliced { file, given: self.given, numbers: self.numbers.shortened() })
    }

    fn put_new(&mut self, text: &[u8]) -> Result<(), Error> {
        self.end_old()?;
        self.new.extend_from_slice(text);
        if self.new.len() >= BUFFER { self.end_new() } else { Ok(()) }
    }

    /// Writes pending new text.
    fn end_new(&mut self) -> Result<(), Error> {
        if self.new.is_empty() {
            return Ok(());
        }
        let text = std::mem::take(&mut self.new);
        self.write_head(NEW, text.len() as u64)?;
        let written = self.out.write_all(&text).and_then(|()| self.slice.write_all(&text));
        self.new = text;
        self.new.clear();
        written.map_err(Error::io(&self.path))
    }

    /// Writes a pending piece of the old slice.
    fn end_old(&mut self) -> Result<(), Error> {
        let (offset, length) = std::mem::take(&mut self.piece);
        if length == 0 {
            return Ok(());
        }
        self.write_head(offset, length)?;
        self.old.read(offset, length, |part| self.slice.write_all(part).map_err(Error::io(&self.path)))
    }

    fn write_head(&mut self, offset: u64, length: u64) -> Result<(), Error> {
        let head = [offset, length].map(u64::to_le_bytes);
        self.out.write_all(head.as_flattened()).map_err(Error::io(&self.path))
    }
}

/// A piece of the new slice, by its place in the old slice or in the patch.
#[derive(Clone, Copy)]
struct Piece {
    is_old: bool,
    offset: u64,
    length: u64,
}

/// Writes the new slice in `next` from its patch there, and puts it into the place of `slice`. Without a patch, moves a
/// new slice that is already there, or does nothing.
pub fn apply(next: &Path, slice: &Path) -> Result<(), Error> {
    let (patch, new) = (patch_in(next), next.join("db.json"));
    if patch.exists() {
        write_slice(next, slice, STRIDE, || Ok(()))?;
        // The new slice is complete; a repeated run must not patch again.
        for path in [&patch, &next.join(DONE)] {
            fs::remove_file(path).map_err(Error::io(path))?;
        }
        sync(next)?;
    }
    if new.exists() {
        fs::rename(&new, slice).map_err(Error::io(slice))?;
    }
    Ok(())
}

/// Writes the new slice in `next`, `stride` bytes at a time; an error of `after_stride` ends it.
fn write_slice(
    next: &Path,
    old_path: &Path,
    stride: u64,
    mut after_stride: impl FnMut() -> Result<(), Error>,
) -> Result<(), Error> {
    let (patch_path, new_path) = (&patch_in(next), &next.join("db.json"));
    let pieces = read_pieces(patch_path)?;
    // The offset in the old slice before which each piece, and those after it, need nothing.
    let mut needed = vec![u64::MAX; pieces.len() + 1];
    for (nth, piece) in pieces.iter().enumerate().rev() {
        needed[nth] = if piece.is_old { needed[nth + 1].min(piece.offset) } else { needed[nth + 1] };
    }
    let open = |path: &Path| {
        let file = OpenOptions::new().read(true).write(true).create(path != old_path).truncate(false).open(path);
        file.map_err(Error::io(path))
    };
    let (old, new, done_path) = (open(old_path)?, open(new_path)?, next.join(DONE));
    let punched = old.try_clone().map_err(Error::io(old_path))?;
    let done_file = open(&done_path)?;
    let patch = File::open(patch_path).map_err(Error::io(patch_path))?;
    let (mut old, mut patch) = (Window::new(old_path, old), Window::new(patch_path, patch));
    let mut number = [0; 8];
    let done = done_file.read_exact_at(&mut number, 0).map_or(0, |()| u64::from_le_bytes(number));
    let make_durable = |at: u64| {
        new.sync_data().map_err(Error::io(new_path))?;
        let noted = done_file.write_all_at(&at.to_le_bytes(), 0).and_then(|()| done_file.sync_data());
        noted.map_err(Error::io(&done_path))
    };
    make_durable(done)?;
    // Bytes after it may be left from a power loss.
    new.set_len(done).map_err(Error::io(new_path))?;
    sync(next)?;
    // Small pieces are written together.
    let mut out = BufWriter::with_capacity(BUFFER, &new);
    out.seek(SeekFrom::Start(done)).map_err(Error::io(new_path))?;
    let (mut at, mut durable) = (0, done);
    for (nth, piece) in pieces.iter().enumerate() {
        let source = if piece.is_old { &mut old } else { &mut patch };
        let mut copied = done.saturating_sub(at).min(piece.length);
        at += copied;
        while copied < piece.length {
            let length = (piece.length - copied).min(stride);
            source.read(piece.offset + copied, length, |part| out.write_all(part).map_err(Error::io(new_path)))?;
            (at, copied) = (at + length, copied + length);
            if at - durable >= stride {
                out.flush().map_err(Error::io(new_path))?;
                make_durable(at)?;
                durable = at;
                let here = if piece.is_old { piece.offset + copied } else { u64::MAX };
                give_back(&punched, needed[nth + 1].min(here));
                after_stride()?;
            }
        }
    }
    out.flush().map_err(Error::io(new_path))?;
    new.sync_all().map_err(Error::io(new_path))
}

/// Reads the pieces of a patch, and checks its hash.
fn read_pieces(path: &Path) -> Result<Vec<Piece>, Error> {
    let file = File::open(path).map_err(Error::io(path))?;
    let end = file.metadata().map_err(Error::io(path))?.len().saturating_sub(HASH);
    let mut input = BufReader::with_capacity(BUFFER, file);
    let mut hash = Hashed::new(std::io::sink(), true);
    let (mut pieces, mut at) = (Vec::new(), 0);
    let mut read = || {
        while at < end {
            let mut head = [0; 16];
            input.read_exact(&mut head)?;
            hash.write_all(&head)?;
            let (numbers, _) = head.as_chunks();
            let (offset, length) = (u64::from_le_bytes(numbers[0]), u64::from_le_bytes(numbers[1]));
            at += head.len() as u64;
            let is_old = offset != NEW;
            pieces.push(Piece { is_old, offset: if is_old { offset } else { at }, length });
            if !is_old {
                let copied = std::io::copy(&mut input.by_ref().take(length), &mut hash)?;
                if copied < length {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                at += length;
            }
        }
        let mut expected = [0; HASH as usize];
        input.read_exact(&mut expected)?;
        if at == end && hash.digest() == expected { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
    };
    read().map_err(Error::io(path))?;
    Ok(pieces)
}

/// A buffered file that is read mostly forwards, in small pieces.
struct Window {
    path: PathBuf,
    file: File,
    begin: u64,
    bytes: Vec<u8>,
}

impl Window {
    fn new(path: &Path, file: File) -> Self {
        Self { path: path.to_owned(), file, begin: 0, bytes: Vec::new() }
    }

    /// Calls `with` with `length` bytes from `offset` on, part by part.
    fn read(
        &mut self,
        mut offset: u64,
        mut length: u64,
        mut with: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        while length > 0 {
            let end = self.begin + self.bytes.len() as u64;
            if !(self.begin..end).contains(&offset) {
                // Reads ahead for sequential access only.
                let goes_on = (end..end + BUFFER as u64).contains(&offset);
                let wanted = if goes_on { BUFFER as u64 } else { length.min(BUFFER as u64) };
                self.bytes.resize(wanted as usize, 0);
                let read = self.file.read_at(&mut self.bytes, offset).map_err(Error::io(&self.path))?;
                self.bytes.truncate(read);
                self.begin = offset;
                if read == 0 {
                    return Err(Error::io(&self.path)(ErrorKind::UnexpectedEof.into()));
                }
            }
            let from = (offset - self.begin) as usize;
            let part = &self.bytes[from..self.bytes.len().min(from.saturating_add(length as usize))];
            with(part)?;
            (offset, length) = (offset + part.len() as u64, length - part.len() as u64);
        }
        Ok(())
    }
}

/// Gives the part of `file` before `end` back to the file system, if that is possible.
fn give_back(file: &File, end: u64) {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{FallocateFlags, fallocate};
        let end = if end == u64::MAX { file.metadata().map_or(0, |metadata| metadata.len()) } else { end };
        if end >= BLOCK {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let _ = fallocate(file, flags, 0, end / BLOCK * BLOCK);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, end);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: usize = 100;

    fn posts() -> Collection {
        crate::plan::Plan::workspace().named("posts").unwrap()
    }

    /// Makes a slice of posts with these texts; returns it with the place of each.
    fn slice_of(texts: &[String]) -> (String, Vec<(u64, u32)>) {
        let (mut slice, mut spans) = ("{\"posts\":[".to_owned(), Vec::new());
        for text in texts {
            if !spans.is_empty() {
                slice.push(',');
            }
            spans.push((slice.len() as u64, u32::try_from(text.len()).unwrap()));
            slice.push_str(text);
        }
        (slice + "]}\n", spans)
    }

    fn record(nth: usize) -> String {
        format!("{{\"text\":\"{nth}{}\"}}", "x".repeat(LINE * (nth % 7)))
    }

    /// Lists new slices, as old records by their places (`Ok`) and new ones (`Err`).
    fn edits() -> Vec<Vec<Result<usize, usize>>> {
        let all = |count| (0..count).map(Ok);
        vec![
            all(300).collect(),
            vec![],
            all(300).rev().collect(),
            all(300).skip(1).collect(),
            all(150).chain([Err(1)]).chain((150..300).map(Ok)).collect(),
            [Err(7)].into_iter().chain(all(299)).collect(),
            all(300).filter(|nth| nth.unwrap() % 3 > 0).chain([Err(2), Err(3)]).collect(),
            (0..40).map(Err).collect(),
            all(300).flat_map(|nth| [nth, Err(nth.unwrap())]).collect(),
            (150..300).map(Ok).chain(all(150)).collect(),
        ]
    }

    #[test]
    fn a_patch_makes_the_announced_slice_despite_interruptions() {
        let old: Vec<String> = (0..300).map(record).collect();
        let (old_slice, spans) = slice_of(&old);
        for (case, edit) in edits().into_iter().enumerate() {
            let texts: Vec<String> =
                edit.iter().map(|edit| edit.map_or_else(|new| record(new + 1000), |nth| old[nth].clone())).collect();
            let expected = slice_of(&texts).0;
            for interrupted in [0, 1, 2, 5, 17] {
                let dir = tempfile::tempdir().unwrap();
                let (slice, next) = (dir.path().join("db.json"), dir.path().join("next"));
                fs::create_dir(&next).unwrap();
                fs::write(&slice, &old_slice).unwrap();
                let mut patch = Patch::create(&patch_in(&next), &slice, posts()).unwrap();
                for (edit, text) in edit.iter().zip(&texts) {
                    match edit {
                        Ok(nth) => patch.put_old(1, false, false, spans[*nth].0, spans[*nth].1).unwrap(),
                        Err(_) => patch.put_text(1, false, text).unwrap(),
                    }
                }
                let sliced = patch.finish().unwrap();
                assert_eq!(sliced.file.bytes, expected.len() as u64);
                // Anything may follow the durable part.
                for _ in 0..interrupted {
                    let _ = write_slice(&next, &slice, 5_000, || Err(Error::Difference(String::new())));
                    let mut new = OpenOptions::new().append(true).open(next.join("db.json")).unwrap();
                    new.write_all(&[0; 3000]).unwrap();
                }
                apply(&next, &slice).unwrap();
                assert_eq!(
                    fs::read_to_string(&slice).unwrap(),
                    expected,
                    "case {case}, interrupted {interrupted} times"
                );
                assert_eq!(crate::identity::identify(&slice).unwrap(), sliced.file);
                // Applying it again changes nothing.
                apply(&next, &slice).unwrap();
                assert_eq!(fs::read_to_string(&slice).unwrap(), expected);
            }
        }
    }

    #[test]
    fn an_incomplete_patch_is_an_error_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (slice, next) = (dir.path().join("db.json"), dir.path().join("next"));
        fs::create_dir(&next).unwrap();
        let (old, spans) = slice_of(&[record(1), record(2)]);
        fs::write(&slice, &old).unwrap();
        let mut patch = Patch::create(&patch_in(&next), &slice, posts()).unwrap();
        patch.put_old(1, false, false, spans[1].0, spans[1].1).unwrap();
        patch.put_text(1, false, "{}").unwrap();
        patch.finish().unwrap();
        let whole = fs::read(patch_in(&next)).unwrap();
        for cut in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[cut] ^= 1;
            for bytes in [&whole[..cut], &damaged] {
                fs::write(patch_in(&next), bytes).unwrap();
                assert!(apply(&next, &slice).is_err(), "{cut}");
                assert_eq!(fs::read_to_string(&slice).unwrap(), old);
            }
        }
    }
}
