//! The threads service's process.

use std::process::ExitCode;

use shared::model::Collection;
use shared::service::{Service, run};

fn main() -> ExitCode {
    run(&Service {
        collection: Collection::Threads,
        data: "data/threads",
        listen: "127.0.0.1:3002",
        routes: threads::routes,
    })
}
