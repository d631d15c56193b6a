//! `seed plan`: a plan proposed from a file, and what follows from a list of collections.

pub mod propose;
pub mod render;
