//! The totals of a comparison, and the bound on differences in paths that were not asked for.

use std::collections::BTreeMap;

use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};

use super::finding::{Expected, Finding};
use super::paths::Paths;
use super::route::Route;
use super::verdict::{Outcome, Verdict};
use crate::plan::Plan;

/// The most differences and unknown paths that are printed.
pub const PRINTED: usize = 20;

/// The probability that more paths differ than the bound says.
const RISK: f64 = 0.05;

/// The counts of one route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// The requested paths.
    pub paths: u64,
    /// The records in the answers.
    pub records: u64,
    /// The paths with equal answers, byte for byte.
    pub equal: u64,
    /// The paths with only expected differences.
    pub expected: u64,
    /// The paths with other differences.
    pub different: u64,
    /// The paths that could not be judged.
    pub unknown: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.paths += other.paths;
        self.records += other.records;
        self.equal += other.equal;
        self.expected += other.expected;
        self.different += other.different;
        self.unknown += other.unknown;
    }

    /// Counts the paths that were judged.
    fn known(&self) -> u64 {
        self.paths - self.unknown
    }
}

/// The results so far.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// The counts, by the routes' names.
    pub routes: BTreeMap<String, Counts>,
    /// The numbers of answers with expected differences, by their keys.
    pub expected: BTreeMap<String, u64>,
    /// The first differences, with cut values.
    pub differences: Vec<Finding<'static>>,
    /// The number of unknown paths on which both sides agree against the source.
    pub contradictions: u64,
    /// The first unknown paths, with the reason.
    pub unknown: Vec<[String; 2]>,
    /// The compared ids, by their collections' names.
    pub ids: BTreeMap<String, RoaringTreemap>,
}

impl Tally {
    /// Adds the outcome of a path and its differences.
    pub fn add(&mut self, route: Route, path: &str, outcome: Outcome, findings: Vec<Finding<'static>>) {
        self.contradictions += u64::from(outcome.contradicts);
        let counts = self.routes.entry(route.to_string()).or_default();
        counts.paths += 1;
        counts.records += outcome.records;
        match outcome.verdict {
            Verdict::Alike(expected) if expected.is_empty() => counts.equal += 1,
            Verdict::Alike(expected) => {
                counts.expected += 1;
                for kind in expected {
                    *self.expected.entry(kind.key().into_owned()).or_default() += 1;
                }
            }
            Verdict::Different => counts.different += 1,
            Verdict::Unknown(why) => {
                counts.unknown += 1;
                if self.unknown.len() < PRINTED {
                    self.unknown.push([super::address::redact_query(path).into_owned(), why]);
                }
            }
        }
        let room = PRINTED.saturating_sub(self.differences.len());
        self.differences.extend(findings.into_iter().take(room));
        if let Some(collection) = route.collection() {
            *self.ids.entry(collection.name().to_owned()).or_default() |= outcome.ids;
        }
    }

    /// Returns the counts of a route.
    pub fn counts_of(&self, route: Route) -> Counts {
        self.routes.get(&*route.name()).copied().unwrap_or_default()
    }

    /// Returns the expected differences with their numbers, in printed order.
    pub fn expected_in(&self, plan: &Plan) -> Vec<(Expected, u64)> {
        let count = |kind: Expected| self.expected.get(&*kind.key()).map(|count| (kind, *count));
        Expected::all(plan).into_iter().filter_map(count).collect()
    }

    /// Returns the sum of all routes.
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.routes.values().for_each(|counts| total.add(counts));
        total
    }

    /// Counts the distinct records that were compared.
    pub fn records(&self) -> u64 {
        self.ids.values().map(RoaringTreemap::len).sum()
    }

    /// Returns the most paths of a route that may differ, of all `of`, with 95 % confidence.
    pub fn bound_of(&self, route: Route, of: u64) -> u64 {
        let counts = self.counts_of(route);
        bound(of, counts.known(), counts.different, RISK)
    }

    /// Returns the most paths of all routes that may differ, with 95 % confidence.
    pub fn bound(&self, paths: &Paths) -> u64 {
        let strata = paths.strata.iter().map(|stratum| {
            let counts = self.counts_of(stratum.route);
            (stratum.of, counts.known(), counts.different)
        });
        bound_of_all(&strata.collect::<Vec<_>>())
    }
}

/// Returns the largest number of differing items among `of` for which `known` random items show at most `found` of them
/// with a probability above `risk`: the exact bound for a sample without repetition.
fn bound(of: u64, known: u64, found: u64, risk: f64) -> u64 {
    if known >= of {
        return found;
    }
    let (mut low, mut high) = (found, of - (known - found));
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if chance(of, known, middle, found) > risk { low = middle } else { high = middle - 1 }
    }
    low
}

