//! The way back: one db.json from the databases. This is the rollback to the monolith, and the backup.
//!
//! The records follow the slices' order, which is the monolith's; records that the services added come last. Ids that the
//! split gave are left out, since the monolith's records have none. If these ids are not the records' positions, they go
//! into a file beside the joined one, and a split of that file gives the same ids again.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use record::id::Id;
use record::model::{Collection, Records, without_id};
use roaring::RoaringTreemap;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, json};
use store::{OnDamage, Purpose, Store, Stored, Writer};

use crate::chain::{Chain, slice_path, unpack};
use crate::error::Error;
use crate::identity::{BUFFER, Hashed, folder_of, identify};
use crate::ids::{self, AllGiven, Given, Ids};
use crate::inspect::open_split;
use crate::manifest::{Entry, Manifest};
use crate::part_file::PartFile;
use crate::progress::{Progress, Stage, Total};
use crate::report::Report;
use crate::slice::{closing, opening};

/// The settings of a join.
pub struct Joining<'j> {
    /// The file to write; `None` is standard output.
    pub output: Option<&'j Path>,
    /// Whether to write the ids that the split gave.
    pub with_ids: bool,
    /// The file with the collections that the split put aside, one JSON object.
    pub rest: Option<&'j Path>,
    /// The display of progress.
    pub progress: Progress,
}

/// The outcome of a join.
pub struct Joined {
    /// The number of records in each collection.
    pub records: Vec<(Collection, u64)>,
    /// The file with the ids that are left out and are not positions.
    pub ids_beside: Option<PathBuf>,
    /// Whether such ids are lost, because the output is not a file.
    pub ids_left_out: bool,
    /// Collections without a usable slice: their records are in id order.
    pub without_order: Vec<Collection>,
}

/// Writes the databases in `data` as one file.
///
/// # Errors
/// See [`Error`]; a file at the output then stays unchanged.
pub fn join(data: &Path, joining: &Joining) -> Result<Joined, Error> {
    let (manifest, folders) = open_split(data)?;
    let mut stores = Vec::new();
    let mut slices = Vec::new();
    for (collection, folder) in &folders {
        stores.push(folder.open(*collection, Purpose::Passing, OnDamage::Refuse)?);
        slices.push(folder.slice());
    }
    join_stores(&stores, Some((&manifest, &slices)), joining)
}

/// Writes the databases in a backup as one file.
pub fn join_backup(chain: &Chain, joining: &Joining) -> Result<Joined, Error> {
    let unpacked = unpack(chain, joining.progress)?;
    let split = chain.split()?;
    let slices: Vec<PathBuf> = match &split {
        Some((manifest, folder)) => manifest.collections().map(|collection| slice_path(folder, collection)).collect(),
        None => Vec::new(),
    };
    join_stores(&unpacked.stores, split.as_ref().map(|(manifest, _)| (manifest, &slices[..])), joining)
}

fn join_stores(stores: &[Store], split: Option<(&Manifest, &[PathBuf])>, joining: &Joining) -> Result<Joined, Error> {
    let rest = joining.rest.map(|path| Rest::open(path, stores)).transpose()?;
    let Some(path) = joining.output else {
        let out = BufWriter::with_capacity(BUFFER, io::stdout().lock());
        return write(stores, split, rest, joining, out, Path::new("standard output")).map(|(_, _, joined)| joined);
    };
    keep_out_of_data(path)?;
    if let Some(rest) = joining.rest
        && fs::canonicalize(path).ok() == fs::canonicalize(rest).ok()
    {
        let reason = "it is what --with reads; name another file".to_owned();
        return Err(Error::Output { path: path.to_owned(), reason });
    }
    let part = PartFile::create(path)?;
    let out = Hashed::new(BufWriter::with_capacity(BUFFER, part.as_file()), true);
    let (out, ids, mut joined) = write(stores, split, rest, joining, out, part.path())?;
    let file = out.finish().map_err(Error::io(part.path()))?;
    let beside = ids::path_beside(path);
    if joined.ids_left_out {
        // Written before the file itself: a file that exists has its ids.
        let mut part = PartFile::create(&beside)?;
        part.write(&ids::to_json(file, &ids))?;
        part.put_in_place()?;
        joined.ids_left_out = false;
        joined.ids_beside = Some(beside);
    } else if ids::is_one(&beside) {
        fs::remove_file(&beside).map_err(Error::io(&beside))?;
    }
    part.put_in_place()?;
    Ok(joined)
}

