//! `seed plan`: proposes a plan from a file, and renders the topology's files from a plan.

mod naming;
mod profile;
pub mod proposal;
pub mod propose;
mod reading;
mod referring;
pub mod render;
