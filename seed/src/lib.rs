//! `seed`: splits a monolith's db.json into a slice and a database for each service, and proves that nothing was lost.
//!
//! - [`plan`]: which collections there are; [`propose`]: which a file seems to have
//! - [`source`]: the combined file, as a stream of records; [`rejects`]: those that can't be taken; [`node`]: what only
//!   Node takes; [`obstacles`]: all that is in the way of a split, named at once
//! - [`mod@split`]: into [slices](mod@slice) and databases, beside what is there
//! - [`digest`]: what a set of records is, whatever its order
//! - [`mod@verify`]: everything read back and compared with the source
//! - [`orphans`]: references that lead nowhere
//! - [`manifest`]: what was split, and into what
//! - [`target`]: the services' folders, and the one commit point at which the result takes its place; [`checkpoint`]: what
//!   an interrupted run had finished before
//! - [`update`]: what a newer file changes, applied to a split that is there; [`database`]: which services may run on.
//!   [`mod@patch`]: its slices; [`rows`]: records as hashes; [`mod@align`],
//!   [`near`]: which is which where they have no ids; [`numbers`]: where those are texts; [`ids`]: the ids they were given; [`conflict`]: what both have changed
//! - [`run`]: all of that, in order
//! - [`join`]: the way back; [`backup`]: taken from running services, and put back
//! - [`compare`]: the monolith and the services, over HTTP
//! - [`topology`]: which collections there are; [`mod@render`]: what follows from that in the files of the topology
//! - [`mod@token`]: who may write to a service
//! - [`progress`], [`report`]: what people are told; [`scoped`]: settings for one collection

pub mod align;
pub mod backup;
pub mod checkpoint;
pub mod compare;
pub mod conflict;
pub mod database;
pub mod digest;
pub mod error;
pub mod identity;
pub mod ids;
pub mod join;
pub mod manifest;
pub mod near;
pub mod node;
pub mod numbers;
pub mod obstacles;
pub mod orphans;
pub mod patch;
pub mod plan;
pub mod progress;
pub mod propose;
pub mod rejects;
pub mod render;
pub mod report;
pub mod rows;
pub mod run;
pub mod scoped;
pub mod slice;
pub mod source;
pub mod split;
pub mod target;
pub mod text;
pub mod token;
pub mod topology;
pub mod update;
pub mod verify;