/// Refuses a path in a data folder, where a file would be taken for a slice, or worse.
///
/// # Errors
/// `path` lies in a data folder.
pub fn keep_out_of_data(path: &Path) -> Result<(), Error> {
    let folder = folder_of(path);
    let folder = fs::canonicalize(folder).map_err(Error::io(folder))?;
    for above in folder.ancestors() {
        let has_slices = || {
            let inside = fs::read_dir(above).into_iter().flatten().flatten();
            inside.map(|entry| entry.path()).any(|folder| folder.join("db.json").exists() && folder.join("db").is_dir())
        };
        // A damaged manifest counts; another program's does not.
        let is_split = match Manifest::read(above) {
            Ok(manifest) => manifest.is_some(),
            Err(Error::Occupied { .. }) => has_slices(),
            Err(_) => false,
        };
        let is_service = above.join("db/db").exists() || above.join("lock").exists() && above.join("db").is_dir();
        if is_split || is_service {
            let reason = format!("it lies in {}, where services keep their data; name a file outside", above.display());
            return Err(Error::Output { path: path.to_owned(), reason });
        }
    }
    Ok(())
}

/// Writes `{"users":[…],"threads":[…],"posts":[…]}` and a line feed; the collections in `rest` come last in the object.
fn write<W: Write>(
    stores: &[Store],
    split: Option<(&Manifest, &[PathBuf])>,
    rest: Option<Rest>,
    joining: &Joining,
    mut out: W,
    path: &Path,
) -> Result<(W, AllGiven, Joined), Error> {
    let io = || Error::io(path);
    let mut joined = Joined { records: Vec::new(), ids_beside: None, ids_left_out: false, without_order: Vec::new() };
    let mut given = AllGiven::default();
    let mut counts = Vec::new();
    for store in stores {
        counts.push(store.counted()?.count);
    }
    let stage = joining.progress.stage("joining", Total::Records(counts.iter().sum()));
    for (nth, store) in stores.iter().enumerate() {
        let open = if nth == 0 { "{" } else { "," };
        out.write_all(open.as_bytes()).map_err(io())?;
        let collection = store.collection();
        let slice = match split {
            Some((manifest, slices)) => Some(&slices[nth])
                .filter(|slice| identify(slice).is_ok_and(|slice| slice == manifest.entry(collection).slice)),
            None => None,
        };
        if slice.is_none() {
            joined.without_order.push(collection);
        }
        let written_ids = if joining.with_ids { WrittenIds::All } else { WrittenIds::Own };
        let slice = split.and_then(|(manifest, _)| Some((manifest.entry(collection), &**slice?)));
        let array = write_array(store, slice, written_ids, &mut out, path, &stage)?;
        joined.records.push((collection, array.records));
        let last_id = Writer::new(store)?.last_id();
        // A split of the file must not reuse the id of a removed record.
        joined.ids_left_out |= !array.left_out.are_positions() || last_id > array.highest_id;
        given.set(collection, Given { ids: array.left_out, last_id });
    }
    if let Some(rest) = rest {
        rest.write(&mut out, path)?;
    }
    out.write_all(b"}\n").and_then(|()| out.flush()).map_err(io())?;
    Ok((out, given, joined))
}

/// The ids to write.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum WrittenIds {
    /// The records' own ids, not those that the split gave.
    Own,
    /// The records' own ids and given ids that are not positions, as in a slice.
    Slice,
    /// All ids.
    All,
}

/// The outcome of writing a collection.
pub struct Array {
    /// The number of records.
    pub records: u64,
    /// The highest id.
    pub highest_id: u64,
    /// The ids that were left out, by position; if ids are texts, the numbers of all records.
    pub left_out: Ids,
    /// The ids that were written and that the split gave.
    pub given: RoaringTreemap,
}

