//! The paths to ask for: every route of every record, or the paths in a file; all, or a sample of each route.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use fastrand::Rng;
use record::model::Collection;
use roaring::RoaringTreemap;
use sha2::{Digest, Sha256};

use super::reference::Reference;
use super::route::{Route, Takes};
use crate::error::Error;
use crate::plan::Plan;

/// The greatest length of a line in a file of paths, in bytes. A longer line is not from an access log.
const LINE: usize = 64 << 10;

/// The most records of a list in a sample, unless the sample is larger.
const LONG_LIST: u64 = 10_000;

/// The paths to ask for, route by route.
pub struct Paths {
    /// The routes, in the order of the requests.
    pub strata: Vec<Stratum>,
}

/// The paths of one route.
pub struct Stratum {
    /// The route.
    pub route: Route,
    /// The number of its paths; a sample asks for fewer.
    pub of: u64,
    /// The number of records, if the route sends a whole collection.
    pub records: u64,
    paths: Asked,
}

/// The requested paths.
enum Asked {
    /// The route with each of these ids.
    Ids(RoaringTreemap),
    /// These paths.
    Texts(Vec<String>),
}

impl Stratum {
    /// Counts the requested paths.
    pub fn asked(&self) -> u64 {
        match &self.paths {
            Asked::Ids(ids) => ids.len(),
            Asked::Texts(texts) => texts.len() as u64,
        }
    }

    fn paths(&self) -> Box<dyn Iterator<Item = String> + Send + '_> {
        match &self.paths {
            Asked::Ids(ids) => Box::new(ids.iter().map(|id| self.route.path_of(id))),
            Asked::Texts(texts) => Box::new(texts.iter().cloned()),
        }
    }

    /// Keeps `count` random paths, each with the same probability.
    fn choose(&mut self, count: u64, random: &mut Rng) {
        let mut left = self.asked();
        let mut wanted = count.min(left);
        let mut choose = || {
            // Selection sampling: the probability of each depends on how many are left and wanted.
            let take = left > 0 && random.u64(0..left) < wanted;
            left = left.saturating_sub(1);
            wanted -= u64::from(take);
            take
        };
        match &mut self.paths {
            Asked::Ids(ids) => *ids = ids.iter().filter(|_| choose()).collect(),
            Asked::Texts(texts) => texts.retain(|_| choose()),
        }
    }
}

impl Paths {
    /// Makes the paths of every route and record. Routes that take texts are left out, since their texts are unknown.
    pub fn of_records(plan: &Plan, reference: &Reference) -> Self {
        let strata = Route::of_the_monolith(plan).into_iter().filter_map(|route| {
            let (paths, list) = match route.takes() {
                Takes::Nothing => (Asked::Texts(vec![route.name().into_owned()]), route.collection()),
                Takes::IdOf(name) => {
                    let collection = plan.named(name)?;
                    let paths = if collection.has_text_ids() {
                        // The monolith finds no record by an id that the split gave.
                        let texts = reference.texts(collection, route.index().is_some());
                        Asked::Texts(texts.into_iter().map(|text| route.path_of_text(text)).collect())
                    } else {
                        Asked::Ids(reference.ids(collection))
                    };
                    (paths, None)
                }
                Takes::Text => return None,
            };
            let records = list.map_or(0, |collection| reference.records(collection));
            let mut stratum = Stratum { route, of: 0, records, paths };
            stratum.of = stratum.asked();
            Some(stratum)
        });
        Self { strata: strata.filter(|stratum| stratum.of > 0).collect() }
    }

