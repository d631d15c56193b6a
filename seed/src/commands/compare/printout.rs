//! The report of a comparison, for people and programs.

use record::words::agree;
use std::borrow::Cow;
use std::fmt::Write;

use serde_json::{Value, json};

use super::paths::Paths;
use super::route::{Route, Takes, why_not};
use super::tally::{Counts, Tally};
use crate::plan::Plan;
use crate::report::Report;
use crate::report::table;

/// A finished comparison.
pub struct Printout<'p> {
    /// The monolith's URL, without secrets.
    pub monolith: String,
    /// The services' URL, without secrets.
    pub services: String,
    /// The source of ids and digits: `data`, `input` or `monolith`.
    pub source: &'static str,
    /// The time of the end, RFC 3339.
    pub finished: String,
    /// The collections.
    pub plan: &'p Plan,
    /// The requested paths.
    pub paths: &'p Paths,
    /// The results.
    pub tally: &'p Tally,
    /// The number of records, if it is known.
    pub records_of: Option<u64>,
    /// The number of rejected records in the source.
    pub rejected: u64,
    /// The seed of the sample.
    pub seed: u64,
    /// The reason why the comparison gave up, if it did.
    pub gave_up: Option<String>,
    /// The number of unknown paths that is allowed.
    pub max_unknown: u64,
}

/// The conclusion of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// Nothing differs.
    Alike,
    /// Something differs.
    Different,
    /// Too many paths are unknown.
    Unknown,
    /// A side was in trouble.
    GaveUp,
    /// No record was compared.
    NothingCompared,
}

impl Conclusion {
    /// Returns the key in reports.
    pub fn name(self) -> &'static str {
        match self {
            Conclusion::Alike => "alike",
            Conclusion::Different => "different",
            Conclusion::Unknown => "unknown",
            Conclusion::GaveUp => "gave_up",
            Conclusion::NothingCompared => "nothing_compared",
        }
    }

    /// Returns the exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Conclusion::Alike => 0,
            Conclusion::NothingCompared => 2,
            Conclusion::Different | Conclusion::Unknown => 4,
            Conclusion::GaveUp => 6,
        }
    }
}

