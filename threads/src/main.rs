//! The threads service's process.

use std::process::ExitCode;

use service::{Service, run};

// The system's allocator is slower, and musl's, which the images use, many times slower.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let collection = threads::collection();
    run(&Service { collection, data: "data/threads", listen: "127.0.0.1:3002", own: None })
}