/// Returns the probability that `known` random items of `of`, of which `differing` differ, show at most `found` of these.
fn chance(of: u64, known: u64, differing: u64, found: u64) -> f64 {
    let alike = of - differing;
    let fewest = known.saturating_sub(alike);
    let ways = |seen: u64| logarithm_of_choices(differing, seen) + logarithm_of_choices(alike, known - seen);
    let all = logarithm_of_choices(of, known);
    (fewest..=found.min(differing).min(known)).map(|seen| (ways(seen) - all).exp()).sum()
}

/// Returns the natural logarithm of the number of ways to choose `some` of `of`.
fn logarithm_of_choices(of: u64, some: u64) -> f64 {
    logarithm_of_factorial(of) - logarithm_of_factorial(some) - logarithm_of_factorial(of - some)
}

fn logarithm_of_factorial(number: u64) -> f64 {
    if number < 32 {
        return (1..=number).map(|factor| (factor as f64).ln()).sum();
    }
    // Stirling's series: the omitted terms are below 1e-11 from here on.
    let number = number as f64;
    number * number.ln() - number + (std::f64::consts::TAU * number).ln() / 2.0 + 1.0 / (12.0 * number)
        - 1.0 / (360.0 * number.powi(3))
        + 1.0 / (1260.0 * number.powi(5))
}

/// Returns the bound for several routes, each with its numbers of paths, of known paths and of differing ones.
fn bound_of_all(routes: &[(u64, u64, u64)]) -> u64 {
    let open: Vec<_> = routes.iter().copied().filter(|(of, known, _)| known < of).collect();
    let closed: u64 = routes.iter().filter(|(of, known, _)| known >= of).map(|(.., found)| found).sum();
    if open.iter().any(|(.., found)| *found > 0) {
        // Each route gets its part of the risk: the sum may exceed the exact bound, but is never below it.
        let risk = RISK / open.len() as f64;
        return closed + open.iter().map(|&(of, known, found)| bound(of, known, found, risk)).sum::<u64>();
    }
    // No difference was seen. The probability of that is the product over the routes. The worst case puts each further
    // difference into the route where it lowers the probability least.
    let mut differing = vec![0_u64; open.len()];
    let (mut logarithm, mut total) = (0.0, 0);
    loop {
        let cost = |nth: usize| {
            let (of, known, _) = open[nth];
            let left = (of - differing[nth]) as f64;
            if of - differing[nth] <= known { f64::NEG_INFINITY } else { ((left - known as f64) / left).ln() }
        };
        let Some(nth) = (0..open.len()).max_by(|&left, &right| cost(left).total_cmp(&cost(right))) else { break };
        logarithm += cost(nth);
        if logarithm <= RISK.ln() {
            break;
        }
        differing[nth] += 1;
        total += 1;
    }
    closed + total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_the_exact_one() {
        // All known; the rule of three in a large population; small ones by hand.
        assert_eq!(bound(100, 100, 0, RISK), 0);
        assert_eq!(bound(100, 100, 7, RISK), 7);
        let of_many = bound(1_000_000, 300, 0, RISK);
        assert!((9_900..=10_000).contains(&of_many), "{of_many}: about 3 of 300");
        assert_eq!(bound(10, 0, 0, RISK), 10, "nothing is known");
        // 9 of 10 known: a differing one is unseen with a probability of 0.1.
        assert_eq!(bound(10, 9, 0, RISK), 1);
        // 99 of 100 known: with a probability of 0.01, which is below 0.05.
        assert_eq!(bound(100, 99, 0, RISK), 0);
        // By counting: the probability to see at most one of D among 5 of 20.
        let at_most_one = |differing: u64| chance(20, 5, differing, 1);
        // C(17,5)/C(20,5) + 3·C(17,4)/C(20,5) = 6188/15504 + 7140/15504
        assert!((at_most_one(3) - 13_328.0 / 15_504.0).abs() < 1e-9);
        assert_eq!(bound(20, 5, 1, RISK), (1..=16).filter(|d| at_most_one(*d) > RISK).max().unwrap());
    }

    #[test]
    fn the_bound_of_all_routes_is_that_of_the_worst_case() {
        assert_eq!(bound_of_all(&[]), 0);
        assert_eq!(bound_of_all(&[(100, 100, 0), (1, 1, 0)]), 0);
        assert_eq!(bound_of_all(&[(1_000, 50, 0)]), bound(1_000, 50, 0, RISK));
        // By trying every split of D over two routes.
        let (left, right) = ((60, 20), (30, 5));
        let worst = (0..=40_u64)
            .flat_map(|a| (0..=25_u64).map(move |b| (a, b)))
            .filter(|&(a, b)| chance(left.0, left.1, a, 0) * chance(right.0, right.1, b, 0) > RISK)
            .map(|(a, b)| a + b)
            .max()
            .unwrap();
        assert_eq!(bound_of_all(&[(60, 20, 0), (30, 5, 0), (5, 5, 0)]), worst);
        assert!(bound_of_all(&[(60, 20, 1), (30, 5, 0)]) >= worst);
    }
}
