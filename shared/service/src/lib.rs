//! Serves one collection over HTTP. A service's `main` calls [`run`] with a [`Service`]: its collection and defaults.
//! [`run_declared`] does the same for a collection that has a declaration but no code.
//!
//! # Modules, in reading order
//!
//! A request:
//!
//! 1. [`mod@routes`]: the table of all paths and methods
//! 2. [`state`]: the store, the committer, those who may write and the health that the handlers share
//! 3. [`read`]: `GET` of a record or a list
//! 4. [`mod@write`], `command`: `POST`, `PUT`, `PATCH` and `DELETE`, and what they do; [`replica`], `wire`, `agreement`: the
//!    same through a stream that all replicas follow, and whether they agree
//! 5. [`authorize`], [`jwt`], [`condition`]: the token that a write needs, and its `If-Match` or `If-None-Match`
//! 6. `changes`: each change as it happens; [`operate`]: backups and scrubs; [`admin`]: the operators' listener
//! 7. [`health`]: the answer of `/ready`
//! 8. `answer_cache`: answers repeated from memory, in front of the routes
//! 9. `metrics`, `exposition`: what is counted, and its text for Prometheus
//! 10. [`reply`], [`problem`]: the parts of an answer, and every error with its status and text
//! 11. [`openapi`], `reference`: all of that, described for programs, and a page that shows it
//!
//! A process:
//!
//! 1. [`process`]: its life from the command line to its exit; `loading`: its answers until it has a database, `snapshot`:
//!    a replica's database from its broker
//! 2. `config`, `settings`: the command line, which every service shares, and what the log says of it; `memory`: how much of it answers take by default;
//!    `descriptors`: how many connections there may be
//! 3. [`serve`], [`connection`], [`workers`]: connections, what clients must do to keep them, and the threads that serve
//!    them, up to the end of the last request; `brief`: operators' connections
//! 4. [`sandbox`], [`reloader`]: the limits that a process sets itself, and the way in for new tokens
//! 5. [`check`], [`offline`], `manual`: the commands `check`, `scrub` and `compact`; `man` and `completions`
//! 6. [`logging`], `access_log`: the log, one line a panic or a request
//!
//! With the feature `testing`, the module `testing` runs a service in a test, on a free port and in a fresh folder.

mod access_log;
pub mod admin;
mod agreement;
mod answer_cache;
pub mod authorize;
mod brief;
mod changes;
pub mod check;
mod command;
pub mod condition;
mod config;
pub mod connection;
pub mod cors;
mod deprecation;
mod descriptors;
mod exposition;
pub mod health;
pub mod jwt;
mod loading;
pub mod logging;
mod manual;
mod memory;
mod metrics;
pub mod offline;
pub mod openapi;
pub mod operate;
mod page;
mod parameters;
pub mod problem;
pub mod process;
pub mod read;
mod reference;
pub mod reloader;
pub mod replica;
pub mod reply;
pub mod routes;
pub mod sandbox;
mod search;
pub mod serve;
mod settings;
mod snapshot;
pub mod state;
#[cfg(feature = "testing")]
pub mod testing;
mod wire;
pub mod workers;
pub mod write;

pub use config::Service;
pub use process::{run, run_declared};
pub use record::model::Collection;
pub use store::Store;
