//! Why a split did not happen, and the exit code that says so.

use std::io;
use std::path::{Path, PathBuf};

use record::token::{Name, TokenFileError};
use serde_json::{Value, json};
use store::StoreError;
use store::desk::DeskError;

use crate::obstacle::{Obstacle, Obstacles, shorten};

/// What a command came to, where that is no success.
#[derive(Debug)]
pub struct Outcome {
    /// For people.
    pub text: String,
    /// For programs: an object.
    pub json: Value,
    /// What the program ends with.
    pub exit_code: u8,
}

/// A failure, for people and for scripts.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input is not a monolith's db.json.
    #[error("{}: {}: {reason}\nNothing was changed. Correct the file and run `seed` again.", .file.display(), shorten(.place))]
    Input {
        /// The input file.
        file: PathBuf,
        /// JSON pointer and byte offset.
        place: String,
        /// What is wrong there.
        reason: String,
    },
    /// The input is not one, and what is in the way of its split is known, with the way on.
    #[error("{}: {found}Nothing was changed.", .file.display())]
    Obstacles {
        /// The input file.
        file: PathBuf,
        /// The reasons.
        found: Obstacles,
    },
    /// Nothing in the file is a collection that a service could have.
    #[error("nothing in {} can be a service: {why}\nNothing was written.", .file.display())]
    NoService {
        /// The input file.
        file: PathBuf,
        /// Each member with its reason.
        why: String,
    },
    /// A plan or a declaration is none.
    #[error("{}: {reason}\nNothing was changed.", .path.display())]
    Plan {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The command line names a collection that there is not.
    #[error("there is no collection {name:?}: there are {known}")]
    NoCollection {
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// References lead nowhere, and that was not to be.
    #[error("{text} --strict refuses them. Nothing was changed.")]
    Orphans {
        /// Which.
        text: String,
        /// The same for scripts.
        json: Value,
    },
    /// What was read back is not what the source holds.
    #[error("{0}")]
    Difference(String),
    /// A database, a slice or a backup is not what it was.
    #[error("{0}\n`seed restore` puts a backup in its place; the service's --accept-loss keeps what is whole.")]
    Damaged(String),
    /// A backup cannot be read, or is not what it says.
    #[error("{path}: {reason}")]
    Backup {
        /// The backup, or what it was read from.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The file and a service have changed the same record, each in another way.
    #[error(
        "{}\nNothing was changed. --prefer monolith takes the file's version of such records, --prefer service the service's.",
        .0.text.trim_end()
    )]
    Conflicts(Outcome),
    /// The monolith does not answer as one.
    #[error("{0}; is this the monolith?")]
    Monolith(String),
    /// What the services answer is not what the monolith does, or that cannot be told; the report has the exit code.
    #[error("{}", .0.text.trim_end())]
    Compared(Outcome),
    /// The target holds something that is not to be overwritten.
    #[error("{}: {holds}. Nothing was changed. --replace puts the split of this file in its place; another --data leaves it alone.", .data.display())]
    Occupied {
        /// The data folder.
        data: PathBuf,
        /// What was found there.
        holds: String,
    },
    /// What is to be written must not go there.
    #[error("{}: {reason}. Nothing was changed.", .path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The token file has a token of that name.
    #[error("{}: there is a token {name} already. Nothing was changed. --name gives the new one another name.", .file.display())]
    TokenExists {
        /// The token file.
        file: PathBuf,
        /// The name.
        name: Name,
    },
    /// A token file is none, or has no room.
    #[error("{0}. Nothing was changed.")]
    Tokens(#[from] TokenFileError),
    /// There is no randomness for a secret.
    #[error("the system gives no random bytes: {0}. Nothing was changed.")]
    Random(getrandom::Error),
    /// A service that was asked for something, or a database's committer.
    #[error("{0}")]
    Service(DeskError),
    /// A run committed, and did not come to its end.
    #[error(
        "{0}\nThe newer file is taken, but a part of what it changes is not applied yet: run the same command again, it finishes the job."
    )]
    Unfinished(Box<Error>),
    /// A service changes the same records again and again.
    #[error("{}: its services change the same records meanwhile, again and again. Nothing was changed. Try again.", .0.display())]
    Overtaken(PathBuf),
    /// A database or its folder.
    #[error("{}", describe(.0))]
    Store(#[from] StoreError),
    /// A file.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: what the system said about `path`.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    }

    /// The same of what has another name for people than the file it was read from; `named` says it in a text.
    pub fn renamed(self, path: &Path, name: &str, named: impl Fn(String) -> String) -> Error {
        let rename = |file: PathBuf| if file == path { PathBuf::from(name) } else { file };
        match self {
            Error::Input { file, place, reason } => Error::Input { file: rename(file), place, reason },
            Error::Obstacles { file, found } => Error::Obstacles { file: rename(file), found },
            Error::Io { path, source } => Error::Io { path: rename(path), source },
            Error::Difference(text) => Error::Difference(named(text)),
            Error::Conflicts(report) => Error::Conflicts(Outcome { text: named(report.text), ..report }),
            other => other,
        }
    }

    /// For scripts: what went wrong, by a name that stays, and what belongs to it.
    pub fn json(&self) -> Value {
        let (kind, more) = match self {
            Error::Input { file, place, reason } => {
                ("input", json!({ "file": file.to_string_lossy(), "place": place, "reason": reason }))
            }
            Error::Obstacles { file, found: Obstacles { named, more, .. } } => {
                let more: Vec<_> =
                    more.iter().map(|(name, more)| json!({ "collection": name, "records": more })).collect();
                let Obstacle { place, reason, .. } = &named[0];
                let file = file.to_string_lossy();
                ("input", json!({ "file": file, "place": place, "reason": reason, "obstacles": named, "more": more }))
            }
            Error::NoService { file, why } => {
                ("input", json!({ "file": file.to_string_lossy(), "place": "the file", "reason": why }))
            }
            Error::Plan { path, reason } => ("plan", json!({ "file": path.to_string_lossy(), "reason": reason })),
            Error::NoCollection { .. } => ("usage", json!({})),
            Error::Orphans { json, .. } => ("orphans", json!({ "orphans": json })),
            Error::Difference(_) => ("difference", json!({})),
            Error::Damaged(_) => ("damaged", json!({})),
            Error::Backup { path, reason } => ("backup", json!({ "path": path, "reason": reason })),
            Error::Conflicts(report) => ("conflicts", report.json.clone()),
            Error::Monolith(_) => ("monolith", json!({})),
            Error::Compared(report) => ("compared", report.json.clone()),
            Error::Occupied { data, holds } => ("occupied", json!({ "data": data.to_string_lossy(), "holds": holds })),
            Error::Output { path, reason } => ("output", json!({ "path": path.to_string_lossy(), "reason": reason })),
            Error::TokenExists { file, name } => {
                ("token_exists", json!({ "file": file.to_string_lossy(), "name": name.to_string() }))
            }
            Error::Tokens(_) => ("tokens", json!({})),
            Error::Random(_) => ("random", json!({})),
            Error::Store(StoreError::InUse { .. }) => ("in_use", json!({})),
            Error::Store(StoreError::Missing(path)) => ("missing", json!({ "path": path.to_string_lossy() })),
            Error::Store(_) => ("store", json!({})),
            Error::Service(_) => ("service", json!({})),
            Error::Unfinished(_) => ("unfinished", json!({})),
            Error::Overtaken(_) => ("overtaken", json!({})),
            Error::Io { path, source } => {
                ("io", json!({ "path": path.to_string_lossy(), "reason": source.to_string() }))
            }
        };
        let mut json = json!({ "outcome": "failed" });
        for (key, value) in more.as_object().into_iter().flatten() {
            json[key] = value.clone();
        }
        json["error"] = kind.into();
        json["message"] = self.to_string().into();
        json["exit_code"] = self.exit_code().into();
        json
    }

    /// "Something else is here."
    pub fn occupied(data: &Path, holds: String) -> Error {
        Error::Occupied { data: data.to_owned(), holds }
    }

    /// The exit code; `--help` lists them. 2 is the command line's own.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Tokens(TokenFileError::Io { .. }) | Error::Random(_) => 6,
            Error::Input { .. }
            | Error::Obstacles { .. }
            | Error::NoService { .. }
            | Error::Plan { .. }
            | Error::Orphans { .. }
            | Error::Tokens(_) => 3,
            Error::NoCollection { .. } => 2,
            Error::Compared(report) => report.exit_code,
            Error::Difference(_) => 4,
            Error::Occupied { .. }
            | Error::Output { .. }
            | Error::Conflicts(_)
            | Error::TokenExists { .. }
            | Error::Overtaken(_)
            | Error::Store(StoreError::InUse { .. }) => 5,
            Error::Service(_) | Error::Unfinished(_) => 6,
            Error::Store(_) | Error::Io { .. } | Error::Monolith(_) | Error::Damaged(_) | Error::Backup { .. } => 6,
        }
    }
}

/// What a service's folder has to say, with what whoever runs `seed` can do.
fn describe(error: &StoreError) -> String {
    match error {
        StoreError::Missing(path) => format!(
            "{}: there is no split here; `seed --input FILE --data DIR` splits a db.json into DIR, and --data DIR names \
             where one is",
            path.display()
        ),
        other => other.to_string(),
    }
}
