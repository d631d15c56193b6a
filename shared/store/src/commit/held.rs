//! What an update holds: whoever else writes to it is told to come again.

use std::collections::HashMap;

use record::id::Id;

/// Records that only an update changes for now.
pub(crate) struct Held {
    /// Their ids, which ascend.
    pub(crate) ids: Vec<u64>,
    /// The texts of those that are written, where ids are texts, with their numbers: nobody else is to be called so.
    pub(crate) texts: HashMap<Box<str>, u64>,
    /// Up to this one they are changed, and everybody's again.
    pub(crate) done: u64,
}

impl Held {
    pub(crate) fn has(&self, id: Id) -> bool {
        id.get() > self.done && self.ids.binary_search(&id.get()).is_ok()
    }

    /// The same of the record that is to be called so.
    pub(crate) fn has_text(&self, text: &str) -> bool {
        self.texts.get(text).is_some_and(|number| *number > self.done)
    }
}
