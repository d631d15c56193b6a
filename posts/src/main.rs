//! The posts service's process.

use std::process::ExitCode;

use shared::model::Collection;
use shared::service::{Service, run};

fn main() -> ExitCode {
    run(&Service { collection: Collection::Posts, data: "data/posts", listen: "127.0.0.1:3003", routes: posts::routes })
}
