//! Rows: a list of records without their texts, each as a hash and a place in its file.
//!
//! Two lists are compared by their rows; the texts of the few records that differ are read again.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use record::id::Id;
use record::model::{Collection, Record, Records, strip_id};
use record::reader::pointer_to;
use roaring::RoaringTreemap;
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::ids::Ids;
use crate::node;
use crate::progress::Stage;
use crate::rejects::Rejected;
use crate::source::Source;
use crate::text::name_of;

/// A record of a list.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its position, from 1.
    pub position: u64,
    /// Its id; its position if it has no id.
    pub id: u64,
    /// The hash of its text without a given id.
    pub hash: u128,
    /// Its offset in the file.
    pub offset: u64,
    /// Its length there, in bytes.
    pub length: u32,
    /// Whether the id is given, not its own.
    pub given: bool,
    /// Whether it is rejected: then only its position is valid.
    pub rejected: bool,
}

/// A collection of a file, in order.
pub struct Rows {
    /// The collection.
    pub collection: Collection,
    /// The records.
    pub rows: Vec<Row>,
    /// The records' own ids. Of text ids their numbers, once they are known.
    pub own: RoaringTreemap,
    /// The names of the records' own text ids, with the positions; sorted once all are read.
    pub names: Vec<(u128, u64)>,
    /// The rejected records, by their positions.
    pub rejected: BTreeMap<u64, Rejected>,
    path: PathBuf,
    file: File,
    as_node: bool,
}

impl Rows {
    /// Returns an empty list for the file at `path`, which is read as Node reads it if `as_node`.
    pub fn new(path: &Path, collection: Collection, as_node: bool) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io(path))?;
        Ok(Self {
            collection,
            rows: Vec::new(),
            own: RoaringTreemap::new(),
            names: Vec::new(),
            rejected: BTreeMap::new(),
            path: path.to_owned(),
            file,
            as_node,
        })
    }

    /// Returns the file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the JSON pointer of a row.
    pub fn pointer(&self, row: &Row) -> String {
        pointer_to(self.collection, row.position - 1)
    }

    /// Reads the rows of `source`, which is opened at this list's path. `given` tells which ids in it are not the
    /// records' own. A rejected record becomes a row if `passing`, else an error.
    pub fn read(
        &mut self,
        source: &mut Source,
        given: &(impl Fn(u64) -> bool + Sync),
        passing: bool,
        stage: Option<&Stage>,
    ) -> Result<(), Error> {
        while let Some(batch) = source.next_batch()? {
            stage.iter().for_each(|stage| stage.advance(batch.size().0, batch.size().1));
            if batch.collection == self.collection {
                let (records, rejects) = batch.parse();
                let rejected: Vec<Rejected> = rejects.iter().map(Rejected::of).collect();
                if let Some(first) = rejects.into_iter().next().filter(|_| !passing) {
                    return Err(first.into_error(&self.path));
                }
                self.add(&records, rejected, given, |record| batch.span(record));
            }
            source.recycle(batch);
        }
        Ok(())
    }

    /// Adds the accepted and the rejected records of one batch; `span` returns a record's offset and length in the
    /// file.
    pub fn add(
        &mut self,
        records: &[Records],
        rejected: Vec<Rejected>,
        given: &(impl Fn(u64) -> bool + Sync),
        mut span: impl FnMut(&Record) -> (u64, u32),
    ) {
        let first = self.rows.len();
        let is_given = |record: &Record| record.id_from_position || given(record.id.get());
        let hash = |records: &Records| -> Vec<(u128, Option<u128>)> {
            let of = |record: Record| (hash_of(&record, is_given(&record)), record.id_text().map(name_of));
            records.iter().map(of).collect()
        };
        let hashes: Vec<Vec<(u128, Option<u128>)>> = records.par_iter().map(hash).collect();
        for (record, (hash, name)) in records.iter().flat_map(Records::iter).zip(hashes.into_iter().flatten()) {
            let (offset, length) = span(&record);
            let (position, id, given) = (record.position.map_or(0, Id::get), record.id.get(), is_given(&record));
            match name {
                _ if given => {}
                Some(name) => self.names.push((name, position)),
                None => drop(self.own.insert(id)),
            }
            self.rows.push(Row { position, id, hash, offset, length, given, rejected: false });
        }
        if rejected.is_empty() {
            return;
        }
        for reject in rejected {
            let position = reject.position;
            let row = Row { position, id: 0, hash: 0, offset: 0, length: 0, given: true, rejected: true };
            self.rows.push(row);
            self.rejected.insert(position, reject);
        }
        self.rows[first..].sort_by_key(|row| row.position);
    }

    /// Returns the index of the row at a position, from 1. Rejected records have rows, too.
    pub fn at(&self, position: u64) -> usize {
        (position - 1) as usize
    }

    /// Returns the index of the row with a text id's name, once the names are sorted.
    pub fn named(&self, name: u128) -> Option<usize> {
        let found = self.names.binary_search_by_key(&name, |(name, _)| *name).ok()?;
        Some(self.at(self.names[found].1))
    }

    /// Gives the records without ids of their own these `ids`.
    pub fn take_ids(&mut self, ids: &Ids) {
        for row in self.rows.iter_mut().filter(|row| row.given && !row.rejected) {
            row.id = ids.at(row.position).map_or(0, Id::get);
        }
    }

    /// Returns the ids of all positions.
    pub fn ids(&self) -> Ids {
        let mut ids = Ids::none();
        for row in self.rows.iter().filter(|row| !row.rejected) {
            if let Ok(id) = Id::try_from(row.id) {
                ids.push(row.position, id);
            }
        }
        ids
    }

    /// Reads the text id of a row's record.
    pub fn id_text(&self, row: &Row) -> Result<String, Error> {
        let id = Id::try_from(row.id).unwrap_or(Id::MAX);
        self.with_record(row, id, |record| record.id_text().unwrap_or_default().to_owned())
    }

    /// Reads a record's text, without a given id.
    pub fn text_without_given_id(&self, row: &Row) -> Result<String, Error> {
        let id = Id::try_from(row.id).unwrap_or(Id::MAX);
        self.with_record(row, id, |record| match strip_id(record.source, id) {
            Some(source) if row.given => source,
            _ => record.source.to_owned(),
        })
    }

    /// Reads the record of a row again, with `id`, and calls `with` with it.
    pub fn with_record<T>(&self, row: &Row, id: Id, with: impl FnOnce(Record) -> T) -> Result<T, Error> {
        let mut raw = vec![0; row.length as usize];
        self.file.read_exact_at(&mut raw, row.offset).map_err(Error::io(&self.path))?;
        let text = node::read(&raw).filter(|_| self.as_node);
        let text = text.unwrap_or_else(|| String::from_utf8_lossy(&raw).into_owned());
        let mut records = Records::new(self.collection, text.len());
        let read = records.push_given(&text, None, Some(id));
        let record = records.iter().next().filter(|_| read.is_ok());
        let record = record.filter(|record| hash_of(record, record.id_from_position || row.given) == row.hash);
        let changed = || Error::Difference(format!("{}: the file was changed while it was read", self.path.display()));
        Ok(with(record.ok_or_else(changed)?))
    }
}

