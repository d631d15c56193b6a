//! A newer list of records that have no ids, beside the list that was split: which of its records is which.
//!
//! Ids that were given stay with their records, whatever becomes of their positions. So the newer list is aligned with
//! the slice by what the records say:
//!
//! 1. Equal records that stand in the same order on both sides are the same: the anchors, which an edit script finds.
//! 2. Of the others, equal ones are the same wherever they stand, the first here with the first there: they have moved.
//! 3. Between two anchors, a record that is [near](alikeness) one that stood there is that one, changed. So is one that
//!    stands beside a record which has moved, beside which the other stood.
//! 4. Whatever is left of the newer list is new, and gets an id that nobody ever had; what is left of the slice is gone.
//!
//! A record that cannot be taken, where there may be such, stands for one that is left of the slice at its place.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use imara_diff::{Algorithm, Diff, Token};
use rayon::prelude::*;
use roaring::RoaringTreemap;
use sha2::{Digest as _, Sha256};
use shared::id::Id;
use shared::model::{Collection, Record, Records};

use crate::error::Error;
use crate::ids::Ids;
use crate::near::{Content, alikeness};
use crate::node;
use crate::progress::Stage;
use crate::source::{Reading, Source};

/// Lists that together are no longer than this get the shortest edit script there is.
const SHORT: usize = 1 << 12;

/// In longer ones, a text that stands there more often than this is no anchor: an edit script would take for ever.
const RARE: u32 = 64;

/// How many pairs between two anchors are all looked at.
const PAIRS: usize = 1 << 14;

/// Where there are more, how many records of the slice each of the newer list is held against.
const WINDOW: usize = 16;

/// How many records lie between a record and its neighbour, at most.
const NEIGHBOURS: usize = 8;

/// How many records are named.
const NAMED: usize = 20;

/// What became of the records of a list.
#[derive(Debug, Default)]
pub struct Alignment {
    /// The ids of the newer list's positions.
    pub ids: Ids,
    /// Records of the slice that stand, in the newer list, as ones that cannot be taken.
    pub rejected: RoaringTreemap,
    /// Equal to one of the slice, in another order.
    pub moved: u64,
    /// Near one of the slice.
    pub changed: u64,
    /// Like none of the slice.
    pub new: u64,
    /// Of the slice, like none of the newer list.
    pub gone: u64,
    /// The first of those that are not where they were, or not what they were.
    pub named: Vec<Named>,
    /// How many of the slice's records are in the newer list, in the same words or near ones; and how many are in either.
    pub found: u64,
    /// How many records of the slice got their ids from the split.
    pub before: u64,
    /// How many records of the newer list have no ids.
    pub after: u64,
}

/// What a record of the newer list was taken for.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Named {
    /// Where it stands there, from 0; nothing for one that is gone.
    pub index: Option<u64>,
    /// Its id.
    pub id: u64,
    /// What it was taken for.
    pub taken_for: TakenFor,
}

/// What a record of the newer list can be taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TakenFor {
    /// One of the slice that stood elsewhere.
    Moved,
    /// One of the slice that said something near.
    Changed,
    /// None of the slice.
    New,
    /// Nothing: a record of the slice that is not there any more.
    Gone,
}

impl Alignment {
    /// Whether the newer list can be taken for one that came of the slice: at least half of the shorter of the two is
    /// found in the other.
    pub fn is_convincing(&self) -> bool {
        self.found * 2 >= self.before.min(self.after)
    }
}

/// A list that was split, and what is known of its ids.
pub struct Split<'s> {
    /// Its slice.
    pub slice: &'s Path,
    /// Of the ids that stand in the slice, those that the split gave.
    pub given: &'s RoaringTreemap,
    /// No id up to this is given anew.
    pub last_id: u64,
}

