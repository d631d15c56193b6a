//! What `seed` does, each command in a file of its own.

pub mod backup;
pub mod check;
pub mod compare;
pub mod extend;
pub mod join;
pub mod plan;
pub mod restore;
pub mod slices;
pub mod split;
pub mod token;
pub mod update;
pub mod verify;
