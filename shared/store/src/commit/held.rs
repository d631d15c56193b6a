//! The records that an update holds: other writes to them are refused for now.

use std::collections::HashMap;

use record::id::Id;

/// Records that only an update changes for now.
pub(crate) struct Held {
    /// The records' ids, ascending.
    pub(crate) ids: Vec<u64>,
    /// The text ids of the records the update writes, with their numbers, where ids are texts. No other record may take
    /// one.
    pub(crate) texts: HashMap<Box<str>, u64>,
    /// The last id that is changed already: records up to it are released.
    pub(crate) done: u64,
}

impl Held {
    /// Returns whether the record is held.
    pub(crate) fn has(&self, id: Id) -> bool {
        id.get() > self.done && self.ids.binary_search(&id.get()).is_ok()
    }

    /// Returns whether a held record has the id `text`, or will have it.
    pub(crate) fn has_text(&self, text: &str) -> bool {
        self.texts.get(text).is_some_and(|number| *number > self.done)
    }
}
