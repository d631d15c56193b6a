//! The programs beside one another: services that are filled, told, damaged, copied and compared, and the entrance
//! before them.
//!
//! What measures, fails a disk, deploys or runs containers is a program of its own beside this one: Cargo runs those one
//! after the other.

mod backup;
mod compare;
mod damage;
mod declaration;
mod entrance;
mod running;
mod service;
mod text_ids;
mod token;
mod topology;
