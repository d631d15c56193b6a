//! Aligns a newer list of records without ids with the list that was split.
//!
//! Given ids stay with their records, whatever their positions. So the newer list is aligned with the slice by content:
//!
//! 1. Equal records in the same order on both sides are the same: the anchors, which an edit script finds.
//! 2. Other equal records are the same wherever they stand, the first here with the first there: they have moved.
//! 3. A record between two anchors that is [near](alikeness) one that stood between them is that record, changed. The
//!    same holds beside a record that has moved, for a near one that stood beside it before.
//! 4. The rest of the newer list is new and gets ids that were never used; the rest of the slice is gone.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};
use std::ops::Range;

use imara_diff::{Algorithm, Diff, Token};
use record::id::Id;
use roaring::RoaringTreemap;
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::ids::Ids;
use crate::near::{Content, alikeness};
use crate::obstacle::Kind;
use crate::rows::{Row, Rows};

/// The length of both lists together up to which they get the shortest edit script.
const SHORT: usize = 1 << 12;

/// The length up to which they get a short one.
const LONG: usize = 1 << 16;

/// The number of records in a row that identify a place in longer lists where hardly a text is rare.
const IN_A_ROW: usize = 16;

/// The number of pairs between two anchors up to which all are compared.
const PAIRS: usize = 1 << 18;

/// The number of records that share a word, up to which the word is rare. Beyond [`PAIRS`], rare words find candidates.
const RARE: usize = 8;

/// The number of those candidates that are compared.
const CANDIDATES: usize = 8;

/// The number of unmatched records up to which the neighbours of anchors are searched, too.
const FEW: usize = 10_000;

/// The greatest distance between a record and its neighbour, in records.
const NEIGHBOURS: usize = 8;

/// The number of records of each kind that are named.
const NAMED: usize = 20;

/// The outcome of aligning a list.
#[derive(Debug, Default)]
pub struct Alignment {
    /// The ids of the newer list's positions.
    pub ids: Ids,
    /// Records equal to one of the slice, in another order.
    pub moved: u64,
    /// Records near one of the slice.
    pub changed: u64,
    /// Records like none of the slice.
    pub new: u64,
    /// Records of the slice like none of the newer list.
    pub gone: u64,
    /// The first records that have moved, changed, come or gone.
    pub named: Vec<Named>,
    /// The number of records in both lists, equal or near.
    pub found: u64,
    /// The number of the slice's records with given ids.
    pub before: u64,
    /// The number of the newer list's records without ids.
    pub after: u64,
}

/// A record, and what it was taken for.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Named {
    /// Its index in the newer list, from 0; `None` if it is gone.
    pub index: Option<u64>,
    /// Its id.
    pub id: u64,
    /// What it was taken for.
    pub taken_for: TakenFor,
}

/// The ways in which a record can be taken for one of the slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TakenFor {
    /// An equal record of the slice that stood elsewhere.
    Moved,
    /// A near record of the slice.
    Changed,
    /// No record of the slice.
    New,
    /// A record of the slice that the newer list does not have.
    Gone,
}

impl Alignment {
    /// Tells whether the newer list plausibly descends from the slice: at least half of the shorter of the two is in
    /// the other.
    pub fn is_convincing(&self) -> bool {
        self.found * 2 >= self.before.min(self.after)
    }
}

impl Alignment {
    /// Takes the slice's records with these ids out of the gone ones: rejected records of the newer list stand for
    /// them.
    pub fn spare(&mut self, ids: &RoaringTreemap, older: &Rows) {
        let spared = older.rows.iter().filter(|row| row.given && ids.contains(row.id)).count() as u64;
        self.gone = self.gone.saturating_sub(spared);
        self.named.retain(|named| named.taken_for != TakenFor::Gone || !ids.contains(named.id));
    }

