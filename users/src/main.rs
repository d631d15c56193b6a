//! The users service's process.

use std::process::ExitCode;

use shared::model::Collection;
use shared::service::{Service, run};

fn main() -> ExitCode {
    run(&Service { collection: Collection::Users, data: "data/users", listen: "127.0.0.1:3001", routes: users::routes })
}
