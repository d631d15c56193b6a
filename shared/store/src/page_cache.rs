//! Pages of records in memory, in groups of neighbours.
//!
//! sled keeps whole leaves of some sixteen pages, takes each apart when it is loaded, and looks for the leaf anew for each
//! record. A service with memory for all pages keeps them by themselves. Whose memory that is, is for the service to say.
//!
//! The pages of a group lie in one piece of memory, which is given back as a whole: sixteen small pieces, given back one by
//! one, leave gaps that nothing fills.

use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use record::id::Id;

use super::layout::{self, Page};
use super::{Stamp, Store, StoreError, Stored};

/// The pages of a group: about as many lie in one or two leaves of sled's.
const GROUP: u64 = 16;

/// The accesses that sled notes for a page that is read from a long file by itself. sled frees memory only when it has noted 64 in
/// one of its 256 queues: with one for each record, up to 16,384 leaves would pile up beyond its cache.
const ACCESSES: usize = 3;

/// Neighbouring pages of records. Clones share them.
#[derive(Clone)]
pub struct PageGroup(Arc<Group>);

pub(super) struct Group {
    parts: Vec<Part>,
    bytes: Box<[u8]>,
}

/// A page of a group.
struct Part {
    /// The stamp under which it was read.
    stamp: Stamp,
    /// Its bytes end here, where those of the next part begin.
    end: u32,
    /// Its place among the possible pages of the group.
    nth: u8,
}

impl PageGroup {
    /// Returns the memory of the group, in bytes.
    pub fn bytes(&self) -> usize {
        bytes_of(self.0.parts.len(), self.0.bytes.len())
    }

    /// Returns page `number`, which must belong to this group.
    fn find(&self, number: u64) -> Option<(Stamp, PageBytes)> {
        let parts = &self.0.parts;
        let place = parts.binary_search_by_key(&(number % GROUP), |part| part.nth.into()).ok()?;
        let begin = if place == 0 { 0 } else { parts[place - 1].end };
        let Part { stamp, end, .. } = parts[place];
        Some((stamp, PageBytes::Group(Arc::clone(&self.0), begin..end)))
    }
}

/// Returns the memory of so many pages with so many bytes.
fn bytes_of(pages: usize, bytes: usize) -> usize {
    pages * size_of::<Part>() + bytes
}

/// The bytes of a page: in sled's memory, or in that of a group.
#[derive(Clone)]
pub(super) enum PageBytes {
    Sled(sled::IVec),
    Group(Arc<Group>, Range<u32>),
}

impl From<sled::IVec> for PageBytes {
    fn from(value: sled::IVec) -> Self {
        Self::Sled(value)
    }
}

impl Deref for PageBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Sled(value) => value,
            Self::Group(group, range) => &group.bytes[range.start as usize..range.end as usize],
        }
    }
}

impl AsRef<[u8]> for PageBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// A place for groups of pages, by their numbers. It need not keep what it is given.
pub trait PageCache: Send + Sync {
    /// Returns the group that was last kept under `number`.
    fn find(&self, number: u64) -> Option<PageGroup>;

    /// Returns the same group, without a sign that it is of use.
    fn peek(&self, number: u64) -> Option<PageGroup>;

    /// Keeps `group` under `number`.
    fn keep(&self, number: u64, group: PageGroup);

    /// Returns whether there is memory that nothing needs.
    fn has_room(&self) -> bool;

    /// Returns whether there is memory for all pages and for answers, too, so that pages stay that only lists are read from.
    fn is_roomy(&self) -> bool;
}

impl Store {
    /// Keeps pages of records in `cache` from now on. Only the first call counts.
    pub fn keep_pages_in(&self, cache: Arc<dyn PageCache>) {
        // A second one would hold pages that nobody asks it for.
        let _ = self.shared.pages.set(cache);
    }

