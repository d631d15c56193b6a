//! What the three services and the migration have in common. In reading order:
//!
//! - [`id`], [`model`]: what a record is named and what it holds
//! - [`json`]: a record's text, as the monolith sends it and without its losses
//! - [`store`]: a collection of records in sled
//! - [`api`], [`problem`]: the routes every service has, and its errors
//! - [`check`]: of a service's process
//! - [`fill`]: of a service's process
//! - [`sandbox`]: of a service's process
//! - [`serve`], [`service`]: from a listener to a process that drains and exits

pub mod api;
pub mod check;
pub mod fill;
pub mod id;
pub mod json;
pub mod model;
pub mod problem;
pub mod sandbox;
pub mod serve;
pub mod service;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
