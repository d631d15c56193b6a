//! The posts service's process.

use std::process::ExitCode;

use shared::service::{Service, run};

fn main() -> ExitCode {
    let collection = posts::collection();
    run(&Service { collection, data: "data/posts", listen: "127.0.0.1:3003", routes: posts::routes })
}
