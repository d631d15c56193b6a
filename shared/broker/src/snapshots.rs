//! Snapshots of a collection's database, in the broker's object store: what they hold need not stay in the stream.
//!
//! A collection's snapshots lie in a bucket of its own account. Each is a backup of one replica, named by the number of the
//! last message that the replica had applied. They outlive a stream that is made anew, so each notes whose it is.

use std::io::{self, Read};
use std::pin::pin;
use std::time::{Duration, Instant, SystemTime};

use async_nats::jetstream;
use async_nats::jetstream::object_store::{
    self, DeleteErrorKind, GetErrorKind, Object, ObjectInfo, ObjectMetadata, ObjectStore,
};
use async_nats::jetstream::stream::{StorageType, Stream};
use futures_util::TryStreamExt;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::{Broker, BrokerError, away};

/// The key in an object's metadata of the identity of the stream that the snapshot was made of.
const STREAM: &str = "stream";

/// The bytes of a chunk, each of which is acknowledged.
const CHUNK: usize = 128 << 10;

/// The time for which a snapshot's next bytes may not come.
const STALL: Duration = Duration::from_secs(30);

/// The time after which it is asked whether they can still come: an administrator may have removed the snapshot.
const LOOK: Duration = Duration::from_secs(2);

/// The time after which a snapshot that is no object yet is not being stored any more.
const BROKEN_OFF: Duration = Duration::from_secs(3600);

/// A snapshot in the object store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSnapshot {
    /// The number of the last message that it has.
    pub sequence: u64,
    /// Its length in bytes.
    pub bytes: u64,
    name: String,
}

/// Returns the name of a collection's bucket, which has letters, digits, `-` and `_` alone.
pub(crate) fn bucket_of(collection: &str) -> String {
    format!("snapshots-{}", collection.replace('_', "__").replace('.', "_2E"))
}

impl Broker {
    /// Lists the snapshots of the stream with this `identity`, the newest first.
    ///
    /// # Errors
    /// [`BrokerError::NoStream`] if there is no bucket for them, or not for this user.
    pub async fn list_snapshots(&self, identity: &str) -> Result<Vec<StoredSnapshot>, BrokerError> {
        let objects: Vec<ObjectInfo> =
            self.bucket().await?.list().await.map_err(away)?.try_collect().await.map_err(away)?;
        let of_stream =
            objects.into_iter().filter(|object| object.metadata.get(STREAM).is_some_and(|of| of == identity));
        let snapshots = of_stream.filter_map(|ObjectInfo { name, size, .. }| {
            let (sequence, _) = name.split_once('-')?;
            Some(StoredSnapshot { sequence: sequence.parse().ok()?, bytes: size as u64, name })
        });
        let mut snapshots: Vec<StoredSnapshot> = snapshots.collect();
        snapshots.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.sequence));
        Ok(snapshots)
    }

    /// Opens a snapshot; returns `None` if it is gone by now. Its bytes are read in a thread that may block, and not in the
    /// runtime's only one.
    pub async fn open_snapshot(&self, snapshot: &StoredSnapshot) -> Result<Option<SnapshotReader>, BrokerError> {
        let object = match self.bucket().await?.get(&snapshot.name).await {
            Err(error) if error.kind() == GetErrorKind::NotFound => return Ok(None),
            object => object.map_err(away)?,
        };
        let ObjectInfo { nuid, chunks, .. } = &object.info;
        let pieces = Pieces { stream: self.bucket_stream().await?, subject: self.pieces_of(nuid), count: *chunks };
        let are_there = pieces.are_there().await?;
        Ok(Some(SnapshotReader { object, pieces, are_there, runtime: Handle::current() }))
    }

    /// Stores `bytes` as a snapshot behind message `sequence` of the stream with this `identity`, beside others that may be
    /// there. Needs the key of an administrator. An interrupted one is none.
    pub async fn store_snapshot(
        &self,
        identity: &str,
        sequence: u64,
        bytes: impl AsyncRead,
    ) -> Result<(), BrokerError> {
        let about = ObjectMetadata {
            // With as many digits as the highest, so that the names' order is that of the numbers.
            name: format!("{sequence:020}-{}", self.client.new_inbox().rsplit('.').next().unwrap_or_default()),
            chunk_size: Some(CHUNK),
            metadata: [(STREAM.to_owned(), identity.to_owned())].into(),
            ..ObjectMetadata::default()
        };
        self.bucket().await?.put(about, &mut pin!(bytes)).await.map(drop).map_err(away)
    }

    /// Removes snapshots, and what is left of those whose storing was broken off an hour ago. Needs the key of an
    /// administrator.
    pub async fn remove_snapshots(&self, gone: &[StoredSnapshot]) -> Result<(), BrokerError> {
        let bucket = self.bucket().await?;
        for snapshot in gone {
            // Another may have removed it.
            match bucket.delete(&snapshot.name).await {
                Err(error) if error.kind() != DeleteErrorKind::NotFound => return Err(away(error)),
                _ => {}
            }
        }
        let objects: Vec<ObjectInfo> = bucket.list().await.map_err(away)?.try_collect().await.map_err(away)?;
        let (pieces, stream) = (self.pieces_of(""), self.bucket_stream().await?);
        let mut subjects = stream.info_with_subjects(self.pieces_of(">")).await.map_err(away)?;
        while let Some((subject, _count)) = subjects.try_next().await.map_err(away)? {
            if objects.iter().any(|object| subject.strip_prefix(&*pieces) == Some(&*object.nuid)) {
                continue;
            }
            // One that is being stored is no object yet.
            let last = stream.direct_get_last_for_subject(&subject).await.map_err(away)?;
            let age = SystemTime::now().duration_since(last.time.into()).unwrap_or_default();
            if age > BROKEN_OFF {
                stream.purge().filter(subject).await.map_err(away)?;
            }
        }
        Ok(())
    }

    /// Removes the messages before number `sequence` from the stream. Needs the key of an administrator. Returns how many
    /// there were.
    pub async fn purge(&self, sequence: u64) -> Result<u64, BrokerError> {
        let stream = self.context.get_stream(&self.stream).await.map_err(|error| self.no_stream(&error))?;
        Ok(stream.purge().sequence(sequence).await.map_err(away)?.purged)
    }

    /// Makes the bucket, unless it is there, on `replicas` of the broker's servers.
    pub(crate) async fn create_bucket(&self, replicas: usize) -> Result<(), BrokerError> {
        match self.bucket().await {
            Err(BrokerError::NoStream(_)) => {}
            found => return found.map(drop),
        }
        let config = object_store::Config {
            bucket: self.bucket.clone(),
            storage: StorageType::File,
            num_replicas: replicas,
            ..object_store::Config::default()
        };
        self.context.create_object_store(config).await.map(drop).map_err(away)
    }

    /// Returns the stream in which the bucket lies.
    async fn bucket_stream(&self) -> Result<Stream, BrokerError> {
        self.context.get_stream(format!("OBJ_{}", self.bucket)).await.map_err(away)
    }

    /// Returns the subject of an object's pieces.
    fn pieces_of(&self, nuid: &str) -> String {
        format!("$O.{}.C.{nuid}", self.bucket)
    }

    async fn bucket(&self) -> Result<ObjectStore, BrokerError> {
        self.context.get_object_store(&self.bucket).await.map_err(|error| {
            let stream = std::error::Error::source(&error).and_then(|source| source.downcast_ref());
            stream.map_or_else(|| away(&error), |error: &jetstream::context::GetStreamError| self.no_stream(error))
        })
    }
}

