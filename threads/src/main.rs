//! The threads service's process.

use std::process::ExitCode;

use shared::service::{Service, run};

fn main() -> ExitCode {
    let collection = threads::collection();
    run(&Service { collection, data: "data/threads", listen: "127.0.0.1:3002", routes: threads::routes })
}