impl Printout<'_> {
    /// Draws the conclusion.
    pub fn conclusion(&self) -> Conclusion {
        let total = self.tally.total();
        if total.different > 0 {
            Conclusion::Different
        } else if self.gave_up.is_some() {
            Conclusion::GaveUp
        } else if total.unknown - self.tally.contradictions > self.max_unknown {
            Conclusion::Unknown
        } else if total.records == 0 {
            Conclusion::NothingCompared
        } else if total.unknown > self.max_unknown {
            Conclusion::Unknown
        } else {
            Conclusion::Alike
        }
    }

    /// Returns the conclusion as a sentence.
    pub fn sentence(&self) -> String {
        let Counts { different, unknown, .. } = self.tally.total();
        match self.conclusion() {
            Conclusion::Alike => {
                "The services answer as the monolith does, except for expected differences.".to_owned()
            }
            Conclusion::Different => {
                format!("{different} {} answered differently.", agree(different, "path is", "paths are"))
            }
            Conclusion::Unknown => {
                format!("{unknown} {} unknown; --max-unknown N allows as many.", agree(unknown, "path is", "paths are"))
            }
            Conclusion::GaveUp => "The comparison gave up before its end.".to_owned(),
            Conclusion::NothingCompared => "No record was compared, so this proves nothing.".to_owned(),
        }
    }

    /// Describes how much was compared.
    pub fn extent(&self) -> String {
        let total = self.tally.total();
        let of = self.records_of.map(|of| format!(" of {of}")).unwrap_or_default();
        let routes = self.tally.routes.values().filter(|counts| counts.records > 0).count() as u64;
        let records = self.tally.records();
        let mut extent = format!(
            "{records}{of} {} {} compared, on {routes} {}: {} in the answers to {} of {} {}.",
            agree(self.records_of.unwrap_or(records), "record", "records"),
            agree(records, "was", "were"),
            agree(routes, "route", "routes"),
            total.records,
            total.paths,
            self.paths_of(),
            agree(self.paths_of(), "path", "paths"),
        );
        if total.paths - total.unknown < self.paths_of() && total.different == 0 {
            let bound = self.tally.bound(self.paths);
            let are = agree(bound, "is", "are");
            let _ = write!(
                extent,
                " With 95 % confidence, no more than {bound} of these paths {are} answered differently."
            );
        }
        extent
    }

    /// Describes the sample, if there is one.
    pub fn sample(&self) -> Option<String> {
        if !self.paths.is_sample() {
            return None;
        }
        let mut sample =
            format!("The paths are a sample of each route's; --sample-seed {} chooses it again.", self.seed);
        let left_out = self.paths.strata.iter().filter(|stratum| stratum.asked() == 0);
        let left_out: Vec<String> = left_out
            .map(|stratum| {
                format!("{} ({} {})", stratum.route, stratum.records, agree(stratum.records, "record", "records"))
            })
            .collect();
        if !left_out.is_empty() {
            let _ = write!(
                sample,
                " A sample leaves out long lists, which only a whole comparison has: {}.",
                left_out.join(", ")
            );
            if self.source == "monolith" {
                sample +=
                    " The ids came from the monolith's own lists, sent once; --data DIR or --input FILE spares that.";
            }
        }
        Some(sample)
    }

    /// Lists the collections and routes that were not asked for, with the reason.
    fn not_asked(&self) -> Vec<(Cow<'static, str>, &'static str)> {
        let collections = self.plan.iter().filter_map(|collection| {
            let why = match why_not(collection) {
                None if self.paths.has_records_of(collection) => return None,
                why => why.unwrap_or("no path asks for it"),
            };
            Some((collection.name().into(), why))
        });
        let routes = Route::of_the_monolith(self.plan).into_iter();
        let routes = routes.filter(|route| route.takes() == Takes::Text && !self.paths.has_route(*route));
        let why = "its texts are not listed: --paths FILE asks for them";
        collections.chain(routes.map(|route| (route.name(), why))).collect()
    }

    /// Returns this list as a sentence, unless it is empty.
    pub fn not_compared(&self) -> Option<String> {
        let parts: Vec<String> = self.not_asked().into_iter().map(|(name, why)| format!("{name} ({why})")).collect();
        (!parts.is_empty()).then(|| format!("Not compared: {}.", parts.join(", ")))
    }

    /// Returns all remarks on the limits of the comparison.
    pub fn remarks(&self) -> impl Iterator<Item = String> {
        [self.not_compared(), self.gave_up.clone(), self.sample(), self.remark()].into_iter().flatten()
    }

    /// Returns the remark on rejected records, if any.
    pub fn remark(&self) -> Option<String> {
        (self.rejected > 0).then(|| {
            let (was, them) = (
                agree(self.rejected, "record of the source was", "records of the source were"),
                agree(self.rejected, "it", "them"),
            );
            format!(
                "{} {was} rejected: the services do not have {them}, so the lists with {them} differ.",
                self.rejected
            )
        })
    }

    fn paths_of(&self) -> u64 {
        self.paths.strata.iter().map(|stratum| stratum.of).sum()
    }

    /// Returns the table of routes, with a row of titles.
    pub fn rows(&self) -> Vec<[String; 9]> {
        let titles = ["route", "paths", "of", "records", "alike", "expected", "different", "unknown", "may differ"];
        let mut rows = vec![titles.map(String::from)];
        for stratum in &self.paths.strata {
            let counts = self.tally.counts_of(stratum.route);
            let Counts { paths, records, equal, expected, different, unknown } = counts;
            let bound = self.tally.bound_of(stratum.route, stratum.of);
            let numbers = [paths, stratum.of, records, equal, expected, different, unknown, bound];
            let mut row = [const { String::new() }; 9];
            row[0] = stratum.route.to_string();
            for (cell, number) in row[1..].iter_mut().zip(numbers) {
                *cell = number.to_string();
            }
            rows.push(row);
        }
        rows
    }

    /// Returns the printed report.
    pub fn report(&self) -> Report {
        let total = self.tally.total();
        let mut text = format!(
            "{} {} asked for: {} answered alike, {} as expected, {} {}, {} unknown.\n{}\n{}\n",
            total.paths,
            agree(total.paths, "path", "paths"),
            total.equal,
            total.expected,
            total.different,
            agree(total.different, "differs", "differ"),
            total.unknown,
            self.extent(),
            self.sentence()
        );
        for remark in self.remarks() {
            let _ = writeln!(text, "{remark}");
        }
        let _ = writeln!(text, "\n{}", table(&self.rows()));
        for (kind, count) in self.tally.expected_in(self.plan) {
            let _ = writeln!(text, "As expected, {count} {} in {}.", agree(count, "differs", "differ"), kind.meaning());
        }
        for difference in &self.tally.differences {
            let _ = writeln!(text, "  {}: {}", difference.path, difference.text());
        }
        for [path, why] in &self.tally.unknown {
            let _ = writeln!(text, "  unknown: {path}: {why}");
        }
        let mut json = self.to_json();
        json["differences"] = json!(self.tally.differences);
        Report { text, json, note: String::new(), exit_code: self.conclusion().exit_code(), is_secret: false }
    }

    /// Returns the report for programs, without the differences.
    pub fn to_json(&self) -> Value {
        let total = self.tally.total();
        let routes = self.paths.strata.iter().map(|stratum| {
            let counts = self.tally.counts_of(stratum.route);
            let mut json = json!(counts);
            json["route"] = json!(stratum.route);
            json["of"] = json!(stratum.of);
            json["may_differ"] = json!(self.tally.bound_of(stratum.route, stratum.of));
            json
        });
        let unknown = self.tally.unknown.iter().map(|[path, why]| json!({ "path": path, "reason": why }));
        let first = self.tally.differences.iter().map(|found| format!("{}: {}", found.path, found.text()));
        let mut json = json!({
            "outcome": "compared",
            "result": self.conclusion().name(),
            "exit_code": self.conclusion().exit_code(),
            "monolith": self.monolith,
            "services": self.services,
            "source": self.source,
            "finished": self.finished,
            "paths": total.paths,
            "paths_of": self.paths_of(),
            "equal": total.equal,
            "expected": self.tally.expected,
            "different": total.different,
            "unknown": total.unknown,
            "records": { "compared": self.tally.records(), "of": self.records_of, "in_answers": total.records },
            "may_differ": self.tally.bound(self.paths),
            "sample_seed": self.paths.is_sample().then_some(self.seed),
            "rejected": self.rejected,
            "gave_up": self.gave_up,
            "routes": routes.collect::<Vec<_>>(),
            "first": first.collect::<Vec<_>>(),
            "unknown_paths": unknown.collect::<Vec<_>>(),
        });
        let not_asked = self.not_asked();
        if !not_asked.is_empty() {
            let left = not_asked.iter().map(|(name, why)| json!({ "name": name, "reason": why }));
            json["not_compared"] = left.collect();
        }
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::compare::reference::Reference;
    use crate::commands::compare::route::tests::wide_plan;

    fn printed(plan: &Plan, paths: &Paths) -> (String, Value) {
        let printout = Printout {
            monolith: String::new(),
            services: String::new(),
            source: "input",
            finished: String::new(),
            plan,
            paths,
            tally: &Tally::default(),
            records_of: Some(0),
            rejected: 0,
            seed: 0,
            gave_up: None,
            max_unknown: 0,
        };
        (printout.report().text, printout.to_json())
    }

    #[test]
    fn collections_and_routes_that_were_not_asked_for_are_named() {
        let plan = Plan::workspace();
        let (text, json) = printed(&plan, &Paths::of_records(&plan, &Reference::default()));
        assert!(!text.contains("Not compared") && json.get("not_compared").is_none(), "{text}{json}");

        let plan = wide_plan();
        let (text, json) = printed(&plan, &Paths::of_records(&plan, &Reference::default()));
        let expected = "\nNot compared: friends (the monolith does not have it), /api/Entries/by-label/:label (its texts are \
                        not listed: --paths FILE asks for them).\n";
        assert!(text.contains(expected), "{text}");
        assert_eq!(json["not_compared"][0], json!({ "name": "friends", "reason": "the monolith does not have it" }));
        assert_eq!(json["not_compared"].as_array().map(Vec::len), Some(2));

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("paths");
        std::fs::write(&file, "/api/users/1\n/api/friends\n/api/Entries/by-label/a\n").unwrap();
        let (text, _) = printed(&plan, &Paths::of_file(&plan, &file).unwrap());
        assert!(text.contains("threads (no path asks for it), posts (no path asks for it)"), "{text}");
        assert!(!text.contains("Entries (") && !text.contains("by-label/:label ("), "{text}");
    }
}
