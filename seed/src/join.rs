//! The way back: one db.json from the three databases. This is the rollback to the monolith, and the backup.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use shared::id::Id;
use shared::model::Collection;
use shared::store::{OnDamage, Purpose, Store, Stored};

use crate::backup::{Chain, unpack};
use crate::error::Error;
use crate::identity::{BUFFER, part_of, put_in_place};
use crate::progress::Progress;
use crate::run::open_split;

/// Writes the databases in `data` as one file to `output`, or to standard output. Ids that the split gave are left out
/// where the position says the same, unless `with_ids`.
///
/// # Errors
/// See [`Error`]; a file at `output` is then as it was.
pub fn join(data: &Path, output: Option<&Path>, with_ids: bool) -> Result<(), Error> {
    let (_, folders) = open_split(data)?;
    let mut stores = Vec::new();
    for (collection, folder) in Collection::ALL.into_iter().zip(&folders) {
        stores.push(folder.open(collection, Purpose::Passing, OnDamage::Refuse)?);
    }
    join_stores(&stores, output, with_ids)
}

/// The same from a backup.
pub fn join_backup(chain: &Chain, output: Option<&Path>, with_ids: bool, progress: Progress) -> Result<(), Error> {
    join_stores(&unpack(chain, progress)?.stores, output, with_ids)
}

fn join_stores(stores: &[Store], output: Option<&Path>, with_ids: bool) -> Result<(), Error> {
    let Some(path) = output else {
        let out = BufWriter::with_capacity(BUFFER, io::stdout().lock());
        return write(stores, with_ids, out, Path::new("standard output")).map(drop);
    };
    let part = part_of(path);
    let file = File::create(&part).map_err(Error::io(&part))?;
    let written = write(stores, with_ids, BufWriter::with_capacity(BUFFER, file), &part)
        .and_then(|file| file.into_inner().map_err(|error| Error::io(&part)(error.into_error())))
        .and_then(|_| put_in_place(&part, path));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}

/// Writes `{"users":[…],"threads":[…],"posts":[…]}` and a line's end.
fn write<W: Write>(stores: &[Store], with_ids: bool, mut out: W, path: &Path) -> Result<W, Error> {
    let io = || Error::io(path);
    for (nth, store) in stores.iter().enumerate() {
        let open = if nth == 0 { "{" } else { "," };
        out.write_all(open.as_bytes()).map_err(io())?;
        write_array(store, with_ids, &mut out, path)?;
    }
    out.write_all(b"}\n").and_then(|()| out.flush()).map_err(io())?;
    Ok(out)
}

/// Writes `"posts":[…]`.
pub fn write_array(store: &Store, with_ids: bool, out: &mut impl Write, path: &Path) -> Result<(), Error> {
    let io = || Error::io(path);
    write!(out, "\"{}\":[", store.collection().name()).map_err(io())?;
    for (position, entry) in (1..).zip(store.records()) {
        let (id, stored) = entry?;
        let comma: &[u8] = if position > 1 { b"," } else { b"" };
        let [begin, rest] = source_json(id, &stored, !with_ids && id.get() == position);
        for piece in [comma, begin, rest] {
            out.write_all(piece).map_err(io())?;
        }
    }
    out.write_all(b"]").map_err(io())
}

/// The record as the source had it, in two pieces: without its id where that came from its position and still is it.
fn source_json(id: Id, stored: &Stored, at_its_position: bool) -> [&[u8]; 2] {
    let json = stored.json();
    if stored.id_from_position && at_its_position {
        // The split put it there as the first member, before others.
        [b"{", &json[format!("{{\"id\":{id},").len()..]]
    } else {
        [b"", json]
    }
}
