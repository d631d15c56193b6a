//! `seed` as a user runs it. What several programs do together is in `system-tests`.

mod ids;
mod options;
mod plan;
mod proof;
mod render;
mod split;
mod update;
