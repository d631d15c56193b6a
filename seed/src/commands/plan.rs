//! `seed plan`: a plan proposed from a file, and what follows from a list of collections.

mod naming;
mod profile;
pub mod proposal;
pub mod propose;
mod reading;
mod referring;
pub mod render;
