//! Counters for operators, read while the service runs: an addition is a load and a store.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A counter. Only one thread may add to it at a time; any thread reads it.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `more`.
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
    }

    /// Returns the sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counts values by size. Only one thread may add to it at a time; any thread reads it.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    bounds: &'static [u64; N],
    /// The number of values up to each bound and above the one before.
    counts: [Counter; N],
    above: Counter,
    sum: Counter,
}

impl<const N: usize> Histogram<N> {
    /// Returns a histogram without values. Its `bounds` ascend.
    pub fn new(bounds: &'static [u64; N]) -> Self {
        let [above, sum] = Default::default();
        Self { bounds, counts: std::array::from_fn(|_| Counter::default()), above, sum }
    }

    /// Adds a value. The search is linear: most values are small.
    pub fn add(&self, value: u64) {
        let place = self.bounds.iter().position(|bound| value <= *bound);
        place.map_or(&self.above, |place| &self.counts[place]).add(1);
        self.sum.add(value);
    }

    /// Adds a time, in microseconds.
    pub fn add_time(&self, time: Duration) {
        self.add(time.as_micros() as u64);
    }

    /// Returns the values so far.
    pub fn read(&self) -> Spread {
        let counts = self.bounds.iter().copied().zip(self.counts.iter().map(Counter::get)).collect();
        Spread { counts, above: self.above.get(), sum: self.sum.get() }
    }
}

/// The values of a histogram at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// Each bound with the number of values up to it and above the one before.
    pub counts: Vec<(u64, u64)>,
    /// The number of values above the last bound.
    pub above: u64,
    /// The sum of all values.
    pub sum: u64,
}

impl Spread {
    /// Adds the values of `other`, which has the same bounds or none.
    pub fn merge(&mut self, other: &Self) {
        if self.counts.is_empty() {
            self.counts.clone_from(&other.counts);
        } else {
            self.counts.iter_mut().zip(&other.counts).for_each(|((_, count), (_, more))| *count += more);
        }
        self.above += other.above;
        self.sum += other.sum;
    }

    /// Returns the number of values.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|(_, count)| count).sum::<u64>() + self.above
    }
}

/// The sizes by which groups of writes are counted.
const WRITES: [u64; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/// The times by which groups of writes are counted, in microseconds.
const MICROS: [u64; 14] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000];

/// What the committer has done since its start.
#[derive(Debug)]
pub struct WriteFigures {
    /// The number of writes in each group that was committed.
    pub group_writes: Histogram<11>,
    /// The time that each group waited for the disk, in microseconds.
    pub disk_wait: Histogram<14>,
    /// The time from each group's first decision to its answers, in microseconds.
    pub commit_time: Histogram<14>,
    /// The bytes appended to the journal, those of updates among them.
    pub journal_bytes: Counter,
}

impl WriteFigures {
    /// Adds a group of `writes` that `took` so long, and `waited` for the disk meanwhile.
    pub(crate) fn add_group(&self, writes: usize, waited: Duration, took: Duration) {
        self.group_writes.add(writes as u64);
        self.disk_wait.add_time(waited);
        self.commit_time.add_time(took);
    }
}

impl Default for WriteFigures {
    fn default() -> Self {
        let [disk_wait, commit_time] = std::array::from_fn(|_| Histogram::new(&MICROS));
        Self { group_writes: Histogram::new(&WRITES), disk_wait, commit_time, journal_bytes: Counter::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_under_the_first_bound_that_is_not_below_it() {
        let histogram = Histogram::new(&[1, 10, 100]);
        [0, 1, 2, 10, 11, 100, 101, 7_000].into_iter().for_each(|value| histogram.add(value));
        let mut spread = histogram.read();
        assert_eq!(spread, Spread { counts: vec![(1, 2), (10, 2), (100, 2)], above: 2, sum: 7_225 });
        spread.merge(&histogram.read());
        assert_eq!((spread.count(), spread.sum, spread.above), (16, 14_450, 4));
    }
}
