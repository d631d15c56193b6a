//! `seed streams snapshot`: stores snapshots of running replicas at their broker, so that the streams can be shortened.
//!
//! A message is removed only when two snapshots have it, each read back from the broker whole just before.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;
use std::time::{Duration, Instant};

use broker::{Broker, Server, StoredSnapshot};
use record::model::Collection;
use record::record_set::RecordSet;
use record::words::agree;
use serde::Serialize;
use serde_json::json;
use store::backup::{BackupError, Head, Section};

use crate::commands::backup::copy_section;
use crate::commands::streams::connect;
use crate::error::Error;
use crate::identity::BUFFER;
use crate::progress::{Progress, Total};
use crate::report::{Report, table};

/// The number of snapshots that are kept of each collection.
const KEPT: usize = 2;

/// The time that each of the broker's servers has to know of a new snapshot.
const BEHIND: Duration = Duration::from_secs(10);

/// The pause before it is looked for again.
const PAUSE: Duration = Duration::from_millis(200);

/// Where snapshots come from and go to.
pub struct Storing<'s> {
    /// The entrance, or replicas.
    pub from: &'s [String],
    /// The file with the secrets of write tokens, one a line.
    pub secrets: &'s Path,
    /// The broker's servers.
    pub broker: &'s [Server],
    /// The folder with the administrators' keys; `None` if the broker asks for none.
    pub keys: Option<&'s Path>,
}

/// What became of a collection's stream.
#[derive(Serialize)]
struct Stored {
    collection: String,
    /// The message behind which the new snapshot was taken.
    sequence: u64,
    records: u64,
    bytes: u64,
    /// The number of messages that were removed, and of the first that is left.
    removed: u64,
    first: u64,
}

/// What became of the streams of all collections.
pub struct Round {
    stored: Vec<Stored>,
    failed: Vec<(Collection, Error)>,
}

impl Round {
    /// Returns the collections that failed.
    pub fn failed(&self) -> Vec<Collection> {
        self.failed.iter().map(|(collection, _)| *collection).collect()
    }

    /// Returns the report, or an error that names all that failed.
    pub fn finish(mut self) -> Result<Report, Error> {
        if self.failed.is_empty() {
            return Ok(describe(&self.stored));
        }
        if self.failed.len() == 1 && self.stored.is_empty() {
            return Err(self.failed.remove(0).1);
        }
        let failed: Vec<String> = self.failed.iter().map(|(_, error)| format!("  {error}")).collect();
        let stored: Vec<&str> = self.stored.iter().map(|stored| &*stored.collection).collect();
        let stored = if stored.is_empty() { "none".to_owned() } else { stored.join(", ") };
        let reason = format!("not all are stored:\n{}\nStored: {stored}", failed.join("\n"));
        Err(Error::Backup { path: "snapshots".to_owned(), reason })
    }
}

/// Stores a snapshot of each of `collections`, and removes from its stream what the older of two snapshots has. One that
/// fails keeps its stream as it is, and does not keep the others from theirs: a replica or the broker does not answer, or a
/// backup is not whole or of another stream.
pub fn store_all(collections: &[Collection], storing: &Storing, progress: Progress) -> Round {
    let mut round = Round { stored: Vec::new(), failed: Vec::new() };
    for &collection in collections {
        match store_one(collection, storing, progress) {
            Ok(stored) => round.stored.push(stored),
            Err(error) => round.failed.push((collection, error)),
        }
    }
    round
}

fn store_one(collection: Collection, storing: &Storing, progress: Progress) -> Result<Stored, Error> {
    let (folder, path) = (std::env::temp_dir(), format!("the backup of {}", collection.name()));
    let path = Path::new(&path);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::io(path))?;
    // It has no name, so that nothing is left of it, however this ends.
    let mut file = tempfile::tempfile().map_err(Error::io(&folder))?;
    let stage = progress.stage("backing up", Total::Records(0));
    copy_section(storing.from, storing.secrets, collection, &file, path)?;
    file.rewind().map_err(Error::io(path))?;
    let head = prove(&file, collection).map_err(|error| broken(collection, error.to_string()))?;
    drop(stage);
    file.rewind().map_err(Error::io(path))?;
    let _stage = progress.stage("storing", Total::Unknown);
    runtime.block_on(store(collection, &head, file, storing))
}

