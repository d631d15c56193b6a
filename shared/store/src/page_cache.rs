//! Pages of records in memory, as they lie in sled.
//!
//! sled keeps whole leaves of some sixteen pages, takes each apart when it is loaded, and looks for the leaf anew for each
//! record. A service with memory for all pages keeps them by themselves. Whose memory that is, is for the service to say.

use std::sync::Arc;

use record::id::Id;

use super::layout::{self, Page};
use super::{Stamp, Store, StoreError, Stored};

/// A page of records, and the stamp under which it was read.
#[derive(Clone)]
pub struct CachedPage {
    stamp: Stamp,
    value: sled::IVec,
}

impl CachedPage {
    /// Returns the length of its bytes.
    pub fn bytes(&self) -> usize {
        self.value.len()
    }
}

/// A place for pages, by their numbers. It need not keep what it is given.
pub trait PageCache: Send + Sync {
    /// Returns the page that was last kept under `number`.
    fn find(&self, number: u64) -> Option<CachedPage>;

    /// Keeps `page` under `number`.
    fn keep(&self, number: u64, page: CachedPage);
}

impl Store {
    /// Keeps pages of records in `cache` from now on. Only the first call counts.
    pub fn keep_pages_in(&self, cache: Arc<dyn PageCache>) {
        // A second one would hold pages that nobody asks it for.
        let _ = self.shared.pages.set(cache);
    }

    /// Returns about how many pages of records there are, and the mean length of their bytes. What is damaged counts as any
    /// other: a read of it will tell.
    pub fn estimate_pages(&self) -> (u64, usize) {
        const SAMPLE: usize = 64;
        let (mut pages, mut records, mut bytes) = (0, 0, 0);
        for (key, value) in self.db.scan_prefix([layout::PAGE]).take(SAMPLE).flatten() {
            pages += 1;
            records += Page::read(&key, &value).map_or(0, |page| page.iter().count());
            bytes += value.len();
        }
        let all = self.counted().map_or(0, |counted| counted.count as usize);
        ((all * pages / records.max(1)) as u64, bytes / pages.max(1))
    }

    /// Reads record `id` if its page is in memory. What is wrong with it is for [`get`](Self::get) to say.
    pub fn get_from_memory(&self, id: Id) -> Option<Stored> {
        let (number, slot) = layout::place(id);
        let (stamp, value) = self.cached_page(number)?;
        let entry = Page::read(&layout::page_key(number), &value).and_then(|page| page.find(slot)).ok()??;
        entry.json?;
        let stored = self.stored(&value, id, &entry).ok()??;
        Some(Stored { stamp, ..stored })
    }

    /// Returns page `number` and its stamp, from memory or from sled; the caller must check it. One from sled is kept in
    /// memory if `keep`.
    pub(super) fn page_value(&self, number: u64, keep: bool) -> Result<Option<(Stamp, sled::IVec)>, StoreError> {
        if let Some(found) = self.cached_page(number) {
            return Ok(Some(found));
        }
        let stamp = self.stamp_of_page(number);
        let Some(value) = self.unchecked(&layout::page_key(number))? else { return Ok(None) };
        if let Some(cache) = self.shared.pages.get()
            && keep
            && self.is_current(stamp)
        {
            cache.keep(number, CachedPage { stamp, value: value.clone() });
        }
        Ok(Some((stamp, value)))
    }

    /// Returns a page that is in memory and current.
    fn cached_page(&self, number: u64) -> Option<(Stamp, sled::IVec)> {
        let CachedPage { stamp, value } = self.shared.pages.get()?.find(number)?;
        self.is_current(stamp).then_some((stamp, value))
    }
}
