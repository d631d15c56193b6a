//! Errors of all commands, with their messages, JSON and exit codes.

use std::io;
use std::path::{Path, PathBuf};

use record::token::{Name, TokenFileError};
use serde_json::{Value, json};
use store::StoreError;
use store::desk::DeskError;

use crate::obstacle::{Kind, Obstacle, Obstacles, shorten};

/// The outcome of a command that did not succeed.
#[derive(Debug)]
pub struct Outcome {
    /// For people.
    pub text: String,
    /// For programs: an object.
    pub json: Value,
    /// The exit code.
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
        /// The kind of obstacle to a split; `None` if the file is not read as one to split.
        kind: Option<Kind>,
        /// JSON pointer and byte offset.
        place: String,
        /// The fault there.
        reason: String,
    },
    /// The input cannot be split; all obstacles are known, with their remedies.
    #[error("{}: {found}Nothing was changed.", .file.display())]
    Obstacles {
        /// The input file.
        file: PathBuf,
        /// The reasons.
        found: Obstacles,
    },
    /// The file has no collection that a service could have.
    #[error("nothing in {} can be a service: {why}\nNothing was written.", .file.display())]
    NoService {
        /// The input file.
        file: PathBuf,
        /// Each member with its reason.
        why: String,
    },
    /// A plan or a declaration is invalid.
    #[error("{}: {reason}\nNothing was changed.", .path.display())]
    Plan {
        /// The file.
        path: PathBuf,
        /// Its fault.
        reason: String,
    },
    /// The command line names an unknown collection.
    #[error("there is no collection {name:?}: there are {known}")]
    NoCollection {
        /// The name.
        name: String,
        /// The known ones.
        known: String,
    },
    /// References lead nowhere, and `--strict` is set.
    #[error("{text} --strict refuses them. Nothing was changed.")]
    Orphans {
        /// The references.
        text: String,
        /// The same for scripts.
        json: Value,
    },
    /// The data that was read back differs from the source.
    #[error("{0}")]
    Difference(String),
    /// A database, a slice or a backup is damaged.
    #[error("{0}\n`seed restore` puts a backup in its place; the service's --accept-loss keeps what is whole.")]
    Damaged(String),
    /// A backup cannot be read, or does not match its own digests.
    #[error("{path}: {reason}")]
    Backup {
        /// The backup, or its source.
        path: String,
        /// The fault.
        reason: String,
    },
    /// The file and a service have changed the same record in different ways.
    #[error(
        "{}\nNothing was changed. --prefer monolith takes the file's version of such records, --prefer service the service's.",
        .0.text.trim_end()
    )]
    Conflicts(Outcome),
    /// The monolith gives no usable answer.
    #[error("{0}; is this the monolith?")]
    Monolith(String),
    /// The services' answers differ from the monolith's, or cannot be compared; the report has the exit code.
    #[error("{}", .0.text.trim_end())]
    Compared(Outcome),
    /// The target holds something that must not be overwritten.
    #[error("{}: {holds}. Nothing was changed. --replace puts the split of this file in its place; another --data leaves it alone.", .data.display())]
    Occupied {
        /// The data folder.
        data: PathBuf,
        /// The contents found there.
        holds: String,
    },
    /// An output must not be written to this path.
    #[error("{}: {reason}. Nothing was changed.", .path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// The reason.
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
    /// The token file is invalid or full.
    #[error("{0}. Nothing was changed.")]
    Tokens(#[from] TokenFileError),
    /// The system has no randomness for a secret.
    #[error("the system gives no random bytes: {0}. Nothing was changed.")]
    Random(getrandom::Error),
    /// A service, or a database's committer, has failed or refused.
    #[error("{0}")]
    Service(DeskError),
    /// The broker of replicated services does not answer, or refuses.
    #[error("{0}")]
    Broker(#[from] broker::BrokerError),
    /// A run was interrupted after its commit point.
    #[error(
        "{0}\nThe newer file is accepted, but some of its changes are not applied yet: run the same command again, it finishes the job."
    )]
    Unfinished(Box<Error>),
    /// A service keeps changing the same records.
    #[error("{}: its services keep changing the same records. Nothing was changed. Try again.", .0.display())]
    Overtaken(PathBuf),
    /// A database or its folder has failed.
    #[error("{}", describe(.0))]
    Store(#[from] StoreError),
    /// A file cannot be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },
}

impl Error {
    /// Returns a closure for `map_err` that adds `path` to the system's error.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    }

    /// Replaces `path` by `name` in the error; `named` does so in a text. For input that people know by another name.
    pub fn renamed(self, path: &Path, name: &str, named: impl Fn(String) -> String) -> Error {
        let rename = |file: PathBuf| if file == path { PathBuf::from(name) } else { file };
        match self {
            Error::Input { file, kind, place, reason } => Error::Input { file: rename(file), kind, place, reason },
            Error::Obstacles { file, found } => Error::Obstacles { file: rename(file), found },
            Error::Io { path, source } => Error::Io { path: rename(path), source },
            Error::Difference(text) => Error::Difference(named(text)),
            Error::Conflicts(report) => Error::Conflicts(Outcome { text: named(report.text), ..report }),
            other => other,
        }
    }

    /// Returns the error for scripts: its stable name, and its data.
    pub fn json(&self) -> Value {
        let (kind, more) = match self {
            Error::Input { file, place, reason, .. } => {
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
            Error::Broker(_) => ("broker", json!({})),
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

    /// Returns the error for a target that holds something else.
    pub fn occupied(data: &Path, holds: String) -> Error {
        Error::Occupied { data: data.to_owned(), holds }
    }

    /// Returns the exit code; `--help` lists them. 2 stands for a wrong command line.
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
            Error::Service(_) | Error::Broker(_) | Error::Unfinished(_) => 6,
            Error::Store(_) | Error::Io { .. } | Error::Monolith(_) | Error::Damaged(_) | Error::Backup { .. } => 6,
        }
    }
}

/// Describes a store's error, with a remedy for the user of `seed`.
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
