//! Changes a database as its service would, and looks at the result.
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::path::Path;
use std::{fs, io};

use ::seed::plan::Plan;
use record::id::Id;
use record::model::{Collection, Records};
use store::{Change, Purpose, Store, Writer};

use super::{seed, text};

/// Returns a collection of the workspace.
pub fn collection(name: &str) -> Collection {
    Plan::workspace().named(name).unwrap()
}

/// Changes records as their service does: puts `json`, or removes the record if it is `None`.
pub fn change(data: &Path, collection: Collection, changes: &[(u64, Option<&str>)]) {
    let store = Store::open(&data.join(collection.name()).join("db"), collection, Purpose::Serving).unwrap();
    let mut records = Records::new(collection, 0);
    let mut gone = Vec::new();
    for (id, json) in changes {
        match json {
            Some(json) => records.push(json, None).unwrap(),
            None => gone.push(Change::Remove(Id::try_from(*id).unwrap())),
        }
    }
    let mut writer = Writer::new(&store).unwrap();
    let changes: Vec<Change> =
        records.iter().map(|record| Change::Put(record, writer.next_revision())).chain(gone).collect();
    writer.apply(&changes).unwrap();
    store.sync().unwrap();
}

/// Returns what `seed join` prints.
pub fn joined(data: &Path) -> String {
    let output = seed(["join", "--data", data.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// Rewrites the manifest in `data` in the first version's format.
pub fn make_manifest_old(data: &Path) {
    let path = data.join("manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let collections = manifest.as_object_mut().unwrap().remove("collections").unwrap();
    for (name, entry) in collections.as_object().unwrap() {
        let mut entry = entry.clone();
        entry.as_object_mut().unwrap().remove("declaration").unwrap();
        manifest[name] = entry;
    }
    manifest["version"] = 1.into();
    fs::write(path, manifest.to_string()).unwrap();
}

/// Copies the folder `from` of a closed database to `to`, which must not exist.
pub fn copy_database(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let copy = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_database(&entry.path(), &copy)?;
        } else {
            fs::copy(entry.path(), copy)?;
        }
    }
    Ok(())
}
