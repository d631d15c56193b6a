//! What a split writes beside itself, and only when it is done: what is put aside, and what was found.

use std::env;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use tempfile::{NamedTempFile, TempPath};

use crate::commands::join::keep_out_of_data;
use crate::error::Error;
use crate::identity::{folder_of, is_device, part_of, put_in_place};
use crate::options::Options;
use crate::rejects::Rejects;

/// What is written beside the split: whole, but not yet in its place.
pub(crate) struct Aside {
    rest: Option<(TempPath, PathBuf)>,
    rejects: Option<(TempPath, PathBuf)>,
    conflicts: Option<(TempPath, PathBuf)>,
}

impl Aside {
    pub(crate) fn begin(options: &Options) -> Result<Self, Error> {
        // Gone again unless it is put into its place.
        let begin = |path: &Option<PathBuf>| {
            let Some(path) = path else { return Ok(None) };
            let part = if is_device(path) {
                NamedTempFile::new().map_err(Error::io(&env::temp_dir()))?.into_temp_path()
            } else {
                let part = part_of(path);
                File::create(&part).map_err(Error::io(&part))?;
                TempPath::try_from_path(part).map_err(Error::io(path))?
            };
            Ok::<_, Error>(Some((part, path.to_owned())))
        };
        let [rest, rejects, conflicts] = [&options.rest, &options.rejects, &options.conflicts].map(begin);
        Ok(Self { rest: rest?, rejects: rejects?, conflicts: conflicts? })
    }

    /// Where the collections that no service owns go.
    pub(crate) fn rest(&self) -> Option<&Path> {
        self.rest.as_ref().map(|(part, _)| &**part)
    }

    /// What takes the rejects of `input`.
    pub(crate) fn rejects(&self, input: &Path, options: &Options) -> Result<Rejects, Error> {
        let Some((part, _)) = &self.rejects else { return Ok(Rejects::refuse(input)) };
        let out = BufWriter::new(File::create(part).map_err(Error::io(part))?);
        Ok(Rejects::write(input, Box::new(out), options.max_rejects.unwrap_or(u64::MAX)))
    }

    /// Who gets no split because there are too many rejects can at least look at them.
    pub(crate) fn unless_too_many<T>(&self, outcome: Result<T, Error>, rejects: &mut Rejects) -> Result<T, Error> {
        if let (Err(_), true, Some((part, path))) = (&outcome, rejects.are_too_many(), &self.rejects) {
            rejects.flush()?;
            put_in_place(part, path)?;
        }
        outcome
    }

    /// Puts it all into place.
    pub(crate) fn put_in_place(self) -> Result<(), Error> {
        for (part, path) in [self.rest, self.rejects, self.conflicts].into_iter().flatten() {
            put_in_place(&part, &path)?;
        }
        Ok(())
    }

    /// Whether there is nothing to be written.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_none() && self.rejects.is_none()
    }

    /// Puts that into place which says what is in the way: there is nothing else then.
    pub(crate) fn put_findings_in_place(self) -> Result<(), Error> {
        Self { rest: None, ..self }.put_in_place()
    }

    /// What takes the conflicts.
    pub(crate) fn conflicts(&self) -> Result<Option<Box<dyn Write>>, Error> {
        let Some((part, _)) = &self.conflicts else { return Ok(None) };
        Ok(Some(Box::new(BufWriter::new(File::create(part).map_err(Error::io(part))?))))
    }
}

/// What is written beside the split goes neither into a data folder, nor over the input or each other.
pub(crate) fn check_outputs(input: &Path, options: &Options) -> Result<(), Error> {
    let mut others: Vec<PathBuf> =
        [Some(input), options.resolutions.as_deref()].into_iter().flatten().map(resolve).collect();
    for path in [&options.rest, &options.rejects, &options.conflicts].into_iter().flatten() {
        keep_out_of_data(path)?;
        let resolved = resolve(path);
        if others.contains(&resolved) {
            let reason = "it is what is read, or written for another option; name another file".to_owned();
            return Err(Error::Output { path: path.clone(), reason });
        }
        others.push(resolved);
    }
    Ok(())
}

/// Where a path leads, as far as that is there.
fn resolve(path: &Path) -> PathBuf {
    let of_folder = || {
        let folder = fs::canonicalize(folder_of(path)).unwrap_or_else(|_| folder_of(path).to_owned());
        folder.join(path.file_name().unwrap_or_default())
    };
    fs::canonicalize(path).unwrap_or_else(|_| of_folder())
}

/// Whether what was put aside, of which only brackets and strings were looked at, is JSON.
pub(crate) fn check_rest(input: &Path, part: Option<&Path>) -> Result<(), Error> {
    let Some(part) = part else { return Ok(()) };
    let file = File::open(part).map_err(Error::io(part))?;
    match serde_json::from_reader::<_, IgnoredAny>(BufReader::new(file)) {
        Ok(IgnoredAny) => Ok(()),
        Err(error) if error.is_io() => Err(Error::io(part)(error.into())),
        Err(error) => Err(Error::Input {
            file: input.to_owned(),
            place: "a collection that no service owns".to_owned(),
            reason: format!("it is not JSON: {}", record::json::reason_of(&error)),
        }),
    }
}
