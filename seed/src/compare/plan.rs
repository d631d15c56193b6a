//! What is asked for: every route of every record, or the paths in a file; all of them, or a sample of each route's.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use fastrand::Rng;
use roaring::RoaringTreemap;
use sha2::{Digest, Sha256};
use shared::model::Collection;

use super::reference::{Reference, number_of};
use super::route::Route;
use crate::error::Error;

/// How long a line of a file with paths may be, in bytes: what is longer is no line of an access log.
const LINE: usize = 64 << 10;

/// A list of more records than this is not in a sample, unless the sample is larger.
const LONG_LIST: u64 = 10_000;

/// The paths to ask for, route by route.
pub struct Plan {
    /// In the order in which they are asked for.
    pub strata: Vec<Stratum>,
}

/// The paths of one route.
pub struct Stratum {
    /// The route.
    pub route: Route,
    /// How many it has; those that are asked for may be fewer.
    pub of: u64,
    /// How many records a whole collection's list has.
    pub records: u64,
    paths: Paths,
}

enum Paths {
    /// The route with each of these ids.
    Ids(RoaringTreemap),
    Texts(Vec<String>),
}

impl Stratum {
    /// How many are asked for.
    pub fn asked(&self) -> u64 {
        match &self.paths {
            Paths::Ids(ids) => ids.len(),
            Paths::Texts(texts) => texts.len() as u64,
        }
    }

    fn paths(&self) -> Box<dyn Iterator<Item = String> + Send + '_> {
        match &self.paths {
            Paths::Ids(ids) => Box::new(ids.iter().map(|id| self.route.path_of(id))),
            Paths::Texts(texts) => Box::new(texts.iter().cloned()),
        }
    }

    /// Leaves as many as told, each as likely as any other.
    fn choose(&mut self, count: u64, random: &mut Rng) {
        let mut left = self.asked();
        let mut wanted = count.min(left);
        let mut choose = || {
            // Each is taken with the chance that makes the rest come out right.
            let take = left > 0 && random.u64(0..left) < wanted;
            left = left.saturating_sub(1);
            wanted -= u64::from(take);
            take
        };
        match &mut self.paths {
            Paths::Ids(ids) => *ids = ids.iter().filter(|_| choose()).collect(),
            Paths::Texts(texts) => texts.retain(|_| choose()),
        }
    }
}

impl Plan {
    /// Every route of every record.
    pub fn of_records(reference: &Reference) -> Self {
        let strata = Route::OF_THE_MONOLITH.into_iter().map(|route| {
            let ids = |collection| Paths::Ids(reference.ids[number_of(collection)].clone());
            let paths = match route {
                Route::User | Route::PostsByUser => ids(Collection::Users),
                Route::Thread | Route::PostsInThread => ids(Collection::Threads),
                _ => Paths::Texts(vec![route.name().to_owned()]),
            };
            let collection = route.collection().filter(|_| !route.takes_id());
            let records = collection.map_or(0, |collection| reference.records[number_of(collection)]);
            let mut stratum = Stratum { route, of: 0, records, paths };
            stratum.of = stratum.asked();
            stratum
        });
        Self { strata: strata.filter(|stratum| stratum.of > 0).collect() }
    }

