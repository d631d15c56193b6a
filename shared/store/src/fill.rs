//! Filling a service's folder from its slice: `{"posts":[record, …]}`, as `seed` writes it; of a collection that is one
//! record, `{"profile":record}`, or null.
//!
//! That is how a replica comes to a database of its own. The slice passes through as a stream, in bounded memory. The
//! database grows in `db.part` and becomes `db` when all of it is durable: it is there whole or not at all.

use std::cell::Cell;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use record::id::Id;
use record::model::{Collection, Records};
use record::reader::RECORD_BYTES;
use record::record_set::RecordSet;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::{Folder, Load, Store, StoreError, at, sync, sync_tree};

/// How many bytes of records are loaded as one piece.
const BLOCK: usize = 4 << 20;

/// How much is read at a time, in bytes.
const BUFFER: usize = 256 << 10;

/// A service's slice, open, so that it can be read where its path cannot be any more: in the sandbox.
pub struct Slice {
    path: PathBuf,
    file: File,
}

/// Why a folder was not filled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FillError {
    /// The slice is not one of this service.
    #[error("{}: {reason}. Nothing was kept; correct the slice, or let `seed` write it again", .path.display())]
    Slice {
        /// The slice.
        path: PathBuf,
        /// What is wrong, after the JSON pointer of the record that it is wrong with.
        reason: String,
    },
    /// The database or a file.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Slice {
    /// Opens the slice at `path`.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { path: path.to_owned(), file: File::open(path).map_err(at(path))? })
    }

    /// Makes the database of `folder`, which has none, from the slice. Returns the number of records.
    pub fn fill(self, folder: &Folder, collection: Collection) -> Result<u64, FillError> {
        let part = folder.part();
        let filled = self.load(Store::create(&part, collection)?).and_then(|records| {
            sync_tree(&part)?;
            fs::rename(&part, folder.database()).map_err(at(&part))?;
            sync(folder.path())?;
            Ok(records)
        });
        if filled.is_err() {
            // What cannot be removed now, the next start removes.
            let _ = folder.remove_part();
        }
        filled
    }

    /// Loads the slice into `store`, and closes it.
    fn load(self, store: Store) -> Result<u64, FillError> {
        let Slice { path, file } = self;
        let collection = store.collection();
        let left = Rc::new(Cell::new(usize::MAX));
        let mut filling = Filling {
            load: Load::new(store),
            block: Records::new(collection, BLOCK),
            records: 0,
            left: Rc::clone(&left),
            failed: None,
        };
        filling.allow_next();
        let reader = BufReader::with_capacity(BUFFER, Bounded { file, left });
        let mut deserializer = serde_json::Deserializer::from_reader(reader);
        let read = deserializer.deserialize_map(&mut filling).and_then(|()| deserializer.end());
        let reason = match (filling.failed, read) {
            (Some(Failure::Store(error)), _) => return Err(error.into()),
            (Some(Failure::Record(reason)), _) => reason,
            (None, Err(error)) => error.to_string(),
            (None, Ok(())) => {
                filling.load.finish()?.sync()?;
                return Ok(filling.records);
            }
        };
        Err(FillError::Slice { path, reason })
    }
}

/// A slice on its way into a database.
struct Filling {
    load: Load,
    block: Records,
    /// How many records were read.
    records: u64,
    /// What [`Bounded`] may still read.
    left: Rc<Cell<usize>>,
    /// What no error of serde's can carry.
    failed: Option<Failure>,
}

enum Failure {
    Record(String),
    Store(StoreError),
}

impl Filling {
    fn collection(&self) -> Collection {
        self.block.collection()
    }

    /// The JSON pointer of the record at `index`.
    fn pointer(&self, index: u64) -> String {
        let collection = self.collection();
        if collection.is_single() {
            format!("/{}", collection.name())
        } else {
            format!("/{}/{index}", collection.name())
        }
    }

    /// Lets the next record be as long as a record may be. It begins within what has been read ahead.
    fn allow_next(&self) {
        self.left.set(RECORD_BYTES + BUFFER);
    }

    fn put(&mut self, text: &str) -> Result<(), Failure> {
        let index = self.records;
        if text.len() > RECORD_BYTES {
            return Err(Failure::Record(format!("{}: {}", self.pointer(index), too_long())));
        }
        self.records += 1;
        self.block
            .push(text, Id::try_from(self.records).ok())
            .map_err(|fault| Failure::Record(format!("{}{}: {}", self.pointer(index), fault.pointer, fault.reason)))?;
        self.allow_next();
        if self.block.text().len() >= BLOCK { self.write_block() } else { Ok(()) }
    }

    fn write_block(&mut self) -> Result<(), Failure> {
        let next = Records::new(self.collection(), BLOCK);
        let block = std::mem::replace(&mut self.block, next);
        let Some(taken) = self.load.put(block.iter(), &RecordSet::of(block.iter())).map_err(Failure::Store)? else {
            return Ok(());
        };
        let second = block.iter().filter(|record| record.id == taken).last();
        let position = second.and_then(|record| record.position).map_or(self.records, Id::get);
        let pointer = self.pointer(position - 1);
        Err(Failure::Record(format!("{pointer}: an earlier record has the id {taken} too")))
    }

    /// Keeps why `result` failed until serde has returned.
    fn keep<E: serde::de::Error>(&mut self, result: Result<(), Failure>) -> Result<(), E> {
        result.map_err(|failure| {
            self.failed = Some(failure);
            E::custom("")
        })
    }
}

/// The whole slice.
impl<'de> Visitor<'de> for &mut Filling {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object that holds {:?} alone", self.collection().name())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let name = self.collection().name();
        let mut seen = false;
        while let Some(key) = map.next_key::<String>()? {
            if key != name {
                let key: String = key.chars().take(40).collect();
                return Err(A::Error::custom(format!("the collection {key:?} is here, expected {name:?} alone")));
            }
            if seen {
                return Err(A::Error::custom(format!("the collection {name:?} is here twice")));
            }
            if self.collection().is_single() {
                let record = map.next_value::<Box<RawValue>>()?;
                let put = if record.get() == "null" { Ok(()) } else { self.put(record.get()) };
                let put = put.and_then(|()| self.write_block());
                self.keep(put)?;
            } else {
                map.next_value_seed(Array(&mut *self))?;
            }
            seen = true;
        }
        if seen { Ok(()) } else { Err(A::Error::custom(format!("the collection {name:?} is missing"))) }
    }
}

/// The array of records.
struct Array<'f>(&'f mut Filling);

impl<'de> DeserializeSeed<'de> for Array<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Array<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of {}", self.0.collection().name())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        let filling = self.0;
        loop {
            match array.next_element::<Box<RawValue>>() {
                Ok(Some(record)) => {
                    let put = filling.put(record.get());
                    filling.keep(put)?;
                }
                Ok(None) => break,
                Err(error) => return Err(A::Error::custom(format!("{}: {error}", filling.pointer(filling.records)))),
            }
        }
        let written = filling.write_block();
        filling.keep(written)
    }
}

/// A file of which only so much may be read: serde_json would put a value of any length together in memory.
struct Bounded {
    file: File,
    left: Rc<Cell<usize>>,
}

impl Read for Bounded {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let allowed = bytes.len().min(self.left.get());
        if allowed == 0 && !bytes.is_empty() {
            return Err(io::Error::other(too_long()));
        }
        let read = self.file.read(&mut bytes[..allowed])?;
        self.left.set(self.left.get() - read);
        Ok(read)
    }
}

fn too_long() -> String {
    format!("it is longer than {} MiB", RECORD_BYTES >> 20)
}