    /// Returns about how many groups of pages there are, and the mean memory of one. What is damaged counts as any other: a
    /// read of it will tell.
    pub fn estimate_groups(&self) -> (u64, usize) {
        const SAMPLE: usize = 4 * GROUP as usize;
        let (mut groups, mut last, mut pages, mut records, mut bytes) = (0, None, 0, 0, 0);
        for (key, value) in self.db.scan_prefix([layout::PAGE]).take(SAMPLE).flatten() {
            let group = layout::page_of(&key).map(|page| page / GROUP);
            groups += usize::from(group != last);
            last = group;
            pages += 1;
            records += Page::read(&key, &value).map_or(0, |page| page.iter().count());
            bytes += value.len();
        }
        let all = self.counted().map_or(0, |counted| counted.count as usize);
        ((all * groups).div_ceil(records.max(1)) as u64, bytes_of(pages, bytes) / groups.max(1))
    }

    /// Reads record `id` if its page is in memory. What is wrong with it is for [`get`](Self::get) to say.
    pub fn get_from_memory(&self, id: Id) -> Option<Stored> {
        let (number, slot) = layout::place(id);
        let (stamp, value) = self.shared.pages.get()?.find(number / GROUP)?.find(number)?;
        if !self.is_current(stamp) {
            return None;
        }
        let entry = Page::read(&layout::page_key(number), &value).and_then(|page| page.find(slot)).ok()??;
        entry.json?;
        let stored = self.stored(&value, id, &entry).ok()??;
        Some(Stored { stamp, ..stored })
    }

    /// Returns page `number` and its stamp, from memory or from sled; the caller must check it. One that a `single` record is
    /// read from stays in memory. A list's records lie in many pages, and the list may be kept itself, in less room: its pages
    /// stay only if there is room for both.
    pub(super) fn page_value(&self, number: u64, single: bool) -> Result<Option<(Stamp, PageBytes)>, StoreError> {
        let (cache, group) = (self.shared.pages.get(), number / GROUP);
        let stays = single || cache.is_some_and(|cache| cache.is_roomy());
        let known = cache.and_then(|cache| if stays { cache.find(group) } else { cache.peek(group) });
        let page = known.as_ref().and_then(|known| known.find(number));
        if let Some(page) = page.filter(|(stamp, _)| self.is_current(*stamp)) {
            return Ok(Some(page));
        }
        let (stamp, key) = (self.stamp_of_page(number), layout::page_key(number));
        // Ids that nobody has must not fill the memory.
        let Some(value) = self.unchecked(&key)? else { return Ok(None) };
        self.note_accesses(&key);
        if let Some(cache) = cache.filter(|cache| stays && (known.is_some() || cache.has_room())) {
            cache.keep(group, self.read_group(group));
        }
        Ok(Some((stamp, value.into())))
    }

    /// Makes sled note a page's further accesses.
    fn note_accesses(&self, key: &[u8]) {
        if !self.shared.is_long.load(Ordering::Relaxed) {
            return;
        }
        // The result does not matter: an error shows again at the next key.
        (1..ACCESSES).for_each(|_| drop(self.db.contains_key(key)));
    }

    /// Reads the group `number`. What is damaged is for the one to say who asks for it.
    fn read_group(&self, number: u64) -> PageGroup {
        let pages = number * GROUP..(number + 1) * GROUP;
        let stamps: Vec<Stamp> = pages.clone().map(|page| self.stamp_of_page(page)).collect();
        let (mut parts, mut values) = (Vec::with_capacity(stamps.len()), Vec::with_capacity(stamps.len()));
        let mut end = 0;
        let found = self.checked(self.db.range(layout::page_key(pages.start)..layout::page_key(pages.end)));
        // What is behind an error stays out: sled would repeat it for ever.
        for (key, value) in found.map_while(Result::ok) {
            let Some(nth) = layout::page_of(&key).and_then(|page| usize::try_from(page - pages.start).ok()) else {
                continue;
            };
            end += value.len();
            parts.push(Part { stamp: stamps[nth], end: end as u32, nth: nth as u8 });
            values.push(value);
            self.note_accesses(&key);
        }
        PageGroup(Arc::new(Group { parts, bytes: values.concat().into() }))
    }
}
