//! `seed streams`: prepares the streams of replicated services at their broker.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use broker::{Begin, Broker, BrokerError, Keys, Ruled, Server, render_accounts};
use record::model::Collection;
use serde_json::json;
use store::{Folder, OnDamage, Purpose, Store};

use crate::error::Error;
use crate::inspect::open_split;
use crate::part_file::PartFile;
use crate::plan::Plan;
use crate::report::Report;

/// The file with the accounts, for nats-server to include.
const ACCOUNTS: &str = "accounts.conf";

/// The time for which a broker is asked that does not answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pause before it is asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// Returns the name of the file with the seed of a service's key.
fn service_file(collection: Collection) -> String {
    format!("{}.nk", collection.name())
}

/// Returns the name of the file with the seed of an administrator's key.
fn administrator_file(collection: Collection) -> String {
    format!("{}.admin.nk", collection.name())
}

/// Makes an account with keys for each collection, in the new or empty folder `output`.
///
/// # Errors
/// The folder has something in it, which is left as it is, or cannot be written.
pub fn make_keys(plan: &Plan, output: &Path) -> Result<Report, Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(output).map_err(Error::io(output))?;
    if fs::read_dir(output).map_err(Error::io(output))?.next().is_some() {
        let reason = "there is something in it, and keys in use must not be replaced".to_owned();
        return Err(Error::Output { path: output.to_owned(), reason });
    }
    let keys: Vec<(Collection, Keys)> = plan.iter().map(|collection| (collection, Keys::new())).collect();
    let write = |name: String, text: String| -> Result<(), Error> {
        let mut part = PartFile::create_private(&output.join(name))?;
        part.write(&text)?;
        part.put_in_place()
    };
    for (collection, keys) in &keys {
        write(service_file(*collection), keys.service_seed()? + "\n")?;
        write(administrator_file(*collection), keys.administrator_seed()? + "\n")?;
    }
    // Last: without it the keys are of no use.
    write(ACCOUNTS.to_owned(), render_accounts(keys.iter().map(|(collection, keys)| (collection.name(), keys))))?;
    let names: Vec<&str> = keys.iter().map(|(collection, _)| collection.name()).collect();
    let text = format!(
        "{}: keys for the streams of {}.\nnats-server includes {ACCOUNTS}; a service takes COLLECTION.nk as --broker-key, and \
         `seed streams create` takes this folder as --keys.\n",
        output.display(),
        names.join(", ")
    );
    Ok(Report::new(text, json!({ "outcome": "made", "folder": output.to_string_lossy(), "collections": names })))
}

/// How streams are made.
pub struct Making<'m> {
    /// The broker's servers.
    pub broker: &'m [Server],
    /// The folder with the administrators' keys; `None` if the broker asks for none.
    pub keys: Option<&'m Path>,
    /// Whether streams that are there are removed first.
    pub anew: bool,
    /// On how many of the broker's servers each stream is kept.
    pub replicas: usize,
    /// The most bytes of a stream.
    pub most: u64,
}

/// Makes the stream of each collection of the split in `data`, whose services are stopped. Its first commands are decided by
/// the declaration in `plan`, or else by the split's.
///
/// # Errors
/// A database is in use, damaged or a replica already, or the broker refuses. Streams that were made before stay.
pub fn create(data: &Path, plan: Option<&Plan>, making: &Making) -> Result<Report, Error> {
    let stores = open_databases(data)?;
    let mut begins = Vec::new();
    for (folder, store) in &stores {
        if let Some(position) = store.position()? {
            let reason = format!(
                "this database is a replica up to message {} of a stream: `seed streams leave` makes it one of its own",
                position.sequence
            );
            return Err(Error::Output { path: folder.path().to_owned(), reason });
        }
        let collection = store.collection();
        let declared = plan.map_or(Ok(collection), |plan| plan.find(collection.name()))?;
        let (name, state) = (collection.name().to_owned(), store.describe_beginning()?);
        begins.push((collection, Begin { collection: name, state, ruled: ruled(declared) }));
    }
    drop(stores);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::io(data))?;
    let made = runtime.block_on(create_all(begins, making))?;
    let mut text = String::new();
    for (collection, state, is_new) in &made {
        let what =
            if *is_new { format!("begins with {state}") } else { "is there already, and was left alone".to_owned() };
        text += &format!("The stream of {} {what}.\n", collection.name());
    }
    let streams = made.iter().map(
        |(collection, state, is_new)| json!({ "collection": collection.name(), "state": state, "is_new": is_new }),
    );
    Ok(Report::new(text, json!({ "outcome": "made", "streams": streams.collect::<Vec<_>>() })))
}

