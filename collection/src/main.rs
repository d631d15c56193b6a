//! The service of any collection without code of its own: `collection --declaration comments/collection.json`.

use std::process::ExitCode;

// The system's allocator is slower, and musl's, which the images use, many times slower.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    service::run_declared()
}
