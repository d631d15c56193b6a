//! The service of any collection that needs no code of its own: `collection --declaration comments/collection.json`.

use std::process::ExitCode;

// The system's own takes longer, and musl's, which is in the images, many times as long.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    service::run_declared()
}
