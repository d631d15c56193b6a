//! `seed slices`: writes only the slices.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use crate::error::Error;
use crate::identity::Identity;
use crate::part_file::PartFile;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::rejects::Rejects;
use crate::report::{Report, table};
use crate::splitting::{Destination, Part, Splitting, WholeSplit};

/// Writes the slices of the file `input` to `output`, without databases.
///
/// # Errors
/// See [`Error`]; existing slices then stay unchanged.
pub fn slices(input: &Path, plan: &Plan, output: &Path, progress: Progress) -> Result<Report, Error> {
    fs::create_dir_all(output).map_err(Error::io(output))?;
    let building = tempfile::tempdir_in(output).map_err(Error::io(output))?;
    let names: Vec<String> = plan.iter().map(|collection| format!("{}.json", collection.name())).collect();
    let paths: Vec<PathBuf> = names.iter().map(|name| building.path().join(name)).collect();
    let destinations: Vec<Destination> = (plan.iter().zip(&paths))
        .map(|(collection, slice)| Destination { collection, slice, database: None })
        .collect();
    let (reading, requires_all, rest) = (&Arc::default(), false, None);
    let splitting = Splitting { path: input, plan, reading, requires_all, rest, progress };
    let WholeSplit { source, parts, absent } = splitting.split(&destinations, &mut Rejects::refuse(input))?;
    for (name, path) in names.iter().zip(&paths) {
        PartFile::adopt(path, &output.join(name))?.put_in_place()?;
    }
    Ok(sliced(input, output, &source, &parts).with_absent(&absent))
}

/// Reports slices without databases.
pub fn sliced(input: &Path, output: &Path, source: &Identity, parts: &[Part]) -> Report {
    let mut rows = vec![["collection", "bytes", "slice"].map(String::from)];
    let mut json = json!({ "outcome": "sliced" });
    for Part { collection, slice: sliced, .. } in parts {
        let slice = output.join(format!("{}.json", collection.name()));
        rows.push([collection.name().to_owned(), sliced.file.bytes.to_string(), slice.display().to_string()]);
        json[collection.name()] = sliced.file.bytes.into();
    }
    let text = format!("{} ({} bytes) is sliced:\n\n{}", input.display(), source.bytes, table(&rows));
    Report::new(text, json)
}