    /// Aligns a list that was joined from the `older` one by its known `ids`; `None` if they are not the older list's.
    pub fn of_known_ids(ids: &Ids, older: &Rows, newer: &Rows) -> Option<Self> {
        let given: HashSet<u64> = older.rows.iter().filter(|row| row.given).map(|row| row.id).collect();
        let mut alignment = Self { ids: Ids::none(), ..Self::default() };
        for row in newer.rows.iter().filter(|row| row.given && !row.rejected) {
            let id = ids.at(row.position).filter(|id| given.contains(&id.get()) && !newer.own.contains(id.get()))?;
            alignment.ids.push(row.position, id);
            alignment.found += 1;
        }
        alignment.after = alignment.found;
        alignment.before = given.len() as u64;
        alignment.gone = alignment.before - alignment.found;
        Some(alignment)
    }
}

/// Aligns the `newer` list with the `older` one, which was split. Calls `reserve` with the number of new ids and the id
/// that they must exceed; it returns the last id before them.
///
/// # Errors
/// A text cannot be read again, or no id is left.
pub fn align(
    older: &Rows,
    newer: &Rows,
    reserve: impl FnOnce(u64, u64) -> Result<u64, Error>,
) -> Result<Alignment, Error> {
    // An id in the newer file is its record's own now.
    let before: Vec<&Row> = older.rows.iter().filter(|row| row.given && !newer.own.contains(row.id)).collect();
    let after: Vec<&Row> = newer.rows.iter().filter(|row| row.given && !row.rejected).collect();
    let mut matching = Matching::of(&before, &after, |row| row.hash);
    matching.find_anchors();
    let anchors = matching.partners.clone();
    matching.find_moved();
    let found_equal = matching.partners.clone();
    let looked_up = Lookup { older, newer, before: &before, after: &after };
    matching.find_near(&anchors, &looked_up)?;

    let mut alignment =
        Alignment { ids: Ids::none(), before: before.len() as u64, after: after.len() as u64, ..Alignment::default() };
    let highest = |rows: &Rows| rows.rows.iter().filter(|row| !row.given).map(|row| row.id).max().unwrap_or(0);
    let given = older.rows.iter().map(|row| row.id).max().unwrap_or(0);
    let count = matching.partners.iter().filter(|partner| partner.is_none()).count() as u64;
    let mut last_id = reserve(count, highest(newer).max(given))?;
    for (nth, row) in after.iter().enumerate() {
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
            let reason = "no id is left for new records".to_owned();
            let (file, place) = (newer.path().to_owned(), newer.collection.name().to_owned());
            return Err(Error::Input { file, kind: Some(Kind::Record), place, reason });
        };
        alignment.ids.push(row.position, given);
        alignment.name(Some(row.position - 1), id, taken_for);
    }
    let mut is_found = vec![false; before.len()];
    matching.partners.iter().flatten().for_each(|partner| is_found[*partner as usize] = true);
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

/// Numbers for texts: equal texts have the same number.
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

    fn len(&self) -> u32 {
        self.next
    }
}