/// Aligns the list of `collection` in the file at `input` with the slice. It is read `as_node` if so told. Records that cannot be taken are passed over if
/// `passing`, else an error. `named` says which: a record's place in its array, from 0.
pub fn align(
    input: &Path,
    as_node: bool,
    collection: Collection,
    split: &Split,
    passing: bool,
    stage: &Stage,
) -> Result<Alignment, Error> {
    let mut texts = Texts::default();
    let reading = Arc::new(Reading { as_node, ..Reading::default() });
    let mut newer_file = Source::open(input)?.read_as(&reading).passing(Box::new(io::sink()));
    let newer = List::read(input, &mut newer_file, collection, &mut texts, passing, stage)?;
    let older = List::read(
        split.slice,
        &mut Source::with(split.slice, collection.alone())?,
        collection,
        &mut texts,
        false,
        stage,
    )?;
    // An id that stands in the newer file is its record's own now.
    let given = |row: &Row| row.given || split.given.contains(row.id);
    let before: Vec<&Row> = older.rows.iter().filter(|row| given(row) && !newer.own.contains(row.id)).collect();
    let after: Vec<&Row> = newer.rows.iter().filter(|row| row.given).collect();
    let tokens = |rows: &[&Row]| rows.iter().map(|row| row.token).collect::<Vec<_>>();
    let mut matching = Matching::new(tokens(&before), tokens(&after), texts.len());
    matching.find_anchors();
    let anchors = matching.partners.clone();
    matching.find_moved();
    let found_equal = matching.partners.clone();
    let mut looked_up =
        Lookup { older: older.open(false)?, newer: newer.open(as_node)?, before: &before, after: &after };
    let rejected = matching.find_near(&anchors, &mut looked_up)?;

    let mut alignment = Alignment {
        ids: Ids::none(),
        before: before.len() as u64,
        after: after.iter().filter(|row| !row.rejected).count() as u64,
        ..Alignment::default()
    };
    let mut last_id =
        split.last_id.max(newer.own.max().unwrap_or(0)).max(older.rows.iter().map(|row| row.id).max().unwrap_or(0));
    for (nth, row) in after.iter().enumerate() {
        if row.rejected {
            continue;
        }
        let (id, taken_for) = match matching.partners[nth] {
            Some(partner) => {
                alignment.found += 1;
                let taken_for = match (anchors[nth], found_equal[nth]) {
                    (Some(_), _) => None,
                    (None, Some(_)) => Some(TakenFor::Moved),
                    (None, None) => Some(TakenFor::Changed),
                };
                (before[partner as usize].id, taken_for)
            }
            None => {
                last_id = last_id.saturating_add(1);
                (last_id, Some(TakenFor::New))
            }
        };
        let Ok(given) = Id::try_from(id) else {
            let reason = "every id that there is has been given".to_owned();
            return Err(Error::Input { file: input.to_owned(), place: collection.name().to_owned(), reason });
        };
        alignment.ids.push(row.position, given);
        alignment.name(Some(row.position - 1), id, taken_for);
    }
    let mut is_found = vec![false; before.len()];
    matching.partners.iter().flatten().for_each(|partner| is_found[*partner as usize] = true);
    for partner in rejected {
        is_found[partner as usize] = true;
        alignment.rejected.insert(before[partner as usize].id);
    }
    for (row, _) in before.iter().zip(is_found).filter(|(_, found)| !found) {
        alignment.name(None, row.id, Some(TakenFor::Gone));
    }
    Ok(alignment)
}

impl Alignment {
    fn name(&mut self, index: Option<u64>, id: u64, taken_for: Option<TakenFor>) {
        let Some(taken_for) = taken_for else { return };
        let count = match taken_for {
            TakenFor::Moved => &mut self.moved,
            TakenFor::Changed => &mut self.changed,
            TakenFor::New => &mut self.new,
            TakenFor::Gone => &mut self.gone,
        };
        *count += 1;
        if *count <= NAMED as u64 {
            self.named.push(Named { index, id, taken_for });
        }
    }
}

