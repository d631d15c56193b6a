//! The number of writes that are made durable together.

use std::time::Duration;

/// A limit on the size of groups. It lets a group grow until the work on it takes as long as its wait for the disk.
///
/// So a thread that commits works at most half of the time, however many clients write, and reads find a processor. The
/// slower the disk, the more writes share a wait for it.
#[derive(Debug)]
pub(super) struct Pace {
    limit: usize,
}

impl Pace {
    /// A client's write must not wait long for the others in its group.
    const MOST: usize = 1024;
    /// The minimum, however fast the disk is.
    const FEWEST: usize = 8;

    /// Starts with the largest group.
    pub(super) fn new() -> Self {
        Self { limit: Self::MOST }
    }

    /// Returns how many writes the next group may have.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Adjusts the limit to a group of `writes` that took `worked` to decide and `waited` for the disk.
    pub(super) fn note(&mut self, writes: usize, worked: Duration, waited: Duration) {
        if worked > waited {
            self.limit = (writes - writes / 8).clamp(Self::FEWEST, self.limit);
        } else if writes == self.limit {
            self.limit = (self.limit + self.limit / 8).min(Self::MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_takes_as_much_work_as_its_wait_for_the_disk() {
        let each = Duration::from_micros(16);
        let mut pace = Pace::new();
        for (disk, groups) in [(100, 8..=8), (2_000, 95..=141), (300, 15..=21), (1_000_000, 1024..=1024), (0, 8..=8)] {
            for _ in 0..200 {
                let writes = pace.limit();
                pace.note(writes, each * u32::try_from(writes).unwrap(), Duration::from_micros(disk));
            }
            assert!(groups.contains(&pace.limit()), "{} at {disk} µs", pace.limit());
        }
    }

    #[test]
    fn a_lone_write_says_nothing_about_groups() {
        let mut pace = Pace::new();
        pace.note(1, Duration::from_micros(50), Duration::from_micros(200));
        assert_eq!(pace.limit(), Pace::MOST);
    }
}
