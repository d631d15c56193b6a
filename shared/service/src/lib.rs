//! A collection served over HTTP. In reading order:
//!
//! - [`api`], [`problem`]: the routes every service has, and its errors
//! - [`mod@write`], [`condition`], [`authorize`]: those that write, when, and who may
//! - [`operate`]: what operators ask for
//! - [`serve`], [`workers`], [`drain`]: from a listener to the last request's end
//! - [`sandbox`], [`broker`], [`check`], [`offline`], [`process`]: a process that locks itself in, is told of new
//!   tokens, is asked how it is, and does what can be done without serving

pub mod api;
pub mod authorize;
pub mod broker;
pub mod check;
pub mod condition;
mod config;
pub mod drain;
pub mod offline;
pub mod operate;
pub mod problem;
pub mod process;
pub mod sandbox;
pub mod serve;
#[cfg(feature = "testing")]
pub mod testing;
pub mod workers;
pub mod write;

pub use api::{Routes, routes};
pub use process::{Service, run, run_declared};
pub use record::model::Collection;
pub use store::Store;
