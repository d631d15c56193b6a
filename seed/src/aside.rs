//! The files that a command writes beside the split, and puts into place at its end: `--rest`, `--rejects` and
//! `--conflicts`.

use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;

use crate::commands::join::keep_out_of_data;
use crate::error::Error;
use crate::identity::folder_of;
use crate::obstacle::Kind;
use crate::options::Options;
use crate::part_file::PartFile;
use crate::rejects::Rejects;

/// The files beside the split, not yet in place.
pub(crate) struct Aside {
    rest: Option<PartFile>,
    rejects: Option<PartFile>,
    conflicts: Option<PartFile>,
}

impl Aside {
    pub(crate) fn begin(options: &Options) -> Result<Self, Error> {
        let begin = |path: &Option<PathBuf>| path.as_deref().map(PartFile::create).transpose();
        let [rest, rejects, conflicts] = [&options.rest, &options.rejects, &options.conflicts].map(begin);
        Ok(Self { rest: rest?, rejects: rejects?, conflicts: conflicts? })
    }

    /// Returns the writer for collections that no service owns.
    pub(crate) fn rest(&self) -> Result<Option<Box<dyn Write + Send>>, Error> {
        write_to(&self.rest)
    }

    /// Returns the handling of the rejects of `input`.
    pub(crate) fn rejects(&self, input: &Path, options: &Options) -> Result<Rejects, Error> {
        let max = options.max_rejects.unwrap_or(u64::MAX);
        Ok(write_to(&self.rejects)?.map_or_else(|| Rejects::refuse(input), |out| Rejects::write(input, out, max)))
    }

    /// Returns the writer for conflicts.
    pub(crate) fn conflicts(&self) -> Result<Option<Box<dyn Write + Send>>, Error> {
        write_to(&self.conflicts)
    }

    /// Checks that the collections put aside are JSON: only their brackets and strings were read so far.
    pub(crate) fn check_rest(&self, input: &Path) -> Result<(), Error> {
        let Some(part) = self.rest.as_ref().map(PartFile::path) else { return Ok(()) };
        let file = File::open(part).map_err(Error::io(part))?;
        match serde_json::from_reader::<_, IgnoredAny>(BufReader::new(file)) {
            Ok(IgnoredAny) => Ok(()),
            Err(error) if error.is_io() => Err(Error::io(part)(error.into())),
            Err(error) => Err(Error::Input {
                file: input.to_owned(),
                kind: Some(Kind::Json),
                place: "a collection that no service owns".to_owned(),
                reason: format!("it is not JSON: {}", record::json::reason_of(&error)),
            }),
        }
    }

    /// Publishes the rejects file even when too many rejects end the run.
    pub(crate) fn unless_too_many<T>(&mut self, outcome: Result<T, Error>, rejects: &mut Rejects) -> Result<T, Error> {
        if outcome.is_err()
            && rejects.are_too_many()
            && let Some(part) = self.rejects.take()
        {
            rejects.flush()?;
            part.put_in_place()?;
        }
        outcome
    }

    /// Puts all files into place.
    pub(crate) fn put_in_place(self) -> Result<(), Error> {
        [self.rest, self.rejects, self.conflicts].into_iter().flatten().try_for_each(PartFile::put_in_place)
    }

    /// Tells whether neither collections nor rejects are put aside.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_none() && self.rejects.is_none()
    }

    /// Puts the rejects and conflicts into place without the rest: nothing else is published then.
    pub(crate) fn put_findings_in_place(self) -> Result<(), Error> {
        Self { rest: None, ..self }.put_in_place()
    }
}

fn write_to(part: &Option<PartFile>) -> Result<Option<Box<dyn Write + Send>>, Error> {
    Ok(match part {
        Some(part) => Some(Box::new(part.writer()?)),
        None => None,
    })
}

/// Checks that the files beside the split are neither in a data folder, nor an input, nor the same file twice.
pub(crate) fn check_outputs(input: &Path, options: &Options) -> Result<(), Error> {
    let mut others: Vec<PathBuf> =
        [Some(input), options.resolutions.as_deref()].into_iter().flatten().map(resolve).collect();
    for path in [&options.rest, &options.rejects, &options.conflicts].into_iter().flatten() {
        keep_out_of_data(path)?;
        let resolved = resolve(path);
        if others.contains(&resolved) {
            let reason = "it is an input, or the file of another option; name another file".to_owned();
            return Err(Error::Output { path: path.clone(), reason });
        }
        others.push(resolved);
    }
    Ok(())
}

/// Resolves a path as far as it exists.
fn resolve(path: &Path) -> PathBuf {
    let of_folder = || {
        let folder = fs::canonicalize(folder_of(path)).unwrap_or_else(|_| folder_of(path).to_owned());
        folder.join(path.file_name().unwrap_or_default())
    };
    fs::canonicalize(path).unwrap_or_else(|_| of_folder())
}
