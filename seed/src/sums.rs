//! Sums of what a database should hold, to compare with what it holds.
//!
//! Both sides of a comparison are added up by one run, under the same two random keys. So no SHA-256 is needed, which would
//! take a tenth of a split: an accident would have to keep 128 bits.

use std::hash::{BuildHasher, Hash};

use foldhash::quality::RandomState;
use record::id::Id;
use record::model::Record;
use store::Store;

/// The sums of a database's records and of its index entries. By default those of nothing, under new keys.
#[derive(Clone, Default)]
pub struct Sums {
    keys: [RandomState; 2],
    /// The sum of the records.
    pub records: Sum,
    /// The sum of the index entries.
    pub entries: Sum,
    /// A buffer for the prefix of an entry.
    prefix: Vec<u8>,
}

/// The number of elements, and the sum of their hashes, in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    count: u64,
    hashes: u128,
}

impl Sums {
    /// Returns the sums of nothing, under the same keys as these.
    pub fn empty(&self) -> Self {
        Self { keys: self.keys, ..Self::default() }
    }

    /// Adds the record `id` with its text as it is sent.
    pub fn add_record(&mut self, id: Id, id_from_position: bool, json: &[u8]) {
        self.records.add(&self.keys, (id.get(), id_from_position, json));
    }

    /// Adds an entry of an index: the record `id` under `prefix`.
    pub fn add_entry(&mut self, prefix: &[u8], id: Id) {
        self.entries.add(&self.keys, (prefix, id.get()));
    }

    /// Adds the entries that the indexes of `store` should have for `record`.
    pub fn add_entries_of(&mut self, store: &Store, record: &Record) {
        for (index, term) in record.terms {
            self.prefix.clear();
            store.push_entry_prefix(*index, term, &mut self.prefix);
            self.entries.add(&self.keys, (&*self.prefix, record.id.get()));
        }
    }

    /// Adds all elements of other sums under the same keys.
    pub fn merge(&mut self, other: &Self) {
        self.records.merge(other.records);
        self.entries.merge(other.entries);
    }
}

impl Sum {
    fn add(&mut self, keys: &[RandomState; 2], element: impl Hash) {
        let [high, low] = keys.each_ref().map(|key| u128::from(key.hash_one(&element)));
        self.merge(Self { count: 1, hashes: high << 64 | low });
    }

    fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.hashes = self.hashes.wrapping_add(other.hashes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_an_element_counts_and_the_order_does_not() {
        let id = |id: u64| Id::try_from(id).unwrap();
        let key = Sums::default();
        let record = |element: (u64, bool, &[u8])| {
            let mut sums = key.empty();
            sums.add_record(id(element.0), element.1, element.2);
            sums.records
        };
        let entry = |prefix: &[u8], number| {
            let mut sums = key.empty();
            sums.add_entry(prefix, id(number));
            sums.entries
        };
        let sums = [
            record((1, false, b"{}")),
            record((2, false, b"{}")),
            record((1, true, b"{}")),
            record((1, false, b"{ }")),
            entry(b"ab", 1),
            entry(b"a", 1),
            entry(b"ab", 2),
        ];
        for (nth, one) in sums.iter().enumerate() {
            assert!(sums[..nth].iter().all(|other| one != other), "{nth}");
            assert_ne!(one.hashes >> 64, u128::from(one.hashes as u64), "both keys are one");
        }
        let merged = |order: [usize; 3]| {
            let mut sum = Sum::default();
            order.into_iter().for_each(|nth| sum.merge(sums[nth]));
            sum
        };
        assert_eq!(merged([0, 1, 2]), merged([2, 0, 1]));
        assert_ne!(merged([0, 1, 2]), merged([0, 0, 2]));
    }
}
