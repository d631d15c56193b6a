//! The `seed` program.

use std::process::ExitCode;

mod cli;

// The system's allocator is slower; musl's, in the images, many times slower.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run()
}
