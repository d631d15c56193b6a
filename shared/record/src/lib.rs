//! What a model is. In reading order:
//!
//! - [`declaration`], [`id`], [`model`]: what a collection is, what a record is named and what it holds
//! - [`json`]: a record's text, as the monolith sends it and without its losses
//! - [`reader`]: where the records of a file begin and end
//! - [`limits`], [`edit`]: what may be written, and the record that a write makes
//! - [`record_set`]: what a collection holds, as one number
//! - [`token`]: the file that says who may write

pub mod declaration;
pub mod edit;
pub mod id;
pub mod json;
pub mod limits;
pub mod model;
pub mod reader;
pub mod record_set;
#[cfg(feature = "testing")]
pub mod sample;
pub mod token;
