//! The commands that a service's program runs on its folder: `scrub` and `compact`.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use record::model::Collection;
use store::{Folder, OnDamage, Purpose, Scrub, Snapshot, StoreError};

use crate::check;
use crate::logging::start_log;

/// Reads and checks everything: through the service that listens on `listen`, or here if none does. Returns the report.
///
/// # Errors
/// Something is damaged, or the check fails.
pub fn scrub(listen: SocketAddr, data: &Path, collection: Collection, on_damage: OnDamage) -> Result<String, String> {
    match check::scrub(listen) {
        Ok((true, report)) => return Ok(report),
        Ok((false, report)) => return Err(report),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
        Err(error) => return Err(format!("http://{listen}/scrub: {error}")),
    }
    start_log(None);
    let scrub = || -> Result<Scrub, StoreError> {
        let store = Folder::lock(data)?.open(collection, Purpose::Passing, on_damage)?;
        let scrub = Scrub::run(&store, Snapshot::of(&store)?, false, &AtomicBool::new(false));
        Ok(scrub.expect("nobody ends it"))
    };
    let scrub = scrub().map_err(|error| error.to_string())?;
    if scrub.damaged == 0 { Ok(scrub.to_string()) } else { Err(scrub.to_string()) }
}

/// Rewrites the database in `data`. Returns a line with its size before and after.
///
/// # Errors
/// The database cannot be rewritten; it stays as it was.
pub fn compact(data: &Path, collection: Collection, on_damage: OnDamage) -> Result<String, String> {
    start_log(None);
    let compacted = Folder::lock(data).and_then(|folder| folder.compact(collection, on_damage));
    let (before, after) = compacted.map_err(|error| error.to_string())?;
    let path = data.join("db");
    Ok(format!("{}: {} KiB on the disk, {} KiB before\n", path.display(), after >> 10, before >> 10))
}
