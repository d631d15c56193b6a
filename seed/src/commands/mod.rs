//! The commands of `seed`, each in its own file.

pub mod backup;
pub mod check;
pub mod compare;
pub mod extend;
pub mod join;
pub mod plan;
pub mod restore;
pub mod slices;
pub mod snapshot;
pub mod split;
pub mod streams;
pub mod token;
pub mod update;
pub mod verify;
