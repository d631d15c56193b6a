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
        let (Total::Bytes(length) | Total::Records(length)) = total;
        let bar = if self == Progress::Bars { ProgressBar::new(length) } else { ProgressBar::hidden() };
        bar.set_length(length);
        let amounts =
            if matches!(total, Total::Bytes(_)) { "{bytes}/{total_bytes}" } else { "{human_pos}/{human_len}" };
        let template = format!("{{prefix:16}} {{wide_bar}} {amounts} {{msg}} {{eta}} left");
        bar.set_style(ProgressStyle::with_template(&template).expect("the template is well-formed"));
        bar.set_prefix(name);
        let now = Instant::now();
        Stage { progress: self, name, total, bar, begun: now, line: Cell::new(now), records: Cell::new(0) }
    }
}

/// When a stage is over.
#[derive(Clone, Copy, Debug)]
pub enum Total {
    /// After so many bytes.
    Bytes(u64),
    /// After so many records.
    Records(u64),
}

/// A part of the job.
pub struct Stage {
    progress: Progress,
    name: &'static str,
    total: Total,
    bar: ProgressBar,
    begun: Instant,
    line: Cell<Instant>,
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
        let seconds = self.begun.elapsed().as_secs_f64().max(1e-3);
        let rate = HumanCount((self.records.get() as f64 / seconds) as u64);
        self.bar.set_message(format!("{rate} records/s"));
        if self.progress == Progress::Lines && self.line.get().elapsed() >= LINE_EVERY {
            self.line.set(Instant::now());
            let (done, left) = (self.bar.position(), HumanDuration(self.bar.eta()));
            match self.total {
                Total::Bytes(all) => {
                    eprintln!(
                        "{}: {} of {}, {rate} records/s, {left} left",
                        self.name,
                        HumanBytes(done),
                        HumanBytes(all)
                    );
                }
                Total::Records(all) => {
                    eprintln!(
                        "{}: {} of {}, {rate} records/s, {left} left",
                        self.name,
                        HumanCount(done),
                        HumanCount(all)
                    );
                }
            }
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
