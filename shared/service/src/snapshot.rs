//! A replica that begins with the newest snapshot in its broker's object store: since it is new, its disk is gone, or the
//! stream no longer has what it lacks.

use std::io::BufReader;
use std::sync::Arc;
use std::time::Duration;

use broker::{Broker, BrokerError, StoredSnapshot, StreamState};
use record::model::Collection;
use store::Folder;
use store::fill::{FillError, fill_from_backup};
use tokio::time::sleep;

/// The pause before the broker is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// The bytes that are read at once.
const BUFFER: usize = 256 << 10;

/// Lists the snapshots from which the stream can be followed, the newest first.
pub(crate) async fn list_usable(broker: &Broker, stream: &StreamState) -> Result<Vec<StoredSnapshot>, BrokerError> {
    let snapshots = match broker.list_snapshots(&stream.identity).await {
        Err(BrokerError::NoStream(_)) => Vec::new(),
        listed => listed?,
    };
    Ok(snapshots.into_iter().filter(|snapshot| snapshot.sequence + 1 >= stream.first).collect())
}

/// Makes the database of `folder` from the newest snapshot that is whole, in place of the one that is there. Waits for the
/// broker. Returns whether there was one; if not, the stream has its first message still.
///
/// # Errors
/// The disk fails. The database that was there stays.
pub(crate) async fn load_newest(
    broker: &Broker,
    folder: &Arc<Folder>,
    collection: Collection,
) -> Result<bool, FillError> {
    let mut is_told = false;
    loop {
        match try_newest(broker, folder, collection).await {
            Ok(loaded) => return loaded,
            Err(error) => {
                if !std::mem::replace(&mut is_told, true) {
                    log::warn!("{}: no snapshot can be loaded yet: {error}", folder.path().display());
                }
                sleep(PAUSE).await;
            }
        }
    }
}

async fn try_newest(
    broker: &Broker,
    folder: &Arc<Folder>,
    collection: Collection,
) -> Result<Result<bool, FillError>, BrokerError> {
    let stream = broker.state().await?;
    let path = folder.path().display();
    for snapshot in list_usable(broker, &stream).await? {
        let (sequence, bytes) = (snapshot.sequence, snapshot.bytes);
        log::info!("{path}: loads the snapshot behind message {sequence}, of {bytes} bytes");
        let Some(reader) = broker.open_snapshot(&snapshot).await? else { continue };
        let reader = BufReader::with_capacity(BUFFER, reader);
        let into = Arc::clone(folder);
        let filled = tokio::task::spawn_blocking(move || fill_from_backup(&into, collection, reader)).await;
        match filled {
            Ok(Ok(position)) => {
                log::info!("{path}: is a replica up to message {}", position.sequence);
                return Ok(Ok(true));
            }
            Ok(Err(FillError::Store(error))) => return Ok(Err(error.into())),
            // An older one may be whole. If the broker has just gone away, none is: the stream's state is asked again.
            Ok(Err(error)) => log::error!("{path}: the snapshot behind message {sequence} cannot be loaded: {error}"),
            Err(_panic) => log::error!("{path}: the snapshot behind message {sequence} makes this program panic"),
        }
        broker.state().await?;
    }
    if stream.first > 1 {
        // With less than that it could not follow.
        return Err(BrokerError::NoSnapshot(stream.first));
    }
    Ok(Ok(false))
}
