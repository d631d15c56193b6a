//! A replica that begins with the newest snapshot in its broker's object store: since it is new, its disk is gone, or the
//! stream no longer has what it lacks.

use std::io::BufReader;
use std::sync::Arc;
use std::time::Duration;

use broker::{Broker, BrokerError, StoredSnapshot, StreamState};
use record::model::Collection;
use store::fill::{Counted, FillError, fill_from_backup};
use store::{Folder, StoreError};
use tokio::time::sleep;

use crate::loading::Loading;

/// The pause before the broker is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// The longest pause before snapshots are read again of which none could be loaded.
const LONG_PAUSE: Duration = Duration::from_secs(30);

/// The bytes that are read at once.
const BUFFER: usize = 256 << 10;

/// The reason why no snapshot is loaded for now.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes a database for `folder` from the newest snapshot that is whole. It takes the place of the one that is there, which may
/// be served meanwhile, when the folder is opened next. Waits for the broker, for a snapshot, and for room on the disk.
/// Returns whether there was one; if not, the stream has its first message still.
pub(crate) async fn load_newest(
    broker: &Broker,
    folder: &Arc<Folder>,
    collection: Collection,
    loading: &Loading,
) -> bool {
    let (mut told, mut pause) = (String::new(), PAUSE);
    loading.begin("looks for a snapshot");
    loop {
        let error = match try_newest(broker, folder, collection, loading).await {
            Ok(is_loaded) => return is_loaded,
            Err(error) => error,
        };
        let why = error.to_string();
        loading.begin(format!("can load no snapshot yet: {why}"));
        if told != why {
            log::warn!("{}: no snapshot can be loaded yet: {why}", folder.path().display());
            told = why;
        }
        sleep(pause).await;
        pause = if let LoadError::Broker(BrokerError::Away(_)) = error { PAUSE } else { LONG_PAUSE.min(pause * 2) };
    }
}

async fn try_newest(
    broker: &Broker,
    folder: &Arc<Folder>,
    collection: Collection,
    loading: &Loading,
) -> Result<bool, LoadError> {
    let stream = broker.state().await?;
    let path = folder.path().display();
    for snapshot in list_usable(broker, &stream).await? {
        let (sequence, bytes) = (snapshot.sequence, snapshot.bytes);
        log::info!("{path}: loads the snapshot behind message {sequence}, of {bytes} bytes");
        let Some(reader) = broker.open_snapshot(&snapshot).await? else { continue };
        let read = Arc::default();
        loading.begin_reading(format!("loads the snapshot behind message {sequence}"), bytes, Arc::clone(&read));
        let reader = BufReader::with_capacity(BUFFER, Counted::new(reader, read));
        let into = Arc::clone(folder);
        let filled = tokio::task::spawn_blocking(move || fill_from_backup(&into, collection, reader)).await;
        match filled {
            Ok(Ok(position)) => {
                log::info!("{path}: is a replica up to message {}", position.sequence);
                return Ok(true);
            }
            Ok(Err(FillError::Store(error))) => return Err(error.into()),
            // An older one may be whole. If the broker has just gone away, none is: the stream's state is asked again.
            Ok(Err(error)) => log::error!("{path}: the snapshot behind message {sequence} cannot be loaded: {error}"),
            Err(_panic) => log::error!("{path}: the snapshot behind message {sequence} makes this program panic"),
        }
        broker.state().await?;
    }
    if stream.first > 1 {
        // With less than that it could not follow.
        return Err(BrokerError::NoSnapshot(stream.first).into());
    }
    Ok(false)
}

/// Lists the snapshots from which the stream can be followed, the newest first.
async fn list_usable(broker: &Broker, stream: &StreamState) -> Result<Vec<StoredSnapshot>, BrokerError> {
    let snapshots = match broker.list_snapshots(&stream.identity).await {
        Err(BrokerError::NoStream(_)) => Vec::new(),
        listed => listed?,
    };
    Ok(snapshots.into_iter().filter(|snapshot| snapshot.sequence + 1 >= stream.first).collect())
}