/// Writes `"posts":[…]`: first the records of the slice, if any, in its order, then the others in id order. For a
/// collection that is a single record, writes the record or `null`.
pub fn write_array(
    store: &Store,
    slice: Option<(&Entry, &Path)>,
    ids: WrittenIds,
    out: &mut impl Write,
    path: &Path,
    stage: &Stage,
) -> Result<Array, Error> {
    let collection = store.collection();
    write!(out, "\"{}\":{}", collection.name(), opening(collection)).map_err(Error::io(path))?;
    let array = Array { records: 0, highest_id: 0, left_out: Ids::none(), given: RoaringTreemap::new() };
    let mut writer = ArrayWriter { collection, ids, out, path, stage, array };
    let in_slice = match slice {
        Some((entry, slice)) => writer.put_slice(store, entry, slice)?,
        None => RoaringTreemap::new(),
    };
    // The records that the service added.
    for entry in store.records() {
        let (id, stored) = entry?;
        if !in_slice.contains(id.get()) {
            writer.put(id, &stored)?;
        }
    }
    let array = writer.array;
    out.write_all(closing(collection, array.records).as_bytes()).map_err(Error::io(path))?;
    Ok(array)
}

/// A writer of a collection's records.
struct ArrayWriter<'w, W> {
    collection: Collection,
    ids: WrittenIds,
    out: &'w mut W,
    path: &'w Path,
    stage: &'w Stage,
    array: Array,
}

impl<W: Write> ArrayWriter<'_, W> {
    fn put(&mut self, id: Id, stored: &Stored) -> Result<(), Error> {
        let array = &mut self.array;
        let position = array.records + 1;
        array.records = position;
        array.highest_id = array.highest_id.max(id.get());
        self.stage.advance(0, 1);
        let leaves_out = match self.ids {
            WrittenIds::Own => true,
            WrittenIds::Slice => id.get() == position,
            WrittenIds::All => false,
        };
        if self.collection.has_text_ids() || stored.id_from_position && leaves_out {
            array.left_out.push(position, id);
        }
        if stored.id_from_position && !leaves_out {
            array.given.insert(id.get());
        }
        let comma: &[u8] = if position > 1 { b"," } else { b"" };
        let [begin, rest] = source_json(id, stored, leaves_out);
        [comma, begin, rest].into_iter().try_for_each(|piece| self.out.write_all(piece)).map_err(Error::io(self.path))
    }

    /// Writes the slice's records in its order, as the database has them now. Returns the slice's ids.
    fn put_slice(&mut self, store: &Store, entry: &Entry, slice: &Path) -> Result<RoaringTreemap, Error> {
        let mut in_slice = RoaringTreemap::new();
        let mut source = entry.open_slice(slice, entry.in_slice())?;
        // Most slices are in id order, so one scan of the database finds all records.
        let mut scan = store.records().peekable();
        let mut scanned = 0;
        while let Some(batch) = source.next_batch()? {
            let (records, rejects) = batch.parse();
            if let Some(reject) = rejects.into_iter().next() {
                return Err(reject.into_error(slice));
            }
            for record in records.iter().flat_map(Records::iter) {
                let id = record.id;
                in_slice.insert(id.get());
                if id.get() <= scanned {
                    if let Some(stored) = store.get(id)? {
                        self.put(id, &stored)?;
                    }
                    continue;
                }
                while let Some(entry) = scan.next_if(|entry| entry.as_ref().map_or(true, |(next, _)| *next <= id)) {
                    let (next, stored) = entry?;
                    if next == id {
                        self.put(id, &stored)?;
                    }
                }
                scanned = id.get();
            }
            source.recycle(batch);
        }
        Ok(in_slice)
    }
}

/// Returns the record as the source had it, in two pieces. `leaves_out` removes an id that the split gave.
fn source_json(id: Id, stored: &Stored, leaves_out: bool) -> [&[u8]; 2] {
    let json = stored.json();
    if stored.id_from_position && leaves_out { [b"{", without_id(json, id)] } else { [b"", json] }
}

