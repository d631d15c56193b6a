//! The progress of a run, shown as a bar on a terminal or as a line every few seconds elsewhere, and written to a log.
//!
//! A run has stages. If it announces them and their relative lengths with [`expect`], each stage also shows the time
//! left for the whole run.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};

use crate::error::Error;

/// The interval between lines without a terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The number of columns below which a terminal gets a bar without amounts.
const NARROW: u16 = 72;

/// The display of progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// Nothing.
    #[default]
    Quiet,
    /// Bars.
    Bars,
    /// Lines.
    Lines,
}

/// The size of a stage.
#[derive(Clone, Copy, Debug)]
pub enum Total {
    /// A number of bytes.
    Bytes(u64),
    /// A number of records.
    Records(u64),
    /// A number of paths.
    Paths(u64),
    /// Not known beforehand.
    Unknown,
}

/// This process's run.
struct Run {
    begun: Option<Instant>,
    /// The announced stages, with their relative lengths.
    expected: Vec<(&'static str, f64)>,
    /// The number of announced stages that are over.
    over: usize,
    /// The finished stages, with their durations.
    phases: Vec<(&'static str, Duration)>,
    log: Option<File>,
}

static RUN: Mutex<Run> = Mutex::new(Run { begun: None, expected: Vec::new(), over: 0, phases: Vec::new(), log: None });

fn run() -> std::sync::MutexGuard<'static, Run> {
    RUN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Logs the run to the end of the file at `path`.
pub fn log_to(path: &Path) -> Result<(), Error> {
    run().log = Some(OpenOptions::new().create(true).append(true).open(path).map_err(Error::io(path))?);
    Ok(())
}

/// Writes `text` to the log, if a log is set, each line with the time.
pub fn log(text: &str) {
    if let Some(log) = &mut run().log {
        let now = humantime::format_rfc3339_millis(SystemTime::now());
        for line in text.lines().filter(|line| !line.is_empty()) {
            // A log that cannot be written must not end the run.
            let _ = writeln!(log, "{now} {line}");
        }
    }
}

/// Announces the stages of this run, in order, with their relative lengths.
pub fn expect(stages: &[(&'static str, u32)]) {
    let mut run = run();
    run.begun = Some(Instant::now());
    run.expected = stages.iter().map(|(name, weight)| (*name, f64::from(*weight))).collect();
    run.over = 0;
}

/// Lists the finished stages with their durations; adds up stages of one name.
pub fn phases() -> Vec<(&'static str, Duration)> {
    let mut phases: Vec<(&'static str, Duration)> = Vec::new();
    for (name, took) in &run().phases {
        match phases.iter_mut().find(|(other, _)| other == name) {
            Some((_, sum)) => *sum += *took,
            None => phases.push((name, *took)),
        }
    }
    phases
}

impl Progress {
    /// Returns the display that suits standard error.
    pub fn on_stderr() -> Self {
        if std::io::stderr().is_terminal() { Progress::Bars } else { Progress::Lines }
    }

    /// Begins a stage of this size.
    pub fn stage(self, name: &'static str, total: Total) -> Stage {
        let bar = match (self, total) {
            (Progress::Bars, Total::Unknown) => ProgressBar::new_spinner(),
            (Progress::Bars, _) => ProgressBar::new(0),
            _ => ProgressBar::hidden(),
        };
        if let Total::Bytes(length) | Total::Records(length) | Total::Paths(length) = total {
            bar.set_length(length);
        }
        let columns = console::Term::stderr().size_checked().map_or(u16::MAX, |(_rows, columns)| columns);
        bar.set_style(ProgressStyle::with_template(template(total, columns)).expect("the template is well-formed"));
        bar.set_prefix(name);
        if matches!(total, Total::Unknown) {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        log(&format!("{name} begins"));
        let now = Instant::now();
        Stage { progress: self, name, total, bar, begun: now, last_line: Cell::new(now), records: Cell::new(0) }
    }
}

/// Returns the template of a bar that is never wider than the terminal.
fn template(total: Total, columns: u16) -> &'static str {
    match total {
        Total::Unknown => "{prefix} {spinner} {wide_msg}",
        _ if columns < NARROW => "{prefix} {percent:>3}% {wide_msg}",
        Total::Bytes(_) => "{prefix:16} {wide_bar} {bytes}/{total_bytes} {msg}",
        Total::Records(_) | Total::Paths(_) => "{prefix:16} {wide_bar} {human_pos}/{human_len} {msg}",
    }
}

/// A stage of the run, which ends when it is dropped.
pub struct Stage {
    progress: Progress,
    name: &'static str,
    total: Total,
    bar: ProgressBar,
    begun: Instant,
    last_line: Cell<Instant>,
    records: Cell<u64>,
}

impl Stage {
    /// Notes that this many more bytes and records are done.
    pub fn advance(&self, bytes: u64, records: u64) {
        self.records.set(self.records.get() + records);
        self.bar.inc(if matches!(self.total, Total::Bytes(_)) { bytes } else { records });
        if self.progress == Progress::Bars {
            self.bar.set_message(format!("{} {}", self.rate(), self.left()));
        }
        if self.last_line.get().elapsed() >= LINE_EVERY {
            self.last_line.set(Instant::now());
            let line = self.line();
            log(&line);
            if self.progress == Progress::Lines {
                eprintln!("{line}");
            }
        }
    }

    fn rate(&self) -> String {
        let seconds = self.begun.elapsed().as_secs_f64().max(1e-3);
        let what = if matches!(self.total, Total::Paths(_)) { "paths" } else { "records" };
        format!("{} {what}/s", HumanCount((self.records.get() as f64 / seconds) as u64))
    }

    /// Describes the time left for this stage, and for the whole run.
    fn left(&self) -> String {
        let this = format!("{} left", HumanDuration(self.bar.eta()));
        match self.left_of_all() {
            Some(left) => format!("{this}, {} in all", HumanDuration(left)),
            None => this,
        }
    }

    /// Estimates the time left for the whole run, if its stages are announced.
    fn left_of_all(&self) -> Option<Duration> {
        let run = run();
        let begun = run.begun?;
        let (_, weight) = run.expected.get(run.over).filter(|(name, _)| *name == self.name)?;
        let done = self.bar.position() as f64 / self.bar.length()?.max(1) as f64;
        let over: f64 = run.expected[..run.over].iter().map(|(_, weight)| weight).sum();
        let all: f64 = run.expected.iter().map(|(_, weight)| weight).sum();
        let share = (over + weight * done) / all;
        (share > 0.0).then(|| begun.elapsed().mul_f64(((1.0 - share) / share).clamp(0.0, 1e6)))
    }

    /// Describes the stage's progress.
    fn line(&self) -> String {
        let done = self.bar.position();
        let amounts = match self.total {
            Total::Bytes(all) => format!("{} of {}", HumanBytes(done), HumanBytes(all)),
            Total::Records(all) | Total::Paths(all) => format!("{} of {}", HumanCount(done), HumanCount(all)),
            Total::Unknown => return format!("{}: for {}", self.name, HumanDuration(self.begun.elapsed())),
        };
        format!("{}: {amounts}, {}, {}", self.name, self.rate(), self.left())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        let took = self.begun.elapsed();
        log(&format!("{} has taken {:.3} s", self.name, took.as_secs_f64()));
        let mut run = run();
        run.phases.push((self.name, took));
        // Announced stages that were skipped are over, too.
        let is_this = |(name, _): &(&str, f64)| *name == self.name;
        if let Some(nth) = run.expected.iter().skip(run.over).position(is_this) {
            run.over += nth + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_a_stage_has_come() {
        let stage = Progress::Lines.stage("splitting", Total::Bytes(2048));
        stage.advance(512, 10);
        stage.advance(512, 10);
        assert!(stage.line().starts_with("splitting: 1.00 KiB of 2.00 KiB, "), "{}", stage.line());
        assert!(stage.line().contains(" records/s, ") && stage.line().ends_with(" left"), "{}", stage.line());
        let stage = Progress::Lines.stage("reading back", Total::Records(5000));
        stage.advance(512, 1234);
        assert!(stage.line().starts_with("reading back: 1,234 of 5,000, "), "{}", stage.line());
    }
}
