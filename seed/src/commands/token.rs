//! `seed token`: makes a write token, prints its secret and keeps its digest for the service.

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

/// A new token.
pub struct Made {
    /// Its name in the service's log.
    pub name: Name,
    /// The secret that its owner sends. It is stored nowhere.
    pub secret: String,
    /// The file with its digest.
    pub file: PathBuf,
}

/// Returns the default token file of a collection. It is outside the data folders: an intruder in a service can write
/// there, and must not make tokens for its next start.
pub fn default_file(collection: Collection) -> PathBuf {
    Path::new("tokens").join(collection.name())
}

/// Makes a token and adds it to `file`, atomically and durably. A new file is readable by its owner alone. Without a name,
/// the token is the next `token-N`.
pub fn make(collection: Collection, file: &Path, name: Option<Name>) -> Result<Made, Error> {
    // A symbolic link stays a link.
    let path = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let folder = folder_of(&path);
    if !folder.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(Error::io(folder))?;
        sync(folder_of(folder))?;
    }
    // Held to the end: two runs that read the same file would overwrite each other's token.
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

/// Returns the metadata of the file at `path`; `None` if it does not exist.
///
/// # Errors
/// A device or a pipe is there, which must not be replaced; or it cannot be read.
fn metadata(path: &Path) -> Result<Option<Metadata>, Error> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(Some(metadata)),
        Ok(_) => Err(Error::io(path)(io::Error::other("it is not a regular file; name another with --file"))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path)(error)),
    }
}

/// Returns the first free `token-N`, beginning after the number of tokens.
fn next(tokens: &TokenFile) -> Name {
    let free = |number| format!("token-{number}").parse().ok().filter(|name| !tokens.has(name));
    (tokens.count() + 1..).find_map(free).expect("a file cannot have every number")
}

/// Writes `text` to `path` durably, with the owner and permissions of the file that is `there`, if any.
fn replace(path: &Path, text: &str, there: Option<&Metadata>) -> Result<(), Error> {
    let mut part = PartFile::create_private(path)?;
    part.write(text)?;
    if let Some(there) = there {
        // The service, which often runs as another user, must still be able to read the file.
        chown(part.path(), Some(there.uid()), Some(there.gid())).map_err(Error::io(path))?;
        part.as_file().set_permissions(there.permissions()).map_err(Error::io(path))?;
    }
    part.put_in_place()
}

/// Reports a new token: the only time that its secret is shown.
pub fn describe(collection: Collection, service: &str, made: &Made) -> Report {
    let Made { name, secret, file } = made;
    let (collection, file) = (collection.name(), file.display());
    let json = json!({
        "outcome": "made", "collection": collection, "name": name.to_string(), "file": file.to_string(), "secret": secret,
    });
    let note = format!(
        "This is the secret of {name}. It is not shown again; {file} has only its digest.\n\
         `{service} --write-token-file {file}` reads the file when it starts. A running service reads it at SIGHUP:\n\
         `kill -HUP PID`, in containers `docker compose kill -s HUP {service}`. Its log says so.\n\
         Clients then send the header `Authorization: Bearer SECRET`.\n"
    );
    Report { note, is_secret: true, ..Report::new(format!("{secret}\n"), json) }
}