/// The collections that the split put aside.
struct Rest {
    path: PathBuf,
    is_empty: bool,
}

impl Rest {
    /// Opens and checks the file: it must hold an object without the services' collections.
    fn open(path: &Path, stores: &[Store]) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io(path))?;
        let mut deserializer = serde_json::Deserializer::from_reader(BufReader::with_capacity(BUFFER, file));
        let names = deserializer.deserialize_map(Names).and_then(|names| deserializer.end().map(|()| names));
        let wrong = |place: String, reason: String| Error::Input { file: path.to_owned(), kind: None, place, reason };
        let names = names.map_err(|error| match error.is_io() {
            true => Error::io(path)(error.into()),
            false => wrong("the file".to_owned(), format!("it is not a file that --rest wrote: {error}")),
        })?;
        let owned = |name: &&String| stores.iter().any(|store| store.collection().name() == **name);
        if let Some(name) = names.iter().find(owned) {
            return Err(wrong(format!("/{name}"), "a service owns this collection".to_owned()));
        }
        Ok(Self { path: path.to_owned(), is_empty: names.is_empty() })
    }

    /// Writes the collections after the object's other members.
    fn write(&self, out: &mut impl Write, to: &Path) -> Result<(), Error> {
        if self.is_empty {
            return Ok(());
        }
        let mut file = BufReader::with_capacity(BUFFER, File::open(&self.path).map_err(Error::io(&self.path))?);
        // Copies the text between the first and the last bracket; outside is only space.
        let mut piece = vec![0; BUFFER];
        let (mut kept, mut begun) = (Vec::new(), false);
        loop {
            let read = file.read(&mut piece).map_err(Error::io(&self.path))?;
            if read == 0 {
                break;
            }
            let mut piece = &piece[..read];
            if !begun && let Some(at) = piece.iter().position(|byte| *byte == b'{') {
                piece = &piece[at + 1..];
                begun = true;
                out.write_all(b",").map_err(Error::io(to))?;
            } else if !begun {
                continue;
            }
            // Only the end shows which bracket is the last: the text from the latest one is held back.
            if let Some(at) = piece.iter().rposition(|byte| *byte == b'}') {
                out.write_all(&kept).and_then(|()| out.write_all(&piece[..at])).map_err(Error::io(to))?;
                kept = piece[at..].to_vec();
            } else {
                kept.extend_from_slice(piece);
            }
        }
        Ok(())
    }
}

/// A visitor that collects the names of an object's members.
struct Names;

impl<'de> Visitor<'de> for Names {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object of collections")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Vec<String>, A::Error> {
        Err(A::Error::custom("expected an object of collections, found a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<String>, A::Error> {
        let mut names = Vec::new();
        while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
            names.push(name);
        }
        Ok(names)
    }
}

/// Reports a join. The report's text is empty if standard output has the file.
pub fn describe(output: Option<&Path>, joined: &Joined) -> Report {
    let mut note = String::new();
    for collection in &joined.without_order {
        let _ =
            writeln!(note, "{}: the slice is missing or changed, so the records are in id order.", collection.name());
    }
    if joined.ids_left_out {
        note += "Some ids are no longer the records' positions: a split of this output gives other ids. \
                 --output FILE writes the ids beside FILE, --ids writes them into the records.\n";
    }
    let Some(path) = output else { return Report { note, ..Report::new(String::new(), Value::Null) } };
    let mut text = format!("{} is joined.\n", path.display());
    if let Some(beside) = &joined.ids_beside {
        let _ =
            writeln!(text, "{} has the ids that are not positions; a split of the file needs it.", beside.display());
    }
    let records: serde_json::Map<String, Value> =
        joined.records.iter().map(|(collection, records)| (collection.name().to_owned(), json!(records))).collect();
    let beside = joined.ids_beside.as_ref().map(|path| path.to_string_lossy());
    let json = json!({
        "outcome": "joined", "output": path.to_string_lossy(), "ids": beside, "records": records,
    });
    Report { note, ..Report::new(text, json) }
}
