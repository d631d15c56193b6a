//! Secondary indexes: which ids stand under a term, in runs (see [`layout`]).

use std::vec;

use record::id::Id;
use record::model::{Index, Term};

use super::layout::{self, Step};
use super::{Scan, Store, StoreError};

impl Store {
    /// The ids that `index` lists under `term`, ascending.
    pub fn ids(&self, index: Index, term: &Term) -> Ids {
        let runs = self.scan(&layout::term_prefix(index, term));
        Ids { store: self.clone(), runs, run: Vec::new().into_iter(), last: None }
    }

    /// Every entry of every index there is, as the run's key without its first id, and an id. What an interrupted build left
    /// is none.
    pub fn entries(&self) -> Entries {
        Entries {
            store: self.clone(),
            runs: self.scan(&[layout::INDEX]),
            run: Vec::new().into_iter(),
            prefix: Vec::new(),
        }
    }

    /// Each entry of an index of ids: the id that is referred to, and a record that does; in that order.
    pub fn references(&self, index: Index) -> impl Iterator<Item = Result<(Id, Id), StoreError>> + use<> {
        self.read_references(self.db.scan_prefix([layout::INDEX, index.0]))
    }

    /// The same, behind the entry `after`.
    pub fn references_after(
        &self,
        index: Index,
        after: (Id, Id),
    ) -> impl Iterator<Item = Result<(Id, Id), StoreError>> + use<> {
        let prefix = layout::term_prefix(index, &Term::Id(after.0));
        let key = layout::run_key(&prefix, after.1.get());
        // Its run, or where that would be.
        let run = self.db.range(&prefix[..]..=&key[..]).next_back().and_then(Result::ok);
        let first = run.map_or(key, |(key, _)| key.to_vec());
        let references = self.read_references(self.db.range(&first[..]..&[layout::INDEX, index.0 + 1]));
        references.filter(move |pair| pair.as_ref().map_or(true, |pair| *pair > after))
    }

    /// Each entry of an index of ids that are texts: the text, and a record under it; in that order, behind the entry `after`.
    pub fn texts_after(
        &self,
        index: Index,
        after: Option<(String, u64)>,
    ) -> impl Iterator<Item = Result<(String, u64), StoreError>> + use<> {
        let first = after.as_ref().map_or(vec![layout::INDEX, index.0], |(text, by)| {
            let prefix = layout::term_prefix(index, &Term::from(&**text));
            let key = layout::run_key(&prefix, *by);
            // Its run, or where that would be.
            let run = self.db.range(&prefix[..]..=&key[..]).next_back().and_then(Result::ok);
            run.map_or(key, |(key, _)| key.to_vec())
        });
        let store = self.clone();
        let entries = self.checked(self.db.range(&first[..]..&[layout::INDEX, index.0 + 1])).flat_map(move |run| {
            let run = run.and_then(|(key, value)| {
                let text = layout::listed_text(&key).ok_or_else(|| store.damaged(&key, "it holds no text"))?;
                Ok((text.to_owned(), store.decode_run(&key, &value)?))
            });
            match run {
                Ok((text, ids)) => ids.into_iter().map(|id| Ok((text.clone(), id.get()))).collect(),
                Err(error) => vec![Err(error)],
            }
        });
        entries.filter(move |pair| match (pair, &after) {
            // Texts are not in the order of their keys; before it stand only others under its text.
            (Ok(pair), Some(after)) => pair.0 != after.0 || pair.1 > after.1,
            _ => true,
        })
    }

    fn read_references(&self, runs: sled::Iter) -> impl Iterator<Item = Result<(Id, Id), StoreError>> + use<> {
        let store = self.clone();
        self.checked(runs).flat_map(move |run| {
            let run = run.and_then(|(key, value)| {
                let referred = layout::referred_id(&key).ok_or_else(|| store.damaged(&key, "it holds no id"))?;
                Ok((referred, store.decode_run(&key, &value)?))
            });
            match run {
                Ok((referred, ids)) => ids.into_iter().map(|id| Ok((referred, id))).collect(),
                Err(error) => vec![Err(error)],
            }
        })
    }

    /// The key prefix under which [`entries`](Self::entries) shows `term`.
    pub fn entry_prefix(index: Index, term: &Term) -> Vec<u8> {
        layout::term_prefix(index, term)
    }

    /// Whether `index` lists `id` under `term`.
    pub(super) fn lists(&self, index: Index, term: &Term, id: Id) -> Result<bool, StoreError> {
        let prefix = layout::term_prefix(index, term);
        let run = self.db.range(&prefix[..]..=&layout::run_key(&prefix, id.get())).next_back();
        let Some((key, value)) = run.transpose().map_err(|source| self.sled(source))? else { return Ok(false) };
        self.verify(&key, &value)?;
        Ok(self.decode_run(&key, &value)?.binary_search(&id).is_ok())
    }

    /// Lists `ids`, which ascend and are one run, under `term`.
    pub(super) fn put_run(&self, index: Index, term: &Term, ids: &[Id]) -> Result<(), StoreError> {
        let prefix = layout::term_prefix(index, term);
        self.put(&layout::run_key(&prefix, ids[0].get()), &layout::encode_run(ids))
    }