async fn store(collection: Collection, head: &Head, file: File, storing: &Storing<'_>) -> Result<Stored, Error> {
    let name = collection.name();
    let none =
        "the service is no replica of a stream, or is apart from the others: a snapshot is taken of one that follows";
    let position = head.position.as_ref().ok_or_else(|| broken(collection, none.to_owned()))?;
    let broker = connect(storing.broker, storing.keys, collection).await?;
    let stream = broker.state().await?;
    if position.stream != stream.identity || position.sequence > stream.last {
        let reason = format!("the replica follows another stream of {name} than the one at this broker");
        return Err(broken(collection, reason));
    }
    if position.sequence + 1 < stream.first {
        let reason = format!(
            "the replica has applied {} messages, and the stream begins with {} already: ask one that is not behind",
            position.sequence, stream.first
        );
        return Err(broken(collection, reason));
    }
    let mut proven = Proven::default();
    let before = broker.list_snapshots(&stream.identity).await?;
    for snapshot in before.iter().filter(|snapshot| snapshot.sequence == position.sequence) {
        proven.read(&broker, collection, snapshot).await?;
    }
    // A stream that is full moves on only if two have the same messages.
    if proven.whole.len() < KEPT {
        broker.store_snapshot(&stream.identity, position.sequence, tokio::fs::File::from_std(file)).await?;
    }
    let stored = Instant::now();
    let (listed, proven, bytes) = loop {
        let listed = broker.list_snapshots(&stream.identity).await?;
        let mut proven = Proven::default();
        for snapshot in &listed {
            if proven.whole.len() < KEPT {
                proven.read(&broker, collection, snapshot).await?;
            }
        }
        match proven.whole.first().filter(|newest| newest.sequence >= position.sequence).map(|newest| newest.bytes) {
            Some(bytes) => break (listed, proven, bytes),
            // The server that answers may be behind the others.
            None if stored.elapsed() < BEHIND => tokio::time::sleep(PAUSE).await,
            None => return Err(broken(collection, "the new snapshot does not read back as it was stored".to_owned())),
        }
    };
    let mut removed = 0;
    let mut gone = proven.broken;
    if let Some(older) = proven.whole.get(KEPT - 1) {
        removed = broker.purge(older.sequence).await?;
        gone.extend(listed.iter().filter(|snapshot| snapshot.sequence < older.sequence).cloned());
    }
    broker.remove_snapshots(&gone).await?;
    let stream = broker.state().await?;
    Ok(Stored {
        collection: name.to_owned(),
        sequence: position.sequence,
        records: head.records,
        bytes,
        removed,
        first: stream.first,
    })
}

/// Snapshots that were read to their ends.
#[derive(Default)]
struct Proven {
    whole: Vec<StoredSnapshot>,
    broken: Vec<StoredSnapshot>,
}

impl Proven {
    /// Reads a snapshot, unless it is gone by now.
    async fn read(&mut self, broker: &Broker, collection: Collection, snapshot: &StoredSnapshot) -> Result<(), Error> {
        let Some(reader) = broker.open_snapshot(snapshot).await? else { return Ok(()) };
        let read = tokio::task::spawn_blocking(move || prove(reader, collection)).await;
        match read.map_err(|panic| broken(collection, panic.to_string()))? {
            Ok(head) if head.position.as_ref().is_some_and(|position| position.sequence == snapshot.sequence) => {
                self.whole.push(snapshot.clone());
            }
            // It is not the bytes' fault.
            Err(BackupError::Io(error)) if error.kind() != std::io::ErrorKind::InvalidData => {
                return Err(broken(collection, format!("the broker does not send a snapshot: {error}")));
            }
            _ => self.broken.push(snapshot.clone()),
        }
        Ok(())
    }
}

/// Reads a whole backup to its end; returns its first line.
fn prove(input: impl Read, collection: Collection) -> Result<Head, BackupError> {
    let input = BufReader::with_capacity(BUFFER, input);
    let mut section = Section::open(input, &[collection])?.ok_or(BackupError::Short)?;
    let head = section.head().clone();
    let mut set = RecordSet::default();
    for record in section.by_ref() {
        let record = record?;
        set.add_record(record.id, record.id_from_position, &record.json);
    }
    // The broker judges the bytes at the last.
    std::io::copy(&mut section.finish()?.1, &mut std::io::sink())?;
    if head.since.is_some() || !head.is_of(&set) {
        return Err(BackupError::Different { read: set.count, digest: set.to_string(), head: Box::new(head) });
    }
    Ok(head)
}

fn broken(collection: Collection, reason: String) -> Error {
    Error::Backup { path: collection.name().to_owned(), reason }
}

fn describe(stored: &[Stored]) -> Report {
    let mut rows =
        vec![["collection", "behind message", "records", "bytes", "removed", "stream begins with"].map(String::from)];
    for Stored { collection, sequence, records, bytes, removed, first } in stored {
        let [sequence, records, bytes, removed, first] = [sequence, records, bytes, removed, first].map(u64::to_string);
        rows.push([collection.clone(), sequence, records, bytes, removed, first]);
    }
    let removed: u64 = stored.iter().map(|stored| stored.removed).sum();
    let text = format!(
        "The snapshots are at the broker, and read back whole. {removed} {} that two of them have {} removed:\n\n{}",
        agree(removed, "message", "messages"),
        agree(removed, "was", "were"),
        table(&rows)
    );
    Report::new(text, json!({ "outcome": "stored", "snapshots": stored }))
}
