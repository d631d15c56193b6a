//! A service's log, on standard error.

use std::io::{self, IsTerminal, Write};
use std::panic;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use clap::ValueEnum;
use log::{LevelFilter, Metadata, Record};
use pretty_env_logger::env_logger::Logger;
use pretty_env_logger::env_logger::filter::{self, Filter};
use pretty_env_logger::env_logger::fmt::{Formatter, WriteStyle};
use serde_json::json;

use crate::access_log;

/// The time to wait for the access log at the end of the process.
const PATIENCE: Duration = Duration::from_secs(1);

/// The time to wait for the access log at a panic, after which the process goes on.
const PATIENCE_AT_A_PANIC: Duration = Duration::from_millis(100);

/// A log whose end waits for the access log, and whose level can change.
struct Log {
    /// What is logged by default, and its text.
    filter: Filter,
    spec: String,
    /// The level that was set since the start, or [`BY_DEFAULT`].
    level: AtomicUsize,
    format: Logger,
}

/// No level was set.
const BY_DEFAULT: usize = usize::MAX;

/// The process's log.
static LOG: OnceLock<Log> = OnceLock::new();

impl Log {
    /// Returns the level that was set since the start.
    fn set_level(&self) -> Option<LevelFilter> {
        LevelFilter::iter().find(|level| *level as usize == self.level.load(Ordering::Relaxed))
    }
}

impl log::Log for Log {
    fn enabled(&self, metadata: &Metadata) -> bool {
        match self.level.load(Ordering::Relaxed) {
            BY_DEFAULT => self.filter.enabled(metadata),
            level => metadata.level() as usize <= level,
        }
    }

    fn log(&self, record: &Record) {
        let is_wanted = match self.level.load(Ordering::Relaxed) {
            BY_DEFAULT => self.filter.matches(record),
            level => record.level() as usize <= level,
        };
        if is_wanted {
            self.format.log(record);
        }
    }

    fn flush(&self) {
        access_log::flush(PATIENCE);
    }
}

/// How lines of the log look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// In colours, each line at once
    Pretty,
    /// Requests as key=value, other lines as text
    Kv,
    /// A JSON object a line
    Json,
}

/// Writes a line of the log as a JSON object.
fn write_json(text: &mut Formatter, record: &Record) -> io::Result<()> {
    let time = humantime::format_rfc3339_millis(SystemTime::now());
    let [target, message] = [record.target(), &record.args().to_string()].map(|text| json!(text));
    writeln!(text, r#"{{"time":"{time}","level":"{}","target":{target},"message":{message}}}"#, record.level())
}

/// Starts the log, from `info` up unless `RUST_LOG` says otherwise. By default it is pretty on a terminal alone.
pub fn start_log(format: Option<LogFormat>) {
    let is_terminal = io::stderr().is_terminal();
    let how = format.unwrap_or(if is_terminal { LogFormat::Pretty } else { LogFormat::Kv });
    let spec = std::env::var("RUST_LOG").ok().filter(|filters| !filters.is_empty());
    let spec = spec.unwrap_or_else(|| "info".to_owned());
    // The broker's client says the same as our own lines, less clearly.
    let filter = filter::Builder::new().filter_module("async_nats", LevelFilter::Warn).parse(&spec).build();
    let mut builder = pretty_env_logger::formatted_timed_builder();
    // What is not wanted does not come here.
    builder.filter_level(LevelFilter::Trace);
    match how {
        // There the terminal has a say in it.
        LogFormat::Pretty if is_terminal => builder.write_style(WriteStyle::Auto),
        LogFormat::Pretty => builder.write_style(WriteStyle::Always),
        LogFormat::Kv => builder.write_style(WriteStyle::Never),
        LogFormat::Json => builder.write_style(WriteStyle::Never).format(write_json),
    };
    let format = builder.build();
    // A slash begins a pattern that lines must match. On a terminal a line is to be seen at once.
    let collects = !spec.contains('/') && how != LogFormat::Pretty;
    let log = LOG.get_or_init(|| Log { filter, spec, level: AtomicUsize::new(BY_DEFAULT), format });
    log::set_max_level(log.filter.filter());
    log::set_logger(log).expect("the process starts its log once");
    if collects {
        access_log::collect(how == LogFormat::Json);
    }
}

/// Returns what is logged: a level, or what `RUST_LOG` said.
pub(crate) fn level() -> String {
    let by_default = || LOG.get().map_or_else(|| LevelFilter::Off.to_string(), |log| log.spec.clone());
    LOG.get().and_then(Log::set_level).map_or_else(by_default, |level| level.to_string().to_lowercase())
}

/// Sets the level from which lines are logged; `default` is what `RUST_LOG` said. Returns whether `level` is one.
pub(crate) fn set_level(level: &str) -> bool {
    let Some(log) = LOG.get() else { return false };
    let (number, most) = match level.parse::<LevelFilter>() {
        Ok(level) => (level as usize, level),
        Err(_) if level == "default" => (BY_DEFAULT, log.filter.filter()),
        Err(_) => return false,
    };
    log.level.store(number, Ordering::Relaxed);
    log::set_max_level(most);
    true
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
