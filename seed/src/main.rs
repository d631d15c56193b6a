//! `seed`'s process.

use std::process::ExitCode;

mod cli;

// The system's own takes longer, and musl's, which is in the images, many times as long.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run()
}