/// Connects to the broker as the administrator of a collection's stream, whose key is in the folder `keys`.
pub(crate) async fn connect(broker: &[Server], keys: Option<&Path>, collection: Collection) -> Result<Broker, Error> {
    let key = match keys {
        Some(folder) => {
            let path = folder.join(administrator_file(collection));
            Some(fs::read_to_string(&path).map_err(Error::io(&path))?)
        }
        None => None,
    };
    Ok(Broker::connect(broker, key, collection.name(), "seed streams").await?)
}

async fn create_all(
    begins: Vec<(Collection, Begin)>,
    making: &Making<'_>,
) -> Result<Vec<(Collection, String, bool)>, Error> {
    let mut made = Vec::new();
    for (collection, begin) in begins {
        let state = begin.state.clone();
        let broker = connect(making.broker, making.keys, collection).await?;
        let began = Instant::now();
        let is_new = loop {
            let removed = if making.anew { broker.remove().await } else { Ok(false) };
            let created = match removed {
                Ok(_) => broker.create(begin.clone(), making.replicas, making.most).await,
                Err(error) => Err(error),
            };
            match created {
                // Servers that have just started choose a leader first.
                Err(BrokerError::Away(_) | BrokerError::NoPlace(_))
                    if began.elapsed() < PATIENCE && !broker.is_refused() =>
                {
                    tokio::time::sleep(PAUSE).await;
                }
                created => break created?,
            }
        };
        made.push((collection, state, is_new));
    }
    Ok(made)
}

/// Returns the rules of the collection's declaration.
fn ruled(collection: Collection) -> Ruled {
    Ruled::of(serde_json::to_string(collection.declaration()).expect("a declaration can be written as JSON"))
}

/// Lets the commands in the stream of each collection of `plan` be decided by its declaration there from now on.
///
/// # Errors
/// The broker refuses, or has no snapshot: it has the declaration of before, by which a new replica decides what came
/// before. Streams that were changed over before stay so.
pub fn switch(plan: &Plan, broker: &[Server], keys: Option<&Path>) -> Result<Report, Error> {
    let io = |error| Error::Io { path: PathBuf::from("the runtime"), source: error };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io)?;
    let (mut text, mut switched) = (String::new(), Vec::new());
    for collection in plan.iter() {
        let name = collection.name();
        let sequence = runtime.block_on(async {
            let broker = connect(broker, keys, collection).await?;
            let stream = broker.state().await?;
            if broker.list_snapshots(&stream.identity).await?.is_empty() {
                let reason = "there is no snapshot, without which a new replica could not decide what came before the change; \
                              store one with `seed streams snapshot`";
                return Err(Error::Backup { path: name.to_owned(), reason: reason.to_owned() });
            }
            Ok::<_, Error>(broker.switch(ruled(collection)).await?)
        })?;
        text += &format!("From message {sequence} on, the stream of {name} is decided by the plan's declaration.\n");
        switched.push(json!({ "collection": name, "sequence": sequence }));
    }
    text += "Replicas by another declaration end within two seconds, and are to be started again.\n";
    Ok(Report::new(text, json!({ "outcome": "switched", "streams": switched })))
}

/// Lets the databases of the split in `data`, whose services are stopped, forget their streams.
///
/// # Errors
/// A database is in use or damaged.
pub fn leave(data: &Path) -> Result<Report, Error> {
    let (mut text, mut left) = (String::new(), Vec::new());
    for (folder, store) in open_databases(data)? {
        let position = store.position()?;
        let name = store.collection().name();
        match &position {
            Some(position) => {
                store.remove_position()?;
                text += &format!(
                    "{}: {name} was a replica up to message {}, and is no longer.\n",
                    folder.path().display(),
                    position.sequence
                );
            }
            None => text += &format!("{}: {name} is no replica.\n", folder.path().display()),
        }
        left.push(json!({ "collection": name, "sequence": position.map(|position| position.sequence) }));
    }
    Ok(Report::new(text, json!({ "outcome": "left", "databases": left })))
}

/// Opens the databases of the split in `data`, with their folders.
fn open_databases(data: &Path) -> Result<Vec<(Folder, Store)>, Error> {
    let (_, folders) = open_split(data)?;
    let open = |(collection, folder): (Collection, Folder)| {
        let store = folder.open(collection, Purpose::Passing, OnDamage::Refuse)?;
        Ok((folder, store))
    };
    folders.into_iter().map(open).collect()
}
