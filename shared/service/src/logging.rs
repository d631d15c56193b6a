//! A service's log.

use std::panic;

/// Logs to standard error, from `info` up unless `RUST_LOG` says otherwise.
pub(crate) fn start_log() {
    let mut builder = pretty_env_logger::formatted_timed_builder();
    match std::env::var("RUST_LOG") {
        Ok(filters) if !filters.is_empty() => builder.parse_filters(&filters),
        _ => builder.filter_level(log::LevelFilter::Info),
    };
    builder.init();
}

/// Makes every panic one line of the log, where the standard library would print several that anybody can forge.
pub fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
        let place = panic.location().map_or_else(String::new, |place| format!(" at {place}"));
        // Quoted: it may repeat what a client sent.
        log::error!(target: "panic", "panicked{place}: {:?}", text.unwrap_or("(no message)"));
    }));
}
