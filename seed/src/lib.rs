//! `seed`: splits a monolith's db.json into a slice and a database for each service, and proves that nothing was lost.
//!
//! - [`commands`]: what it does, each command in a file of its own
//! - [`options`], [`scoped`], [`plan`], [`topology`]: what it is told; which collections there are
//! - [`source`]: the combined file, as a stream of records; [`rejects`]: those that can't be taken; [`node`]: what only
//!   Node takes; [`obstacle`], [`survey`]: all that is in the way of a split, named at once
//! - [`splitting`], [`mod@slice`]: into slices and databases; [`filling`], [`aside`]: proven, and what lies beside them
//! - [`digest`]: what a set of records is, whatever its order; [`scan`], [`inspect`]: everything read back and compared
//! - [`orphans`]: references that lead nowhere
//! - [`manifest`]: what was split, and into what
//! - [`target`]: the services' folders, and the one commit point at which the result takes its place; [`checkpoint`]: what
//!   an interrupted run had finished before
//! - [`changes`]: what a newer file changes; [`database`]: which services may run on. [`mod@patch`]: its slices; [`rows`]:
//!   records as hashes; [`mod@align`], [`near`]: which is which where they have no ids; [`numbers`]: where those are texts;
//!   [`ids`]: the ids they were given; [`conflict`]: what both have changed
//! - [`chain`]: a backup and its increments
//! - [`part_file`]: how a file is written so that it is there whole or not at all; [`identity`]: what it is then
//! - [`progress`], [`report`], [`error`]: what people are told

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
pub mod survey;
pub mod target;
pub mod text;
pub mod topology;
