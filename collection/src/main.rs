//! The service of any collection that needs no code of its own: `collection --declaration comments/collection.json`.

use std::process::ExitCode;

fn main() -> ExitCode {
    shared::service::run_declared()
}