    /// The paths in a file: one in each line, alone or as a word of it, as in an access log.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of_file(file: &Path) -> Result<Self, Error> {
        let mut lines = BufReader::new(File::open(file).map_err(Error::io(file))?);
        let mut routes: BTreeMap<Route, Vec<String>> = BTreeMap::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            if lines.read_until(b'\n', &mut line).map_err(Error::io(file))? == 0 {
                break;
            }
            let Some(line) = std::str::from_utf8(&line).ok().filter(|line| line.len() < LINE) else { continue };
            // An access log quotes what it holds: `"GET /api/users HTTP/1.1"`, `path="/api/users"`.
            let path = line.trim_end().split([' ', '\t', '"']).find(|word| word.starts_with('/'));
            if let Some(path) = path {
                routes.entry(Route::of(path).0).or_default().push(path.to_owned());
            }
        }
        let strata = routes.into_iter().map(|(route, mut texts)| {
            texts.sort_unstable();
            texts.dedup();
            Stratum { route, of: texts.len() as u64, records: 0, paths: Paths::Texts(texts) }
        });
        Ok(Self { strata: strata.collect() })
    }

    /// Leaves `count` paths. Each route gets an equal share, and what one route has not is shared by the others, so that
    /// as much is known of each as can be. The lists of whole collections are left out where they are long: a sample is
    /// to spare a monolith from sending them.
    pub fn sample(&mut self, count: u64, seed: u64) {
        let is_long = |stratum: &Stratum| stratum.records > LONG_LIST.max(count);
        self.strata
            .iter_mut()
            .filter(|stratum| is_long(stratum))
            .for_each(|list| list.paths = Paths::Texts(Vec::new()));
        let mut order: Vec<usize> = (0..self.strata.len()).filter(|&nth| !is_long(&self.strata[nth])).collect();
        order.sort_by_key(|&nth| self.strata[nth].of);
        let (mut left, mut random) = (count, Rng::with_seed(seed));
        for (before, nth) in order.iter().enumerate() {
            let routes_left = (order.len() - before) as u64;
            // Every route is asked, however few paths that leaves to the others.
            let share = (left / routes_left).max(1).min(self.strata[*nth].of);
            self.strata[*nth].choose(share, &mut random);
            left = left.saturating_sub(share);
        }
    }

    /// How many paths are asked for.
    pub fn asked(&self) -> u64 {
        self.strata.iter().map(Stratum::asked).sum()
    }

    /// Whether not all are asked for.
    pub fn is_sample(&self) -> bool {
        self.strata.iter().any(|stratum| stratum.asked() < stratum.of)
    }

    /// The paths.
    pub fn paths(&self) -> impl Iterator<Item = String> + '_ {
        self.strata.iter().flat_map(Stratum::paths)
    }

    /// A digest of all that is asked for, hexadecimal.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for stratum in &self.strata {
            hash.update(stratum.of.to_be_bytes());
        }
        for path in self.paths() {
            hash.update(path);
            hash.update(b"\n");
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(sizes: &[u64]) -> Plan {
        let routes = [Route::Root, Route::User, Route::Thread, Route::PostsInThread];
        let strata = routes.into_iter().zip(sizes).map(|(route, &of)| {
            let paths = Paths::Ids((1..=of).collect());
            Stratum { route, of, records: 0, paths }
        });
        Plan { strata: strata.collect() }
    }

    #[test]
    fn a_sample_has_its_size_and_every_route() {
        for (sizes, count, expected) in [
            (&[1, 10, 100, 1000][..], 64, &[1, 10, 26, 27][..]),
            (&[1, 10, 100, 1000], 1, &[1, 1, 1, 1]),
            (&[1, 10, 100, 1000], 5000, &[1, 10, 100, 1000]),
            (&[500, 500], 100, &[50, 50]),
        ] {
            let mut sample = plan(sizes);
            sample.sample(count, 7);
            let asked: Vec<u64> = sample.strata.iter().map(Stratum::asked).collect();
            assert_eq!(asked, expected, "{count} of {sizes:?}");
            let paths: Vec<String> = sample.paths().collect();
            let mut again = plan(sizes);
            again.sample(count, 7);
            assert_eq!(again.paths().collect::<Vec<_>>(), paths, "one seed, one sample");
        }
        let sampled = |seed| {
            let mut plan = plan(&[0, 1000]);
            plan.sample(10, seed);
            plan.digest()
        };
        assert_ne!(sampled(1), sampled(2));
    }

    #[test]
    fn a_sample_has_no_long_list_unless_it_is_larger() {
        let mut lists = plan(&[1, 100]);
        lists.strata[0].records = 20_000;
        lists.sample(10, 7);
        assert_eq!([0, 1].map(|nth| lists.strata[nth].asked()), [0, 10]);
        let mut lists = plan(&[1, 30_000]);
        lists.strata[0].records = 20_000;
        lists.sample(20_000, 7);
        assert_eq!([0, 1].map(|nth| lists.strata[nth].asked()), [1, 19_999]);
    }

    #[test]
    fn every_path_is_as_likely_as_any_other() {
        let mut counts = [0_u32; 20];
        for seed in 0..4000 {
            let mut plan = plan(&[0, 20]);
            plan.sample(5, seed);
            let Paths::Ids(ids) = &plan.strata[1].paths else { panic!("it has ids") };
            ids.iter().for_each(|id| counts[id as usize - 1] += 1);
        }
        // 1,000 each, with a standard deviation of 27.
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
