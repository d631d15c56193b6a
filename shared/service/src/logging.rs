//! A service's log, on standard error.

use std::io::{self, IsTerminal};
use std::panic;
use std::time::Duration;

use log::{Metadata, Record};
use pretty_env_logger::env_logger::Logger;

use crate::access_log;

/// The time to wait for the access log at the end of the process.
const PATIENCE: Duration = Duration::from_secs(1);

/// The time to wait for the access log at a panic, after which the process goes on.
const PATIENCE_AT_A_PANIC: Duration = Duration::from_millis(100);

/// A log whose end waits for the access log.
struct Log(Logger);

impl log::Log for Log {
    fn enabled(&self, metadata: &Metadata) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record) {
        self.0.log(record);
    }

    fn flush(&self) {
        access_log::flush(PATIENCE);
    }
}

/// Starts the log, from `info` up unless `RUST_LOG` says otherwise.
pub fn start_log() {
    let mut builder = pretty_env_logger::formatted_timed_builder();
    let filters = std::env::var("RUST_LOG").ok().filter(|filters| !filters.is_empty());
    match &filters {
        Some(filters) => builder.parse_filters(filters),
        None => builder.filter_level(log::LevelFilter::Info),
    };
    let pretty = builder.build();
    log::set_max_level(pretty.filter());
    log::set_boxed_logger(Box::new(Log(pretty))).expect("the process starts its log once");
    // A slash begins a pattern that lines must match. On a terminal a line is to be seen at once.
    if !filters.is_some_and(|filters| filters.contains('/')) && !io::stderr().is_terminal() {
        access_log::collect();
    }
}

/// Logs every panic as one line. The standard library prints several, and a client could forge them.
pub fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
        let place = panic.location().map_or_else(String::new, |place| format!(" at {place}"));
        // Quoted: it may repeat a client's text.
        log::error!(target: "panic", "panicked{place}: {:?}", text.unwrap_or("(no message)"));
        access_log::flush(PATIENCE_AT_A_PANIC);
    }));
}