    /// Reads the paths in a file: one on each line, alone or as a word of it, as in an access log.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of_file(plan: &Plan, file: &Path) -> Result<Self, Error> {
        let mut lines = BufReader::new(File::open(file).map_err(Error::io(file))?);
        let mut routes: BTreeMap<Route, Vec<String>> = BTreeMap::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            if lines.read_until(b'\n', &mut line).map_err(Error::io(file))? == 0 {
                break;
            }
            let Some(line) = std::str::from_utf8(&line).ok().filter(|line| line.len() < LINE) else { continue };
            // Access logs quote paths: `"GET /api/users HTTP/1.1"`, `path="/api/users"`.
            let path = line.trim_end().split([' ', '\t', '"']).find(|word| word.starts_with('/'));
            if let Some(path) = path {
                routes.entry(Route::of(plan, path).0).or_default().push(path.to_owned());
            }
        }
        let strata = routes.into_iter().map(|(route, mut texts)| {
            texts.sort_unstable();
            texts.dedup();
            Stratum { route, of: texts.len() as u64, records: 0, paths: Asked::Texts(texts) }
        });
        Ok(Self { strata: strata.collect() })
    }

    /// Keeps `count` random paths. Each route gets an equal share; the others share what a route cannot fill, so that each
    /// is known as well as possible. Long lists of whole collections are left out, to spare the monolith.
    pub fn sample(&mut self, count: u64, seed: u64) {
        let is_long = |stratum: &Stratum| stratum.records > LONG_LIST.max(count);
        self.strata
            .iter_mut()
            .filter(|stratum| is_long(stratum))
            .for_each(|list| list.paths = Asked::Texts(Vec::new()));
        let mut order: Vec<usize> = (0..self.strata.len()).filter(|&nth| !is_long(&self.strata[nth])).collect();
        order.sort_by_key(|&nth| self.strata[nth].of);
        let (mut left, mut random) = (count, Rng::with_seed(seed));
        for (before, nth) in order.iter().enumerate() {
            let routes_left = (order.len() - before) as u64;
            // Every route gets at least one path.
            let share = (left / routes_left).max(1).min(self.strata[*nth].of);
            self.strata[*nth].choose(share, &mut random);
            left = left.saturating_sub(share);
        }
    }

    /// Counts the requested paths.
    pub fn asked(&self) -> u64 {
        self.strata.iter().map(Stratum::asked).sum()
    }

    /// Returns whether a path of this route is requested.
    pub fn has_route(&self, route: Route) -> bool {
        self.strata.iter().any(|stratum| stratum.route == route && stratum.asked() > 0)
    }

    /// Returns whether a path of this collection is requested.
    pub fn has_records_of(&self, collection: Collection) -> bool {
        self.strata.iter().any(|stratum| stratum.route.collection() == Some(collection) && stratum.asked() > 0)
    }

    /// Returns whether only some of the paths are requested.
    pub fn is_sample(&self) -> bool {
        self.strata.iter().any(|stratum| stratum.asked() < stratum.of)
    }

    /// Iterates over the requested paths.
    pub fn paths(&self) -> impl Iterator<Item = String> + '_ {
        self.strata.iter().flat_map(Stratum::paths)
    }

    /// Returns a hexadecimal digest of the paths and the routes' sizes.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for stratum in &self.strata {
            hash.update(stratum.of.to_be_bytes());
        }
        for path in self.paths() {
            hash.update(path);
            hash.update(b"\n");
        }
        hex::encode(hash.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::compare::route::tests::named;

    fn paths(sizes: &[u64]) -> Paths {
        let names = ["/", "/api/users/:id", "/api/threads/:id", "/api/posts/in-thread/:id"];
        let routes = names.map(|name| named(&Plan::workspace(), name));
        let strata = routes.into_iter().zip(sizes).map(|(route, &of)| {
            let paths = Asked::Ids((1..=of).collect());
            Stratum { route, of, records: 0, paths }
        });
        Paths { strata: strata.collect() }
    }

    #[test]
    fn a_sample_has_the_requested_size_and_every_route() {
        for (sizes, count, expected) in [
            (&[1, 10, 100, 1000][..], 64, &[1, 10, 26, 27][..]),
            (&[1, 10, 100, 1000], 1, &[1, 1, 1, 1]),
            (&[1, 10, 100, 1000], 5000, &[1, 10, 100, 1000]),
            (&[500, 500], 100, &[50, 50]),
        ] {
            let mut sample = paths(sizes);
            sample.sample(count, 7);
            let asked: Vec<u64> = sample.strata.iter().map(Stratum::asked).collect();
            assert_eq!(asked, expected, "{count} of {sizes:?}");
            let chosen: Vec<String> = sample.paths().collect();
            let mut again = paths(sizes);
            again.sample(count, 7);
            assert_eq!(again.paths().collect::<Vec<_>>(), chosen, "one seed, one sample");
        }
        let sampled = |seed| {
            let mut sample = paths(&[0, 1000]);
            sample.sample(10, seed);
            sample.digest()
        };
        assert_ne!(sampled(1), sampled(2));
    }

    #[test]
    fn a_sample_has_a_long_list_only_if_the_sample_is_larger() {
        let mut lists = paths(&[1, 100]);
        lists.strata[0].records = 20_000;
        lists.sample(10, 7);
        assert_eq!([0, 1].map(|nth| lists.strata[nth].asked()), [0, 10]);
        let mut lists = paths(&[1, 30_000]);
        lists.strata[0].records = 20_000;
        lists.sample(20_000, 7);
        assert_eq!([0, 1].map(|nth| lists.strata[nth].asked()), [1, 19_999]);
    }

    #[test]
    fn every_path_is_as_likely_as_any_other() {
        let mut counts = [0_u32; 20];
        for seed in 0..4000 {
            let mut sample = paths(&[0, 20]);
            sample.sample(5, seed);
            let Asked::Ids(ids) = &sample.strata[1].paths else { panic!("it has ids") };
            ids.iter().for_each(|id| counts[id as usize - 1] += 1);
        }
        // 1,000 each, with a standard deviation of 27.
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
