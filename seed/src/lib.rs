//! `seed` splits a monolith's db.json into a slice and a database for each service, and proves that nothing was lost.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use seed::commands::split::split_and_verify;
//! use seed::error::Error;
//! use seed::options::Options;
//!
//! fn main() -> Result<(), Error> {
//!     // With `--strict`, references that lead nowhere are refused.
//!     let options = Options { strict: true, ..Options::default() };
//!     let report = split_and_verify(Path::new("db.json"), Path::new("data"), &options)?;
//!     print!("{}", report.text);
//!     Ok(())
//! }
//! ```
//!
//! `data/posts/` then holds `db.json`, the slice of posts, and `db/`, the database that the posts service opens;
//! `data/manifest.json` describes the split. The same call with a newer file applies its changes. An error leaves `data`
//! as it was, unless it is [`Unfinished`](error::Error::Unfinished): the next call then finishes the job.
//!
//! The modules, in reading order:
//!
//! 1. What to do: [`commands`], each in a file of its own; [`options`] and [`scoped`] hold the settings of a split.
//! 2. The collections: [`plan`] reads their declarations, [`topology`] the list of services.
//! 3. Reading: [`source`] reads the combined file as batches of records. [`rejects`] handles records that do not fit,
//!    [`node`] text that only Node accepts. [`survey`] names every [`obstacle`] to a split at once.
//! 4. Writing: [`splitting`] writes each [`mod@slice`] and loads its database. [`part_file`] puts a single file into place
//!    whole or not at all; [`identity`] is a file's length and hash.
//! 5. Proving: [`filling`] has [`scan`] read all of it back, and compares it with the [`sums`] and [`digest`] of what was
//!    loaded; [`inspect`] does so with an existing split. [`orphans`] finds references that lead nowhere; [`text`]
//!    compares two records.
//! 6. Publishing: [`target`] puts the result into the services' folders, with one commit point. [`manifest`] describes
//!    it, [`checkpoint`] notes an unfinished one, and [`aside`] keeps the files beside it.
//! 7. Updating: [`changes`] compares a newer file with the split. [`rows`] are its records as hashes; [`mod@align`] and
//!    [`near`] match records without ids, [`numbers`] those with text ids; [`ids`] keeps the result. [`conflict`] holds
//!    records that both sides have changed. [`database`] reaches a database, with or without a running service;
//!    [`mod@patch`] rewrites a slice.
//! 8. Backups: a [`chain`] is a backup with its increments.
//! 9. Messages: [`progress`], [`report`] and [`error`].

pub mod align;
pub mod aside;
pub mod chain;
pub mod changes;
pub mod checkpoint;
pub mod commands;
pub mod conflict;
pub mod database;
pub mod digest;
pub mod error;
pub mod filling;
pub mod identity;
pub mod ids;
pub mod inspect;
pub mod manifest;
pub mod near;
pub mod node;
pub mod numbers;
pub mod obstacle;
pub mod options;
pub mod orphans;
pub mod part_file;
pub mod patch;
pub mod plan;
pub mod progress;
pub mod rejects;
pub mod report;
pub mod rows;
pub mod scan;
pub mod scoped;
pub mod slice;
pub mod source;
pub mod splitting;
pub mod sums;
pub mod survey;
pub mod target;
pub mod text;
pub mod topology;
