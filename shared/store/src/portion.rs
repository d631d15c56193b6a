//! Portions of the list of all records: they can be kept and sent again while they are current.

use record::id::Id;

use super::layout;
use super::{Stamp, Store, StoreError};

/// The most pages of a portion for each that exists. Where ids lie further apart, a portion has no stamps.
const GAPS: u64 = 4;

/// Neighbouring records, in id order.
#[derive(Debug)]
pub struct Portion {
    /// Their JSON, each behind a comma.
    pub json: Vec<u8>,
    /// The stamps of all that it was read from: none of these records, and none between them, has changed while they are
    /// current. `None` if there would be too many.
    pub stamps: Option<Vec<Stamp>>,
    /// The id from which the next portion goes on. `None` if there are no further records.
    pub next: Option<Id>,
}

impl Store {
    /// Reads records from `from` on until their JSON has `bytes` bytes, but always whole pages.
    pub fn portion(&self, from: Id, bytes: usize) -> Result<Portion, StoreError> {
        let mut portion = Portion { json: Vec::with_capacity(bytes + bytes / 8), stamps: Some(Vec::new()), next: None };
        let first = layout::place(from).0;
        let all = self.stamp_of_all();
        let (mut next, mut read) = (first, 0);
        let pages = self.db.range(&layout::page_key(first)[..]..&[layout::PAGE + 1][..]);
        for found in pages.keys() {
            let key = found.map_err(|source| self.sled(source))?;
            let page = layout::page_of(&key).ok_or_else(|| self.damaged(&key, "it is not a page's key"))?;
            if portion.json.len() >= bytes {
                // Not this page's first: a record may come into the gap before it.
                portion.next = layout::id_at(next, 0);
                return Ok(portion);
            }
            // A stamp is taken before what it stands for is read; so pages in a gap are looked for once more.
            if let Some(stamps) = &mut portion.stamps {
                read += 1;
                if page - first >= GAPS * read {
                    portion.stamps = None;
                } else {
                    stamps.extend((next..=page).map(|page| self.stamp_of_page(page)));
                }
            }
            if portion.stamps.is_some() {
                for gap in next..page {
                    if self.unchecked(&layout::page_key(gap))?.is_some() {
                        portion.stamps = None;
                    }
                }
            }
            // The key was listed a moment ago; its page may be gone.
            if let Some(value) = self.unchecked(&key)? {
                for (id, stored) in self.page(&key, &value)? {
                    if id >= from {
                        portion.json.push(b',');
                        portion.json.extend_from_slice(stored.json());
                    }
                }
            }
            next = page + 1;
        }
        // Any write may add a record behind the last.
        portion.stamps.iter_mut().for_each(|stamps| stamps.push(all));
        Ok(portion)
    }
}

#[cfg(test)]
mod tests {
    use record::model::Records;
    use record::record_set::RecordSet;
    use record::sample;

    use super::super::tests::{id, json};
    use super::super::{Change, Load, Writer};
    use super::*;

    fn posts(numbers: impl IntoIterator<Item = u64>) -> Records {
        let mut records = Records::new(sample::posts(), 0);
        numbers.into_iter().for_each(|number| assert!(records.push(&json(number, 1), None).is_ok()));
        records
    }

    fn change(store: &Store, put: impl IntoIterator<Item = u64>, removed: Vec<u64>) {
        let (mut writer, put) = (Writer::new(store).unwrap(), posts(put));
        let mut changes: Vec<Change> = put.iter().map(|record| Change::Put(record, writer.next_revision())).collect();
        changes.extend(removed.into_iter().map(|number| Change::Remove(id(number))));
        writer.apply(&changes).unwrap();
    }

    /// Reads all portions of one page each.
    fn read_all(store: &Store) -> Vec<Portion> {
        let (mut portions, mut next) = (Vec::new(), Some(Id::FIRST));
        while let Some(from) = next {
            let portion = store.portion(from, 1).unwrap();
            next = portion.next;
            portions.push(portion);
        }
        portions
    }

    fn is_current(store: &Store, portion: &Portion) -> bool {
        portion.stamps.as_ref().unwrap().iter().all(|stamp| store.is_current(*stamp))
    }

    #[test]
    fn portions_are_the_list_and_old_once_it_differs() {
        let dir = tempfile::tempdir().unwrap();
        let mut load = Load::new(Store::create(&dir.path().join("db"), sample::posts()).unwrap());
        let all = posts((1..=40).chain(80..=90));
        assert_eq!(load.put([&all], &RecordSet::of(all.iter())).unwrap(), None);
        let store = load.finish().unwrap();
        let portions = read_all(&store);
        let nexts: Vec<_> = portions.iter().map(|portion| portion.next.map(Id::get)).collect();
        assert_eq!(nexts, [Some(16), Some(32), Some(48), None]);
        let expected: Vec<String> = (1..=40).chain(80..=90).map(|number| format!(",{}", json(number, 1))).collect();
        let found: Vec<u8> = portions.iter().flat_map(|portion| portion.json.clone()).collect();
        assert_eq!(String::from_utf8(found).unwrap(), expected.concat());
        let [first, second, third, last] = &portions[..] else { panic!("{portions:?}") };
        assert!(portions.iter().all(|portion| is_current(&store, portion)));

        change(&store, [3], vec![]);
        assert!(!is_current(&store, first) && is_current(&store, second) && is_current(&store, third));
        // Any write might have added a record behind the last portion.
        assert!(!is_current(&store, last));
        change(&store, [], (16..=31).collect());
        assert!(!is_current(&store, second));

        // A record in a gap, whose page did not exist.
        change(&store, [], (32..=40).collect());
        change(&store, [100, 120], vec![]);
        let gap = store.portion(Id::FIRST, 1000).unwrap();
        assert_eq!(gap.next.map(Id::get), Some(96));
        assert!(is_current(&store, &gap));
        change(&store, [50], vec![]);
        assert!(!is_current(&store, &gap));
    }

    #[test]
    fn records_far_apart_have_no_stamps() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("db"), sample::posts()).unwrap();
        change(&store, [1, 1_000_000_000_000, 1_000_000_000_001, 2_000_000_000_000], vec![]);
        let portions = read_all(&store);
        assert_eq!(portions.len(), 3);
        assert!(portions[1].stamps.is_none());
        assert_eq!(
            portions.iter().map(|portion| portion.json.iter().filter(|byte| **byte == b'{').count()).sum::<usize>(),
            4
        );
    }
}