/// A record of a list, but for its text.
struct Row {
    /// Its position, from 1.
    position: u64,
    /// Its id in the slice; its position in the newer list.
    id: u64,
    /// Whether that is no id of its own.
    given: bool,
    /// Whether it cannot be taken.
    rejected: bool,
    token: Token,
    /// Where it stands in the file.
    offset: u64,
    length: u32,
}

/// A collection of a file, in order.
struct List<'p> {
    path: &'p Path,
    collection: Collection,
    rows: Vec<Row>,
    /// The ids of its records' own.
    own: RoaringTreemap,
}

impl<'p> List<'p> {
    fn read(
        path: &'p Path,
        source: &mut Source,
        collection: Collection,
        texts: &mut Texts,
        passing: bool,
        stage: &Stage,
    ) -> Result<Self, Error> {
        let mut list = Self { path, collection, rows: Vec::new(), own: RoaringTreemap::new() };
        while let Some(batch) = source.next_batch()? {
            stage.advance(batch.size().0, 0);
            if batch.collection != collection {
                source.recycle(batch);
                continue;
            }
            let (records, rejects) = batch.parse();
            let first_of_batch = list.rows.len();
            let hash = |records: &Records| -> Vec<u128> { records.iter().map(|record| hash_of(&record)).collect() };
            let hashes: Vec<Vec<u128>> = records.par_iter().map(hash).collect();
            for (records, hashes) in records.iter().zip(hashes) {
                for (record, hash) in records.iter().zip(hashes) {
                    let (offset, length) = batch.span(&record);
                    let position = record.position.map_or(0, Id::get);
                    let (id, given) = (record.id.get(), record.id_from_position);
                    if !given {
                        list.own.insert(id);
                    }
                    let token = texts.token(hash);
                    list.rows.push(Row { position, id, given, rejected: false, token, offset, length });
                }
            }
            for reject in rejects {
                if !passing {
                    return Err(reject.into_error(path));
                }
                let (position, token) = (reject.position, texts.own_token());
                list.rows.push(Row { position, id: 0, given: true, rejected: true, token, offset: 0, length: 0 });
            }
            list.rows[first_of_batch..].sort_by_key(|row| row.position);
            source.recycle(batch);
        }
        Ok(list)
    }

    fn open(&self, as_node: bool) -> Result<Reread<'_>, Error> {
        Ok(Reread {
            as_node,
            path: self.path,
            collection: self.collection,
            file: File::open(self.path).map_err(Error::io(self.path))?,
        })
    }
}

/// What a record says, but for an id that the split gave it.
fn hash_of(record: &Record) -> u128 {
    let without_id = record.source.strip_prefix("{\"id\":").and_then(|rest| rest.strip_prefix(&record.id.to_string()));
    let digest = match without_id.and_then(|rest| rest.strip_prefix(',')) {
        // An id of its own that is the first member: the split writes its ids so in a slice.
        Some(rest) => Sha256::new().chain_update("{").chain_update(rest).finalize(),
        None => Sha256::digest(record.source),
    };
    u128::from_le_bytes(digest[..16].try_into().expect("a digest is longer"))
}

/// Numbers texts: equal ones have one number.
#[derive(Default)]
struct Texts {
    numbers: HashMap<u128, u32, BuildHasherDefault<Half>>,
    next: u32,
}

impl Texts {
    fn token(&mut self, hash: u128) -> Token {
        let next = &mut self.next;
        Token(*self.numbers.entry(hash).or_insert_with(|| {
            *next += 1;
            *next - 1
        }))
    }

    /// Of a text that equals no other.
    fn own_token(&mut self) -> Token {
        self.next += 1;
        Token(self.next - 1)
    }

    fn len(&self) -> u32 {
        self.next
    }
}

/// A half of what is a good hash already.
#[derive(Default)]
struct Half(u64);