/// The pieces of an object.
struct Pieces {
    stream: Stream,
    subject: String,
    /// How many there have to be.
    count: usize,
}

impl Pieces {
    /// Tells whether the broker has all of them.
    async fn are_there(&self) -> Result<bool, BrokerError> {
        let subjects = self.stream.info_with_subjects(&self.subject).await.map_err(away)?;
        let counts: Vec<(String, usize)> = subjects.try_collect().await.map_err(away)?;
        Ok(counts.iter().map(|(_subject, count)| count).sum::<usize>() == self.count)
    }
}

/// A reader of a snapshot's bytes. It waits for the broker, but not forever, and not for pieces that the broker has lost or
/// that were removed. Its last read fails if the bytes are not those that were stored.
pub struct SnapshotReader {
    object: Object,
    pieces: Pieces,
    /// Whether the broker had all pieces at first.
    are_there: bool,
    runtime: Handle,
}

impl Read for SnapshotReader {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let Self { object, pieces, are_there, runtime } = self;
        let gone = || io::Error::new(io::ErrorKind::InvalidData, "the broker has lost pieces of it");
        if !*are_there {
            return Err(gone());
        }
        runtime.block_on(async {
            let begin = Instant::now();
            loop {
                match timeout(LOOK, object.read(bytes)).await {
                    Ok(read) => return read,
                    Err(elapsed) if begin.elapsed() > STALL => {
                        return Err(io::Error::new(io::ErrorKind::TimedOut, elapsed));
                    }
                    Err(_) => {}
                }
                // A broker that does not answer may come back.
                if let Ok(false) = pieces.are_there().await {
                    return Err(gone());
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_collections_have_the_same_bucket() {
        let names = ["a.b", "a_b", "a__b", "a_.b", "a._b", "a_2Eb", "a__2Eb"];
        let buckets: std::collections::BTreeSet<String> = names.iter().map(|name| bucket_of(name)).collect();
        assert_eq!(buckets.len(), names.len(), "{buckets:?}");
        assert_eq!(bucket_of("posts"), "snapshots-posts");
    }
}
