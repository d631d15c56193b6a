//! Tests of `seed`'s command line. Tests of several programs together are in `system-tests`.

mod ids;
mod options;
mod plan;
mod proof;
mod render;
mod split;
mod update;
