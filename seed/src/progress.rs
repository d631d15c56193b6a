//! How far a stage has come: a bar on a terminal, a line every few seconds elsewhere, nothing if so told.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// Not at all.
    #[default]
    Quiet,
    /// By bars.
    Bars,
    /// By lines.
    Lines,
}

impl Progress {
    /// What suits standard error.
    pub fn on_stderr() -> Self {
        if std::io::stderr().is_terminal() { Progress::Bars } else { Progress::Lines }
    }

    /// Begins a stage that is over after so many bytes, or after so many records where bytes are not known.
    pub fn stage(self, name: &'static str, total: Total) -> Stage {
        let (Total::Bytes(length) | Total::Records(length) | Total::Paths(length)) = total;
        let bar = if self == Progress::Bars { ProgressBar::new(length) } else { ProgressBar::hidden() };
        bar.set_length(length);
        let amounts =
            if matches!(total, Total::Bytes(_)) { "{bytes}/{total_bytes}" } else { "{human_pos}/{human_len}" };
        let template = format!("{{prefix:16}} {{wide_bar}} {amounts} {{msg}} {{eta}} left");
        bar.set_style(ProgressStyle::with_template(&template).expect("the template is well-formed"));
        bar.set_prefix(name);
        let now = Instant::now();
        Stage { progress: self, name, total, bar, begun: now, last_line: Cell::new(now), records: Cell::new(0) }
    }
}

/// When a stage is over.
#[derive(Clone, Copy, Debug)]
pub enum Total {
    /// After so many bytes.
    Bytes(u64),
    /// After so many records.
    Records(u64),
    /// After so many paths.
    Paths(u64),
}

/// A part of the job.
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
    /// So many more bytes, with so many records, are done.
    pub fn advance(&self, bytes: u64, records: u64) {
        if self.progress == Progress::Quiet {
            return;
        }
        self.records.set(self.records.get() + records);
        self.bar.inc(if matches!(self.total, Total::Bytes(_)) { bytes } else { records });
        self.bar.set_message(self.rate());
        if self.progress == Progress::Lines && self.last_line.get().elapsed() >= LINE_EVERY {
            self.last_line.set(Instant::now());
            eprintln!("{}", self.line());
        }
    }

    fn rate(&self) -> String {
        let seconds = self.begun.elapsed().as_secs_f64().max(1e-3);
        let what = if matches!(self.total, Total::Paths(_)) { "paths" } else { "records" };
        format!("{} {what}/s", HumanCount((self.records.get() as f64 / seconds) as u64))
    }

    /// How far it has come.
    fn line(&self) -> String {
        let done = self.bar.position();
        let amounts = match self.total {
            Total::Bytes(all) => format!("{} of {}", HumanBytes(done), HumanBytes(all)),
            Total::Records(all) | Total::Paths(all) => format!("{} of {}", HumanCount(done), HumanCount(all)),
        };
        format!("{}: {amounts}, {}, {} left", self.name, self.rate(), HumanDuration(self.bar.eta()))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
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
