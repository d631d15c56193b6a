//! What the three services and the migration have in common. In reading order:
//!
//! - [`declaration`], [`id`], [`model`]: what a collection is, what a record is named and what it holds
//! - [`json`]: a record's text, as the monolith sends it and without its losses
//! - [`limits`], [`edit`]: what may be written, and the record that a write makes
//! - [`store`], [`record_set`]: a collection of records in sled, and what it holds as one number
//! - [`api`], [`problem`]: the routes every service has, and its errors
//! - [`mod@write`], [`condition`], [`token`]: those that write, when, and who may
//! - [`operate`], [`backup`]: what operators ask for; the records at one revision, as lines of JSON
//! - [`desk`]: what `seed` asks of a database when a newer file changes it, here or in a service that runs
//! - [`serve`], [`workers`], [`building`], [`drain`]: from a listener to the last request's end
//! - [`fill`], [`sandbox`], [`broker`], [`check`], [`offline`], [`service`]: a process that fills its folder, locks
//!   itself in, is told of new tokens, is asked how it is, and does what can be done without serving

pub mod api;
pub mod backup;
pub mod broker;
pub mod building;
pub mod check;
pub mod condition;
pub mod declaration;
pub mod desk;
pub mod drain;
pub mod edit;
pub mod fill;
pub mod id;
pub mod json;
pub mod limits;
pub mod model;
pub mod offline;
pub mod operate;
pub mod problem;
pub mod record_set;
pub mod sandbox;
pub mod serve;
pub mod service;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod token;

pub mod workers;
pub mod write;

/// Every program's: the system's own takes longer, and musl's, which is in the images, many times as long.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
