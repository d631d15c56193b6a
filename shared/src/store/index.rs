//! Secondary indexes: which ids stand under a term, in runs (see [`layout`]).

use std::vec;

use super::{Scan, Store, StoreError, layout};
use crate::id::Id;
use crate::model::{Index, Term};

impl Store {
    /// The ids that `index` lists under `term`, ascending.
    pub fn ids(&self, index: Index, term: &Term) -> Ids {
        let runs = self.scan(&layout::term_prefix(index, term));
        Ids { store: self.clone(), runs, run: Vec::new().into_iter() }
    }

    /// Every entry of every index, as the run's key without its first id, and an id.
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
        let store = self.clone();
        self.scan(&[layout::INDEX, index.0]).flat_map(move |run| {
            let run = run.map_err(|source| store.sled(source)).and_then(|(key, value)| {
                let referred = layout::referred_id(&key).ok_or_else(|| store.corrupt("an index key holds no id"))?;
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

    /// Whether nothing is listed in `index`.
    pub(super) fn is_unused(&self, index: Index) -> Result<bool, StoreError> {
        let first = self.db.scan_prefix([layout::INDEX, index.0]).next();
        Ok(first.transpose().map_err(|source| self.sled(source))?.is_none())
    }

    /// Lists `ids`, which ascend, under `term`, which has none yet.
    pub(super) fn list_first(&self, index: Index, term: &Term, ids: &[Id]) -> Result<(), StoreError> {
        self.put_runs(&layout::term_prefix(index, term), ids)
    }

    fn put_runs(&self, prefix: &[u8], ids: &[Id]) -> Result<(), StoreError> {
        for run in ids.chunks(layout::RUN_IDS) {
            self.put(&layout::run_key(prefix, run[0].get()), layout::encode_run(run))?;
        }
        Ok(())
    }

    /// Lists `ids`, which ascend and are not listed yet, under `term`.
    pub(super) fn list(&self, index: Index, term: &Term, ids: &[Id]) -> Result<(), StoreError> {
        let prefix = layout::term_prefix(index, term);
        let mut rest = ids;
        while let Some(first) = rest.first().map(|id| id.get()) {
            // The run to join: the last that begins before `first`; else the first of all, which then begins anew.
            let before = self.db.range(&prefix[..]..&layout::run_key(&prefix, first)).next_back();
            let run = before.or_else(|| self.runs_from(&prefix, first).next());
            let run = run.transpose().map_err(|source| self.sled(source))?;
            let (key, mut run_ids) = match run {
                Some((key, value)) => {
                    let run_ids = self.decode_run(&key, &value)?;
                    (key.to_vec(), run_ids)
                }
                None => (layout::run_key(&prefix, first), Vec::new()),
            };
            // It takes what comes before the next run.
            let next = self.runs_from(&prefix, run_ids.first().map_or(first, |id| id.get()) + 1).next();
            let next = next.transpose().map_err(|source| self.sled(source))?;
            let next = next.and_then(|(key, _)| layout::last_id(&key)).map_or(u64::MAX, Id::get);
            let (joining, later) = rest.split_at(rest.partition_point(|id| id.get() < next));
            let began_with = run_ids.first().copied();
            run_ids.extend_from_slice(joining);
            run_ids.sort_unstable();
            self.put_runs(&prefix, &run_ids)?;
            if began_with.is_some_and(|id| id != run_ids[0]) {
                self.db.remove(key).map_err(|source| self.sled(source))?;
            }
            rest = later;
        }
        Ok(())
    }

    /// The runs under `prefix` that begin with the id `first` or a later one.
    fn runs_from(&self, prefix: &[u8], first: u64) -> sled::Iter {
        self.db.range(layout::run_key(prefix, first)..layout::run_key(prefix, u64::MAX))
    }

    fn decode_run(&self, key: &[u8], value: &[u8]) -> Result<Vec<Id>, StoreError> {
        layout::decode_run(key, value).map_err(|what| self.corrupt(&what))
    }
}

/// The ids under one term. Made by [`Store::ids`].
pub struct Ids {
    store: Store,
    runs: Scan,
    run: vec::IntoIter<Id>,
}

impl Iterator for Ids {
    type Item = Result<Id, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(id) = self.run.next() {
                return Some(Ok(id));
            }
            let run = self.runs.next()?.map_err(|source| self.store.sled(source));
            match run.and_then(|(key, value)| self.store.decode_run(&key, &value)) {
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
            let run = self.runs.next()?.map_err(|source| self.store.sled(source));
            let run = run.and_then(|(key, value)| Ok((self.store.decode_run(&key, &value)?, key)));
            match run {
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