impl Hasher for Half {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u128(&mut self, number: u128) {
        self.0 = number as u64;
    }
}

/// Who is who: records by their places in the two lists.
struct Matching {
    before: Vec<Token>,
    after: Vec<Token>,
    /// How many different texts there are.
    texts: u32,
    /// For each of `after`, which of `before` it is.
    partners: Vec<Option<u32>>,
}

impl Matching {
    fn new(before: Vec<Token>, after: Vec<Token>, texts: u32) -> Self {
        let partners = vec![None; after.len()];
        Self { before, after, texts, partners }
    }

    /// Equal ones in the same order.
    fn find_anchors(&mut self) {
        let (before, after) = (self.before.len(), self.after.len());
        let head = self.before.iter().zip(&self.after).take_while(|(a, b)| a == b).count();
        let rest = before.min(after) - head;
        let tail = self.before.iter().rev().zip(self.after.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
        (0..head).for_each(|nth| self.partners[nth] = Some(nth as u32));
        (1..=tail).for_each(|nth| self.partners[after - nth] = Some((before - nth) as u32));
        let (a, b) = (head..before - tail, head..after - tail);
        if a.len() + b.len() <= SHORT {
            return self.compare(Algorithm::MyersMinimal, a.collect(), b.collect());
        }
        let mut counts = vec![0_u32; self.texts as usize];
        let tokens = self.before[a.clone()].iter().chain(&self.after[b.clone()]);
        tokens.for_each(|token| counts[token.0 as usize] += 1);
        let is_rare = |token: Token| counts[token.0 as usize] <= RARE;
        let rare_before = a.clone().filter(|nth| is_rare(self.before[*nth])).collect();
        let rare_after = b.clone().filter(|nth| is_rare(self.after[*nth])).collect();
        self.compare(Algorithm::Histogram, rare_before, rare_after);
        for (a, b) in self.gaps(&self.partners.clone()) {
            if a.len() + b.len() <= SHORT {
                self.compare(Algorithm::MyersMinimal, a.collect(), b.collect());
            }
        }
    }

    /// Anchors of the records at the places `a` and `b`, which are in no other pair.
    fn compare(&mut self, algorithm: Algorithm, a: Vec<usize>, b: Vec<usize>) {
        if a.is_empty() || b.is_empty() {
            return;
        }
        let tokens = |places: &[usize], list: &[Token]| places.iter().map(|nth| list[*nth]).collect::<Vec<_>>();
        let mut diff = Diff::default();
        diff.compute_with(algorithm, &tokens(&a, &self.before), &tokens(&b, &self.after), self.texts);
        let kept_before = (0_u32..).zip(&a).filter(|(nth, _)| !diff.is_removed(*nth)).map(|(_, place)| *place);
        let kept_after = (0_u32..).zip(&b).filter(|(nth, _)| !diff.is_added(*nth)).map(|(_, place)| *place);
        for (before, after) in kept_before.zip(kept_after) {
            self.partners[after] = Some(before as u32);
        }
    }

    /// What lies between anchors, on both sides. The anchors are in the same order on both.
    fn gaps(&self, anchors: &[Option<u32>]) -> Vec<(std::ops::Range<usize>, std::ops::Range<usize>)> {
        let mut gaps = Vec::new();
        let (mut a, mut b) = (0, 0);
        let ends =
            anchors.iter().enumerate().filter_map(|(nth, partner)| Some((partner.as_ref().copied()? as usize, nth)));
        for (end_a, end_b) in ends.chain([(self.before.len(), self.after.len())]) {
            if end_a > a && end_b > b {
                gaps.push((a..end_a, b..end_b));
            }
            (a, b) = (end_a + 1, end_b + 1);
        }
        gaps
    }

    /// Equal ones wherever they stand.
    fn find_moved(&mut self) {
        let mut is_taken = vec![false; self.before.len()];
        self.partners.iter().flatten().for_each(|partner| is_taken[*partner as usize] = true);
        let mut free: HashMap<Token, VecDeque<u32>> = HashMap::new();
        for (nth, token) in (0..).zip(&self.before).filter(|(nth, _)| !is_taken[*nth as usize]) {
            free.entry(*token).or_default().push_back(nth);
        }
        if free.is_empty() {
            return;
        }
        for (token, partner) in self.after.iter().zip(&mut self.partners).filter(|(_, partner)| partner.is_none()) {
            *partner = free.get_mut(token).and_then(VecDeque::pop_front);
        }
    }

    /// Near ones between the same anchors. Returns those for which a record stands that cannot be taken.
    fn find_near(&mut self, anchors: &[Option<u32>], texts: &mut Lookup) -> Result<Vec<u32>, Error> {
        let mut is_taken = vec![false; self.before.len()];
        self.partners.iter().flatten().for_each(|partner| is_taken[*partner as usize] = true);
        let mut rejected = Vec::new();
        for (a, b) in self.gaps(anchors) {
            let left: Vec<usize> = a.filter(|nth| !is_taken[*nth]).collect();
            let (bad, good): (Vec<usize>, Vec<usize>) =
                b.filter(|nth| self.partners[*nth].is_none()).partition(|nth| texts.after[*nth].rejected);
            if left.is_empty() || bad.is_empty() && good.is_empty() {
                continue;
            }
            let pairs = if left.len().saturating_mul(good.len()) <= PAIRS {
                pair_all(&left, &good, texts)?
            } else {
                pair_in_window(&left, &good, texts)?
            };
            for (before, after) in pairs {
                self.partners[after] = Some(before as u32);
                is_taken[before] = true;
            }
            let still_left = left.into_iter().filter(|nth| !is_taken[*nth]);
            rejected.extend(still_left.zip(bad).map(|(before, _)| before as u32));
        }
        rejected.iter().for_each(|nth| is_taken[*nth as usize] = true);
        self.find_near_neighbours(&mut is_taken, texts)?;
        Ok(rejected)
    }

    /// Near ones beside the same records, where those have moved.
    fn find_near_neighbours(&mut self, is_taken: &mut [bool], texts: &mut Lookup) -> Result<(), Error> {
        let mut places: HashMap<usize, usize> = HashMap::new();
        for (after, partner) in self.partners.iter().enumerate() {
            places.extend(partner.map(|before| (before as usize, after)));
        }
        let left: Vec<usize> = (0..self.before.len()).filter(|nth| !is_taken[*nth]).collect();
        for nth in left {
            let matched = |nth: &usize| places.get(nth).copied();
            let before = (0..nth).rev().take(NEIGHBOURS).find_map(|nth| matched(&nth));
            let behind = (nth + 1..self.before.len()).take(NEIGHBOURS).find_map(|nth| matched(&nth));
            let is_free = |nth: &usize| self.partners[*nth].is_none() && !texts.after[*nth].rejected;
            let mut beside = Vec::new();
            for place in [before, behind].into_iter().flatten() {
                beside.extend((0..place).rev().take_while(is_free).take(NEIGHBOURS));
                beside.extend((place + 1..self.after.len()).take_while(is_free).take(NEIGHBOURS));
            }
            if beside.is_empty() {
                continue;
            }
            let text = texts.before(nth)?;
            let mut best: Option<(usize, f64)> = None;
            for place in beside {
                let alike = alikeness(&text, &texts.after(place)?);
                if let Some(alike) = alike.filter(|alike| best.is_none_or(|(_, so_far)| *alike > so_far)) {
                    best = Some((place, alike));
                }
            }
            if let Some((place, _)) = best {
                self.partners[place] = Some(nth as u32);
                is_taken[nth] = true;
                places.insert(nth, place);
            }
        }
        Ok(())
    }
}

/// Pairs of `left` and `right`, in order, that are as alike in all as can be.
fn pair_all(left: &[usize], right: &[usize], texts: &mut Lookup) -> Result<Vec<(usize, usize)>, Error> {
    let left_texts = left.iter().map(|nth| texts.before(*nth)).collect::<Result<Vec<_>, _>>()?;
    let right_texts = right.iter().map(|nth| texts.after(*nth)).collect::<Result<Vec<_>, _>>()?;
    let alike: Vec<Vec<Option<f64>>> =
        left_texts.iter().map(|l| right_texts.iter().map(|r| alikeness(l, r)).collect()).collect();
    // The best of what lies behind each pair of places.
    let mut best = vec![vec![0.0_f64; right.len() + 1]; left.len() + 1];
    for l in (0..left.len()).rev() {
        for r in (0..right.len()).rev() {
            let paired = alike[l][r].map_or(0.0, |alike| alike + best[l + 1][r + 1]);
            best[l][r] = paired.max(best[l + 1][r]).max(best[l][r + 1]);
        }
    }
    let (mut pairs, mut l, mut r) = (Vec::new(), 0, 0);
    while l < left.len() && r < right.len() {
        let paired = alike[l][r].map(|alike| alike + best[l + 1][r + 1]);
        if paired == Some(best[l][r]) {
            pairs.push((left[l], right[r]));
            (l, r) = (l + 1, r + 1);
        } else if best[l + 1][r] == best[l][r] {
            l += 1;
        } else {
            r += 1;
        }
    }
    Ok(pairs)
}

/// The same where there are too many: each of `right` with the most alike of the next few of `left`.
fn pair_in_window(left: &[usize], right: &[usize], texts: &mut Lookup) -> Result<Vec<(usize, usize)>, Error> {
    let mut window: VecDeque<(usize, Content)> = VecDeque::new();
    let mut left = left.iter();
    let mut pairs = Vec::new();
    for nth in right {
        while window.len() < WINDOW
            && let Some(next) = left.next()
        {
            window.push_back((*next, texts.before(*next)?));
        }
        let text = texts.after(*nth)?;
        let mut best: Option<(usize, f64)> = None;
        for (place, (_, other)) in window.iter().enumerate() {
            let Some(alike) = alikeness(other, &text) else { continue };
            if best.is_none_or(|(_, so_far)| alike > so_far) {
                best = Some((place, alike));
            }
            if alike >= 1.0 {
                break;
            }
        }
        if let Some((place, _)) = best {
            pairs.push((window[place].0, *nth));
            window.drain(..=place);
        }
    }
    Ok(pairs)
}

/// The texts of records, read again where they are needed.
struct Lookup<'l> {
    older: Reread<'l>,
    newer: Reread<'l>,
    before: &'l [&'l Row],
    after: &'l [&'l Row],
}

impl Lookup<'_> {
    fn before(&mut self, nth: usize) -> Result<Content, Error> {
        self.older.content(self.before[nth])
    }

    fn after(&mut self, nth: usize) -> Result<Content, Error> {
        self.newer.content(self.after[nth])
    }
}

/// A file, to look at some of its records once more.
struct Reread<'p> {
    path: &'p Path,
    as_node: bool,
    collection: Collection,
    file: File,
}

impl Reread<'_> {
    fn content(&self, row: &Row) -> Result<Content, Error> {
        let mut raw = vec![0; row.length as usize];
        self.file.read_exact_at(&mut raw, row.offset).map_err(Error::io(self.path))?;
        let mut records = Records::new(self.collection, raw.len());
        let text =
            node::read(&raw).filter(|_| self.as_node).unwrap_or_else(|| String::from_utf8_lossy(&raw).into_owned());
        let read = records.push_given(&text, None, Some(Id::MAX));
        let record = records.iter().next().filter(|_| read.is_ok());
        let changed = || Error::Difference(format!("{}: the file was changed while it was read", self.path.display()));
        Ok(Content::of(record.ok_or_else(changed)?.source))
    }
}
