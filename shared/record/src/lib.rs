//! Collections and their records, without any database or HTTP. Every other crate stands on this one.
//!
//! A *collection* is declared in a `collection.json`. A *record* is a JSON object that fits this declaration. It is
//! kept and sent as text, so that digits and the order of keys survive.
//!
//! # Modules, in reading order
//!
//! 1. [`declaration`]: a collection's name, ids, fields and indexes, as its `collection.json` declares them
//! 2. [`id`]: the integer that names a record
//! 3. [`json`]: the canonical text of a JSON value, the same as the monolith sends but lossless
//! 4. [`number`]: numbers by their values, without losing digits
//! 5. [`model`]: a record that fits its declaration, its id and its index terms
//! 6. [`reader`]: the records of an untrusted file of any size, in bounded memory
//! 7. [`limits`]: the bounds on bodies and records, and the violations that a refused write lists
//! 8. [`edit`]: the records that POST, PUT and PATCH make
//! 9. [`record_set`]: the digest of a set of records, independent of their order
//! 10. [`search`]: the words that a search finds
//! 11. [`token`]: the file with the tokens that may write to a service
//! 12. [`words`]: singulars and plurals of reports
//!
//! With the feature `testing`, the module `sample` has the workspace's own collections.

pub mod declaration;
pub mod edit;
pub mod id;
pub mod json;
pub mod limits;
pub mod model;
pub mod number;
pub mod reader;
pub mod record_set;
#[cfg(feature = "testing")]
pub mod sample;
pub mod search;
pub mod token;
pub mod words;
