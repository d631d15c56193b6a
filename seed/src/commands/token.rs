//! Making a write token: its secret for whoever asked, its digest for the service.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

use record::model::Collection;
use record::token::{self, Name, TokenFile};
use serde_json::json;
use store::sync;

use crate::error::Error;
use crate::identity::folder_of;
use crate::part_file::PartFile;
use crate::report::Report;

/// A token that was made.
pub struct Made {
    /// What the service's log calls it.
    pub name: Name,
    /// What its owner sends. It is kept nowhere.
    pub secret: String,
    /// Where its digest is.
    pub file: PathBuf,
}

/// Where a collection's tokens are unless told otherwise: outside of the data folders, so that whoever breaks into a
/// service, and can write there, cannot make tokens for its next start.
pub fn default_file(collection: Collection) -> PathBuf {
    Path::new("tokens").join(collection.name())
}

/// Makes a token and adds it to `file`, which is made, for its owner alone, where it is not there yet. Afterwards the
/// file is there for good with its new line, or as it was. Without a name, the token is the next `token-N`.
pub fn make(collection: Collection, file: &Path, name: Option<Name>) -> Result<Made, Error> {
    // A link stays one.
    let path = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let folder = folder_of(&path);
    if !folder.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(Error::io(folder))?;
        sync(folder_of(folder))?;
    }
    // Held to the end: of two that read the same file, one would undo what the other adds.
    let lock = File::open(folder).map_err(Error::io(folder))?;
    lock.lock().map_err(Error::io(folder))?;

    let there = metadata(&path)?;
    let tokens = if there.is_some() { TokenFile::read(&path)? } else { TokenFile::default() };
    let name = name.unwrap_or_else(|| next(&tokens));
    if tokens.has(&name) {
        return Err(Error::TokenExists { file: file.to_owned(), name });
    }
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(Error::Random)?;
    let secret = token::secret(collection, random);
    let tokens = tokens.with(&path, &name, &secret)?;
    replace(&path, tokens.text(), there.as_ref())?;
    Ok(Made { name, secret, file: file.to_owned() })
}

/// What is at `path`: a file, or nothing. A device or a pipe is neither, and is not to be replaced.
fn metadata(path: &Path) -> Result<Option<Metadata>, Error> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(Some(metadata)),
        Ok(_) => Err(Error::io(path)(io::Error::other("it is no regular file; --file names another"))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path)(error)),
    }
}

/// The first free name of `token-1`, `token-2`, …, from the one that is next by count.
fn next(tokens: &TokenFile) -> Name {
    let free = |number| format!("token-{number}").parse().ok().filter(|name| !tokens.has(name));
    (tokens.count() + 1..).find_map(free).expect("a file has not every number")
}

/// Puts `text` into the place of the file at `path`, if it is `there`, for good.
fn replace(path: &Path, text: &str, there: Option<&Metadata>) -> Result<(), Error> {
    let mut part = PartFile::create_private(path)?;
    part.write(text)?;
    if let Some(there) = there {
        // Whoever could read the file still can: the service often runs as another user.
        chown(part.path(), Some(there.uid()), Some(there.gid())).map_err(Error::io(path))?;
        part.as_file().set_permissions(there.permissions()).map_err(Error::io(path))?;
    }
    part.put_in_place()
}

/// A token that was made: the only time that its secret is shown.
pub fn describe(collection: Collection, service: &str, made: &Made) -> Report {
    let Made { name, secret, file } = made;
    let (collection, file) = (collection.name(), file.display());
    let json = json!({
        "outcome": "made", "collection": collection, "name": name.to_string(), "file": file.to_string(), "secret": secret,
    });
    let note = format!(
        "That is the secret of {name}; it is not shown again, and {file} has its digest alone.\n\
         `{service} --write-token-file {file}` takes it when it starts, and when it runs already at SIGHUP:\n\
         `kill -HUP PID`, in containers `docker compose kill -s HUP {service}`. Its log says so.\n\
         Clients then send the header `Authorization: Bearer SECRET`.\n"
    );
    Report { note, is_secret: true, ..Report::new(format!("{secret}\n"), json) }
}
