//! Obstacles to a split, each with its remedy.

use record::words::agree;
use std::borrow::Cow;
use std::fmt::{self, Display, Formatter};

use serde::Serialize;

/// A thing that prevents a split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Obstacle {
    /// Its kind.
    pub kind: Kind,
    /// JSON pointer and byte offset.
    pub place: String,
    /// The fault there.
    pub reason: String,
}

impl Display for Obstacle {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        write!(f, "{}: {}", shorten(&self.place), self.reason)
    }
}

/// Kinds of obstacles, each with its own remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A collection that no service owns.
    Unowned,
    /// A member that no service owns and no plan can have.
    Unplannable,
    /// A required collection that is missing.
    Missing,
    /// A file without any of the collections.
    Empty,
    /// A collection that is not a list.
    Collection,
    /// A repeated collection.
    RepeatedCollection,
    /// A record that does not fit.
    Record,
    /// A record with the id of another.
    RepeatedId,
    /// A rejected record beyond the limit.
    Reject,
    /// Invalid JSON: nothing after it can be read.
    Json,
}

impl Kind {
    /// All kinds.
    const ALL: [Self; 10] = [
        Self::Unowned,
        Self::Unplannable,
        Self::Missing,
        Self::Empty,
        Self::Collection,
        Self::RepeatedCollection,
        Self::Record,
        Self::RepeatedId,
        Self::Reject,
        Self::Json,
    ];

    /// Returns the remedy. Unless the command names a plan, editing a declaration has no effect: the split's or the
    /// program's own declaration applies.
    fn remedy(self, plan_is_given: bool) -> &'static str {
        match self {
            Self::Unowned => {
                "A collection that no service owns: --rest FILE puts it aside, or `seed plan --from FILE --output FOLDER` \
                 proposes a plan that has it."
            }
            Self::Unplannable => "A member that no service owns and no plan can have: --rest FILE puts it aside.",
            Self::Missing => "A missing collection: without --require it is empty.",
            Self::Empty => {
                "A file without any collection of the plan: correct the file, or name the file's own plan with --plan FOLDER."
            }
            Self::Collection => {
                "A collection that is not a list: correct the file, or drop it from the plan, and --rest FILE puts it aside."
            }
            Self::RepeatedCollection => {
                "A repeated collection: correct the file. The monolith's JSON.parse takes only the last one, so delete the \
                 others, or move their records into it."
            }
            Self::Record if plan_is_given => {
                "A record that does not fit: correct the file, or edit its collection.json; or --rejects FILE goes on \
                 without such records."
            }
            Self::Record => {
                "A record that does not fit: correct the file, or give --plan FOLDER with the edited declaration; or \
                 --rejects FILE goes on without such records."
            }
            Self::RepeatedId => "A repeated id: correct the file, or --rejects FILE goes on without the later record.",
            Self::Reject => {
                "More rejected records than --max-rejects allows: correct the file, or raise --max-rejects."
            }
            Self::Json => "Invalid JSON: correct the file; nothing after it was looked at.",
        }
    }
}

/// The obstacles to a split.
#[derive(Debug)]
pub struct Obstacles {
    /// The named ones, in the file's order if they have a place in it.
    pub named: Vec<Obstacle>,
    /// The numbers of further records, by collection.
    pub more: Vec<(String, u64)>,
    /// Whether the command names a plan.
    pub plan_is_given: bool,
}

impl Display for Obstacles {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match &self.named[..] {
            [obstacle] if self.more.is_empty() => writeln!(f, "{obstacle}")?,
            named => {
                writeln!(f, "this is in the way of a split:")?;
                named.iter().try_for_each(|obstacle| writeln!(f, "  {obstacle}"))?;
            }
        }
        for (collection, more) in &self.more {
            writeln!(f, "  and {more} more {} of {collection}", agree(*more, "record", "records"))?;
        }
        for kind in Kind::ALL {
            if self.named.iter().any(|obstacle| obstacle.kind == kind) {
                writeln!(f, "{}", kind.remedy(self.plan_is_given))?;
            }
        }
        Ok(())
    }
}

/// Shortens a place for people: leaves out the middle of a long one.
pub fn shorten(place: &str) -> Cow<'_, str> {
    const END: usize = 100;
    let cut = |nth| place.char_indices().nth(nth).map_or(place.len(), |(at, _)| at);
    match place.chars().count() {
        length if length > 2 * END => format!("{}…{}", &place[..cut(END)], &place[cut(length - END)..]).into(),
        _ => place.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_a_long_place_is_left_out_for_people() {
        let place = format!("/users/0{} (byte 7)", "/é".repeat(130));
        let short = shorten(&place);
        assert_eq!(short.chars().count(), 201);
        assert!(short.starts_with("/users/0/é") && short.contains("é…é") && short.ends_with("é (byte 7)"), "{short}");
        assert_eq!(shorten("/users/0 (byte 7)"), "/users/0 (byte 7)");
        let obstacle = Obstacle { kind: Kind::Record, place: place.clone(), reason: "wrong".to_owned() };
        assert_eq!(obstacle.to_string(), format!("{short}: wrong"));
        assert_eq!(serde_json::to_value(obstacle).unwrap()["place"], place);
    }

    #[test]
    fn each_kind_names_its_remedy_alone_or_among_others() {
        let of = |kinds: &[Kind], plan_is_given| {
            let one = |kind: &Kind| Obstacle { kind: *kind, place: "/a".to_owned(), reason: "wrong".to_owned() };
            Obstacles { named: kinds.iter().map(one).collect(), more: Vec::new(), plan_is_given }.to_string()
        };
        assert_eq!(
            of(&[Kind::Unplannable], true),
            "/a: wrong\nA member that no service owns and no plan can have: --rest FILE puts it aside.\n"
        );
        for kind in Kind::ALL {
            assert!(of(&[kind], true).contains(kind.remedy(true)));
        }
        let repeated = of(&[Kind::RepeatedId, Kind::RepeatedId], true);
        assert!(repeated.starts_with("this is in the way of a split:\n  /a: wrong\n  /a: wrong\n"), "{repeated}");
        assert!(!repeated.contains("collection.json") && repeated.contains("--rejects FILE"), "{repeated}");
        assert!(of(&[Kind::Record], true).contains("edit its collection.json"));
        let without_plan = of(&[Kind::Record], false);
        assert!(without_plan.contains("give --plan FOLDER with the edited declaration"), "{without_plan}");
    }
}