impl Rows {
    /// Returns the rows by their ids.
    pub fn by_id(&self) -> ById<'_> {
        let ascends = self.rows.iter().zip(self.rows.iter().skip(1)).all(|(a, b)| a.id < b.id);
        let mut places: Vec<u32> = if ascends { Vec::new() } else { (0..).take(self.rows.len()).collect() };
        places.sort_unstable_by_key(|place| self.rows[*place as usize].id);
        ById { rows: &self.rows, places }
    }
}

/// Rows by their ids.
pub struct ById<'r> {
    rows: &'r [Row],
    /// The rows' indices in the order of their ids; empty if the rows are in that order.
    places: Vec<u32>,
}

impl<'r> ById<'r> {
    /// Returns the row with that id.
    pub fn get(&self, id: u64) -> Option<&'r Row> {
        let row = if self.places.is_empty() {
            &self.rows[self.rows.binary_search_by_key(&id, |row| row.id).ok()?]
        } else {
            let found = self.places.binary_search_by_key(&id, |place| self.rows[*place as usize].id).ok()?;
            &self.rows[self.places[found] as usize]
        };
        Some(row)
    }
}

/// Hashes a record's text without a `given` id.
fn hash_of(record: &Record, given: bool) -> u128 {
    let rest = if given && !record.id_from_position {
        // The split writes its ids into a slice as the first member.
        let rest = record.source.strip_prefix("{\"id\":").and_then(|rest| rest.split_once(','));
        rest.map(|(_, rest)| rest)
    } else {
        None
    };
    let digest = match rest {
        Some(rest) => Sha256::new().chain_update("{").chain_update(rest).finalize(),
        None => Sha256::digest(record.source),
    };
    u128::from_le_bytes(digest[..16].try_into().expect("a digest is longer"))
}