/// A hasher that takes half of a value that is a good hash already.
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

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    fn write_u32(&mut self, number: u32) {
        // Consecutive numbers hash badly; the product spreads them over all bits.
        self.0 = u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// A matching of two lists' records by their places.
struct Matching {
    before: Vec<Token>,
    after: Vec<Token>,
    /// The number of different texts.
    texts: u32,
    /// The place in `before` of each of `after`.
    partners: Vec<Option<u32>>,
}

impl Matching {
    /// Pairs equal records at both ends, and at the same place in lists of one length. Only the texts of the others get
    /// numbers, which is most of the work.
    fn of<T>(before: &[T], after: &[T], hash: impl Fn(&T) -> u128) -> Self {
        let mut partners = vec![None; after.len()];
        let is_equal = |(a, b): &(&T, &T)| hash(a) == hash(b);
        let head = before.iter().zip(after).take_while(is_equal).count();
        let rest = before.len().min(after.len()) - head;
        let tail = before.iter().rev().zip(after.iter().rev()).take(rest).take_while(is_equal).count();
        (0..head).for_each(|nth| partners[nth] = Some(nth as u32));
        (1..=tail).for_each(|nth| partners[after.len() - nth] = Some((before.len() - nth) as u32));
        if before.len() == after.len() {
            for nth in (head..after.len() - tail).filter(|nth| hash(&before[*nth]) == hash(&after[*nth])) {
                partners[nth] = Some(nth as u32);
            }
        }
        let mut is_taken = vec![false; before.len()];
        partners.iter().flatten().for_each(|partner| is_taken[*partner as usize] = true);
        let mut texts = Texts::default();
        let mut token = |value: &T, is_paired: bool| if is_paired { Token(0) } else { texts.token(hash(value)) };
        let before = before.iter().zip(&is_taken).map(|(value, is_taken)| token(value, *is_taken)).collect();
        let after = after.iter().zip(&partners).map(|(value, partner)| token(value, partner.is_some())).collect();
        Self { before, after, texts: texts.len().max(1), partners }
    }

    /// Pairs equal records in the same order: first those that stand once on either side, in the longest run that is in
    /// order on both; then the others between them.
    fn find_anchors(&mut self) {
        for (a, b) in self.gaps(&self.partners.clone()) {
            for (before, after) in find_unique_in_order(&self.before[a.clone()], &self.after[b.clone()]) {
                self.partners[b.start + after] = Some((a.start + before) as u32);
            }
        }
        for (a, b) in self.gaps(&self.partners.clone()) {
            if a.len() + b.len() > LONG {
                self.compare_rows(a, b);
            }
        }
        for (a, b) in self.gaps(&self.partners.clone()) {
            let length = a.len() + b.len();
            if length <= LONG {
                let algorithm = if length <= SHORT { Algorithm::MyersMinimal } else { Algorithm::Myers };
                self.compare(algorithm, a, b);
            }
        }
    }

    /// Finds anchors among the records at the places `a` and `b`, by an edit script.
    fn compare(&mut self, algorithm: Algorithm, a: Range<usize>, b: Range<usize>) {
        let there: HashSet<u32> = self.before[a.clone()].iter().map(|token| token.0).collect();
        let both: HashSet<u32> =
            self.after[b.clone()].iter().map(|token| token.0).filter(|token| there.contains(token)).collect();
        let a: Vec<usize> = a.filter(|nth| both.contains(&self.before[*nth].0)).collect();
        let b: Vec<usize> = b.filter(|nth| both.contains(&self.after[*nth].0)).collect();
        if a.is_empty() || b.is_empty() {
            return;
        }
        let tokens = |places: &[usize], list: &[Token]| places.iter().map(|nth| list[*nth]).collect::<Vec<_>>();
        let (left, right) = (tokens(&a, &self.before), tokens(&b, &self.after));
        let mut diff = Diff::default();
        diff.compute_with(algorithm, &left, &right, self.texts);
        let kept_before = (0_u32..).zip(&a).filter(|(nth, _)| !diff.is_removed(*nth)).map(|(_, place)| *place);
        let kept_after = (0_u32..).zip(&b).filter(|(nth, _)| !diff.is_added(*nth)).map(|(_, place)| *place);
        for (before, after) in kept_before.zip(kept_after) {
            self.partners[after] = Some(before as u32);
        }
    }

    /// Finds anchors among many records that are all frequent: runs of them that stand once in each list.
    fn compare_rows(&mut self, a: Range<usize>, b: Range<usize>) {
        let mut texts = Texts::default();
        let mut rows = |list: &[Token]| -> Vec<Token> {
            let hash = |row: &[Token]| {
                let mut hash = Sha256::new();
                row.iter().for_each(|token| hash.update(token.0.to_le_bytes()));
                u128::from_le_bytes(hash.finalize()[..16].try_into().expect("a digest is longer"))
            };
            list.windows(IN_A_ROW).map(|row| texts.token(hash(row))).collect()
        };
        let (left, right) = (rows(&self.before[a.clone()]), rows(&self.after[b.clone()]));
        for (before, after) in find_unique_in_order(&left, &right) {
            for nth in 0..IN_A_ROW {
                let (before, after) = (a.start + before + nth, b.start + after + nth);
                // A run that overlaps an earlier one may lead elsewhere: the first counts.
                let last = self.partners[b.start..after].iter().rev().find_map(|partner| *partner);
                if self.partners[after].is_none() && last.is_none_or(|last| (last as usize) < before) {
                    self.partners[after] = Some(before as u32);
                }
            }
        }
    }

    /// Lists the gaps between anchors, on both sides. The anchors are in the same order on both.
    fn gaps(&self, anchors: &[Option<u32>]) -> Vec<(Range<usize>, Range<usize>)> {
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

    /// Pairs equal records wherever they stand.
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

    /// Pairs near records between the same anchors.
    fn find_near(&mut self, anchors: &[Option<u32>], texts: &Lookup) -> Result<(), Error> {
        let mut is_taken = vec![false; self.before.len()];
        self.partners.iter().flatten().for_each(|partner| is_taken[*partner as usize] = true);
        for (a, b) in self.gaps(anchors) {
            let left: Vec<usize> = a.filter(|nth| !is_taken[*nth]).collect();
            let right: Vec<usize> = b.filter(|nth| self.partners[*nth].is_none()).collect();
            if left.is_empty() || right.is_empty() {
                continue;
            }
            for (before, after) in pair(&left, &right, texts)? {
                self.partners[after] = Some(before as u32);
                is_taken[before] = true;
            }
        }
        self.find_near_neighbours(anchors, &mut is_taken, texts)
    }

    /// Pairs near records beside the same neighbours, if those have moved.
    fn find_near_neighbours(
        &mut self,
        anchors: &[Option<u32>],
        is_taken: &mut [bool],
        texts: &Lookup,
    ) -> Result<(), Error> {
        let mut places: HashMap<usize, usize> = HashMap::new();
        for (after, partner) in self.partners.iter().enumerate() {
            places.extend(partner.map(|before| (before as usize, after)));
        }
        let left: Vec<usize> = (0..self.before.len()).filter(|nth| !is_taken[*nth]).collect();
        let are_few = left.len() <= FEW;
        for nth in left {
            let matched = |nth: usize| places.get(&nth).copied();
            // Nearly everything beside an anchor was compared before; only a move across it is left.
            let has_moved = |after: &usize| are_few || anchors[*after].is_none();
            let before = (0..nth).rev().take(NEIGHBOURS).find_map(matched).filter(has_moved);
            let behind = (nth + 1..self.before.len()).take(NEIGHBOURS).find_map(matched).filter(has_moved);
            let is_free = |nth: &usize| self.partners[*nth].is_none();
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

/// Pairs `left` and `right` in order so that the pairs are, in sum, as alike as possible.
fn pair_all(left: &[usize], right: &[usize], texts: &Lookup) -> Result<Vec<(usize, usize)>, Error> {
    let left_texts = left.iter().map(|nth| texts.before(*nth)).collect::<Result<Vec<_>, _>>()?;
    let right_texts = right.iter().map(|nth| texts.after(*nth)).collect::<Result<Vec<_>, _>>()?;
    let alike: Vec<Vec<Option<f64>>> =
        left_texts.iter().map(|l| right_texts.iter().map(|r| alikeness(l, r)).collect()).collect();
    // The best sum from each pair of places to the end.
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

/// Pairs near records of `left` and `right`, in order.
fn pair(left: &[usize], right: &[usize], texts: &Lookup) -> Result<Vec<(usize, usize)>, Error> {
    if left.len().saturating_mul(right.len()) <= PAIRS && left.len() + right.len() <= SHORT {
        return pair_all(left, right, texts);
    }
    // Usually most texts are the same, and another field has changed in every record.
    let of_left =
        left.iter().map(|nth| Ok(u128::from(texts.before(*nth)?.hash()))).collect::<Result<Vec<_>, Error>>()?;
    let of_right =
        right.iter().map(|nth| Ok(u128::from(texts.after(*nth)?.hash()))).collect::<Result<Vec<_>, Error>>()?;
    let mut matching = Matching::of(&of_left, &of_right, |hash| *hash);
    matching.find_anchors();
    let anchors = matching.partners.clone();
    let mut pairs: Vec<(usize, usize)> = (right.iter().zip(&anchors))
        .filter_map(|(after, before)| Some((left[before.as_ref().copied()? as usize], *after)))
        .collect();
    for (a, b) in matching.gaps(&anchors) {
        let (left, right) = (&left[a], &right[b]);
        if left.len().saturating_mul(right.len()) <= PAIRS && left.len() + right.len() <= SHORT {
            pairs.extend(pair_all(left, right, texts)?);
        } else {
            pairs.extend(pair_by_words(left, right, texts)?);
        }
    }
    Ok(pairs)
}

/// Pairs near records that share rare words, where too many pairs exist to compare all.
fn pair_by_words(left: &[usize], right: &[usize], texts: &Lookup) -> Result<Vec<(usize, usize)>, Error> {
    let mut places: HashMap<u64, Vec<u32>, BuildHasherDefault<Half>> = HashMap::default();
    let key = |word: &String| {
        let mut hasher = DefaultHasher::new();
        word.hash(&mut hasher);
        hasher.finish()
    };
    for (place, nth) in (0..).zip(left) {
        for word in texts.before(*nth)?.words() {
            let places = places.entry(key(word)).or_default();
            if places.len() <= RARE && places.last() != Some(&place) {
                places.push(place);
            }
        }
    }
    let mut found = vec![None; right.len()];
    for (nth, found) in right.iter().zip(&mut found) {
        let content = texts.after(*nth)?;
        let mut candidates: HashMap<u32, usize> = HashMap::new();
        for places in
            content.words().iter().filter_map(|word| places.get(&key(word))).filter(|places| places.len() <= RARE)
        {
            places.iter().for_each(|place| *candidates.entry(*place).or_default() += 1);
        }
        let mut candidates: Vec<(u32, usize)> = candidates.into_iter().collect();
        candidates.sort_unstable_by_key(|(place, shared)| (std::cmp::Reverse(*shared), *place));
        let mut best: Option<(u32, f64)> = None;
        for (place, _) in candidates.into_iter().take(CANDIDATES) {
            let alike = alikeness(&texts.before(left[place as usize])?, &content);
            if let Some(alike) = alike.filter(|alike| best.is_none_or(|(_, so_far)| *alike > so_far)) {
                best = Some((place, alike));
            }
        }
        *found = best.map(|(place, _)| place);
    }
    let found: Vec<(u32, usize)> =
        found.into_iter().zip(right).filter_map(|(place, nth)| Some((place?, *nth))).collect();
    let places: Vec<u32> = found.iter().map(|(place, _)| *place).collect();
    Ok(longest_ascent(&places).into_iter().map(|nth| (left[found[nth].0 as usize], found[nth].1)).collect())
}

/// Lists the places of tokens that stand once in each list, in the longest run that is in order in both.
fn find_unique_in_order(left: &[Token], right: &[Token]) -> Vec<(usize, usize)> {
    // The place of each token in the left list and in the right one.
    let mut places: HashMap<u32, [Place; 2], BuildHasherDefault<Half>> = HashMap::default();
    for (side, list) in [left, right].into_iter().enumerate() {
        for (place, token) in (0..).zip(list) {
            let known = &mut places.entry(token.0).or_default()[side];
            *known = if *known == Place::Nowhere { Place::Once(place) } else { Place::Often };
        }
    }
    let pair = |(place, token): (u32, &Token)| match places[&token.0] {
        [Place::Once(left), Place::Once(_)] => Some((left, place)),
        _ => None,
    };
    let pairs: Vec<(u32, u32)> = (0..).zip(right).filter_map(pair).collect();
    let lefts: Vec<u32> = pairs.iter().map(|(left, _)| *left).collect();
    let in_order = longest_ascent(&lefts).into_iter().map(|nth| pairs[nth]);
    in_order.map(|(left, right)| (left as usize, right as usize)).collect()
}

/// A token's place in a list.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Nowhere,
    Once(u32),
    Often,
}

/// Returns the indices of the longest ascending subsequence of `numbers`.
fn longest_ascent(numbers: &[u32]) -> Vec<usize> {
    // For each length, the index at which the run with the lowest end ends; and each number's predecessor in its run.
    let (mut ends, mut before) = (Vec::<usize>::new(), vec![usize::MAX; numbers.len()]);
    for (nth, number) in numbers.iter().enumerate() {
        let length = ends.partition_point(|end| numbers[*end] < *number);
        if length > 0 {
            before[nth] = ends[length - 1];
        }
        if length == ends.len() {
            ends.push(nth);
        } else {
            ends[length] = nth;
        }
    }
    let mut row = Vec::with_capacity(ends.len());
    let mut at = ends.last().copied().unwrap_or(usize::MAX);
    while at != usize::MAX {
        row.push(at);
        at = before[at];
    }
    row.reverse();
    row
}

/// The texts of records, read again when they are needed.
struct Lookup<'l> {
    older: &'l Rows,
    newer: &'l Rows,
    before: &'l [&'l Row],
    after: &'l [&'l Row],
}

impl Lookup<'_> {
    fn before(&self, nth: usize) -> Result<Content, Error> {
        self.older.with_record(self.before[nth], Id::MAX, |record| Content::of(record.source))
    }

    fn after(&self, nth: usize) -> Result<Content, Error> {
        self.newer.with_record(self.after[nth], Id::MAX, |record| Content::of(record.source))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens(list: &[u8]) -> Vec<u128> {
        list.iter().map(|token| u128::from(*token)).collect()
    }

    #[test]
    fn the_longest_ascent_is_found() {
        for (numbers, row) in [
            (&[][..], &[][..]),
            (&[5], &[0]),
            (&[3, 2, 1], &[2]),
            (&[4, 1, 2, 9, 3], &[1, 2, 4]),
            (&[2, 2, 3], &[1, 2]),
        ] {
            let found = longest_ascent(numbers);
            assert_eq!(found.len(), row.len(), "{numbers:?}: {found:?}");
            assert!(found.windows(2).all(|pair| numbers[pair[0]] < numbers[pair[1]]), "{numbers:?}: {found:?}");
        }
    }

    proptest! {
        /// Anchors are equal and in order, no record is matched twice, and all equal records are found, in any two
        /// lists.
        #[test]
        fn equal_records_are_each_found_once(
            before in prop::collection::vec(0_u8..20, 0..40),
            after in prop::collection::vec(0_u8..20, 0..40),
            copied in prop::collection::vec(any::<bool>(), 40),
        ) {
            // Half of the time the second list is made from the first.
            let kept = before.iter().zip(&copied).filter(|(_, kept)| **kept).map(|(token, _)| *token);
            let after: Vec<u8> = if copied[0] { kept.chain(after.iter().take(3).copied()).collect() } else { after };
            let mut matching = Matching::of(&tokens(&before), &tokens(&after), |token| *token);
            matching.find_anchors();
            let anchors: Vec<u32> = matching.partners.iter().flatten().copied().collect();
            prop_assert!(anchors.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", anchors);
            matching.find_moved();
            let mut partners: Vec<u32> = matching.partners.iter().flatten().copied().collect();
            for (after, partner) in after.iter().zip(&matching.partners) {
                prop_assert!(partner.is_none_or(|partner| before[partner as usize] == *after));
            }
            let common: usize = (0..20)
                .map(|token| {
                    let count = |list: &[u8]| list.iter().filter(|other| **other == token).count();
                    count(&before).min(count(&after))
                })
                .sum();
            prop_assert_eq!(partners.len(), common);
            partners.sort_unstable();
            partners.dedup();
            prop_assert_eq!(partners.len(), common);
        }
    }
}
