//! A service's log.

use std::panic;

/// Starts the log on standard error, from `info` up unless `RUST_LOG` says otherwise.
pub(crate) fn start_log() {
    let mut builder = pretty_env_logger::formatted_timed_builder();
    match std::env::var("RUST_LOG") {
        Ok(filters) if !filters.is_empty() => builder.parse_filters(&filters),
        _ => builder.filter_level(log::LevelFilter::Info),
    };
    builder.init();
}

/// Logs every panic as one line. The standard library prints several, and a client could forge them.
pub fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
        let place = panic.location().map_or_else(String::new, |place| format!(" at {place}"));
        // Quoted: it may repeat a client's text.
        log::error!(target: "panic", "panicked{place}: {:?}", text.unwrap_or("(no message)"));
    }));
}