    /// Lists `ids`, which ascend, under `term`.
    #[cfg(test)]
    pub(super) fn list(&self, index: Index, term: &Term, ids: &[Id]) -> Result<(), StoreError> {
        let ids: Vec<(Id, bool)> = ids.iter().map(|id| (*id, true)).collect();
        let mut step = Step::default();
        self.relist(index, term, &ids, Id::MAX.get(), &mut step)?;
        self.apply_in_parts(&step)
    }

    /// Adds to `step` what makes of `ids`, which ascend, those with `true` listed under `term`, and those with `false` not.
    /// No id above `last_id` is listed yet.
    pub(super) fn relist(
        &self,
        index: Index,
        term: &Term,
        ids: &[(Id, bool)],
        last_id: u64,
        step: &mut Step,
    ) -> Result<(), StoreError> {
        let prefix = layout::term_prefix(index, term);
        let mut rest = ids;
        while let Some(first) = rest.first().map(|(id, _)| id.get()) {
            // The run it belongs to: the last that does not begin behind it; else the first of all, which then begins anew.
            let before = self.db.range(&prefix[..]..=&layout::run_key(&prefix, first)).next_back();
            let later_run = |than: u64| if first <= last_id { self.runs_from(&prefix, than).next() } else { None };
            let run = before.or_else(|| later_run(first));
            let run = run.transpose().map_err(|source| self.sled(source))?;
            let (key, old) = match run {
                Some((key, value)) => {
                    self.verify(&key, &value)?;
                    (Some(key.to_vec()), self.decode_run(&key, &value)?)
                }
                None => (None, Vec::new()),
            };
            // It takes what comes before the next run.
            let next = later_run(old.first().map_or(first, |id| id.get()) + 1);
            let next = next.transpose().map_err(|source| self.sled(source))?;
            let next = next.and_then(|(key, _)| layout::last_id(&key)).map_or(u64::MAX, Id::get);
            let (here, later) = rest.split_at(rest.partition_point(|(id, _)| id.get() < next));
            rest = later;
            let mut new = old.clone();
            for (id, listed) in here {
                match (new.binary_search(id), listed) {
                    (Err(place), true) => new.insert(place, *id),
                    (Ok(place), false) => drop(new.remove(place)),
                    _ => {}
                }
            }
            if new == old {
                continue;
            }
            // Ids mostly ascend, and then full runs stay behind; a run that bursts in its middle is cut evenly, so that
            // both parts have room.
            let at_the_end = here.iter().all(|(id, _)| Some(id) > old.last());
            let pieces = new.len().div_ceil(layout::RUN_IDS).max(1);
            let length = if at_the_end { layout::RUN_IDS } else { new.len().div_ceil(pieces).max(1) };
            // The last first: what leaves a run is in another already.
            for run in new.chunks(length).rev() {
                step.put(layout::run_key(&prefix, run[0].get()), &layout::encode_run(run));
            }
            if let Some(key) =
                key.filter(|key| new.first().map(|id| layout::run_key(&prefix, id.get())).as_ref() != Some(key))
            {
                step.removes.push(key);
            }
        }
        Ok(())
    }

    /// The runs under `prefix` that begin with the id `first` or a later one.
    fn runs_from(&self, prefix: &[u8], first: u64) -> sled::Iter {
        self.db.range(layout::run_key(prefix, first)..layout::run_key(prefix, u64::MAX))
    }

    /// The ids of a run, whose `value` has been checked.
    pub(super) fn decode_run(&self, key: &[u8], value: &[u8]) -> Result<Vec<Id>, StoreError> {
        layout::decode_run(key, &value[layout::BODY..]).map_err(|what| self.damaged(key, &what))
    }
}

/// The ids under one term. Made by [`Store::ids`].
pub struct Ids {
    store: Store,
    runs: Scan,
    run: vec::IntoIter<Id>,
    last: Option<Id>,
}

impl Iterator for Ids {
    type Item = Result<Id, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // While a run is written anew under another key, both can be met.
            if let Some(id) = self.run.by_ref().find(|id| Some(*id) > self.last) {
                self.last = Some(id);
                return Some(Ok(id));
            }
            match self.runs.next()?.and_then(|(key, value)| self.store.decode_run(&key, &value)) {
                Ok(ids) => self.run = ids.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// All entries of all indexes. Made by [`Store::entries`].
pub struct Entries {
    store: Store,
    runs: Scan,
    prefix: Vec<u8>,
    run: vec::IntoIter<Id>,
}

impl Entries {
    /// The next entry.
    #[expect(clippy::should_implement_trait, reason = "an iterator could not lend the prefix")]
    pub fn next(&mut self) -> Option<Result<(&[u8], Id), StoreError>> {
        loop {
            if let Some(id) = self.run.next() {
                return Some(Ok((&self.prefix, id)));
            }
            let run = self.runs.next()?.and_then(|(key, value)| Ok((self.store.decode_run(&key, &value)?, key)));
            match run {
                Ok((_, key)) if self.store.made_by().index_numbers().all(|index| Some(&index.0) != key.get(1)) => {}
                Ok((ids, key)) => {
                    self.prefix.clear();
                    self.prefix.extend_from_slice(&key[..key.len() - size_of::<u64>()]);
                    self.run = ids.into_iter();
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
