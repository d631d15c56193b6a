//! A collection served over HTTP. In reading order:
//!
//! - [`mod@routes`]: the one table of what a service answers to
//! - [`read`], [`mod@write`], [`operate`]: the answers to whoever reads, writes, or runs it
//! - [`condition`], [`authorize`], [`health`]: when, who may, and whether at all
//! - [`problem`], [`reply`]: every status but 200 and its like; what an answer is made of
//! - [`state`]: what all of these stand on
//! - [`serve`], [`workers`]: from a listener to the last request's end
//! - [`process`], [`sandbox`], [`broker`], [`check`], [`offline`]: a process that locks itself in, is told of new
//!   tokens, is asked how it is, and does what can be done without serving

pub mod authorize;
pub mod broker;
pub mod check;
pub mod condition;
mod config;
pub mod health;
pub mod logging;
pub mod offline;
pub mod operate;
pub mod problem;
pub mod process;
pub mod read;
pub mod reply;
pub mod routes;
pub mod sandbox;
pub mod serve;
pub mod state;
#[cfg(feature = "testing")]
pub mod testing;
pub mod workers;
pub mod write;

pub use config::Service;
pub use process::{run, run_declared};
pub use record::model::Collection;
pub use store::Store;
