//! The users service's process.

use std::process::ExitCode;

use shared::service::{Service, run};

fn main() -> ExitCode {
    let collection = users::collection();
    run(&Service { collection, data: "data/users", listen: "127.0.0.1:3001", routes: users::routes })
}
