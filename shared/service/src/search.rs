//! `?q=`: the records that have all words of a query, those that fit best first.
//!
//! Each word names a list of ids in the database. What all lists have in common is read from the newest on, and each record
//! is asked itself, since a list may name more than has the words. Of these, the best come first: those in which the words
//! are a larger part of the text.

use record::id::Id;
use record::model::{Collection, Index, Term};
use record::search::{Listed, Query};
use store::{Order, Store, StoreError, Stored};

use crate::page::{Filter, SEARCHED};
use crate::parameters::wrong;
use crate::problem::Problem;

/// The most words that a beginning stands for.
const WORDS: usize = 256;

/// The most records that are put in order.
const RANKED: usize = 500;

/// How much a text's length counts beside the mean of those found (`b` of BM25), and how soon more of a word says no more
/// (`k1`); the usual values.
const LENGTH: f64 = 0.75;
const ENOUGH: f64 = 1.2;

/// Returns the lists of ids whose common ids have what `query` asks for.
pub(crate) fn lists(store: &Store, query: &Query) -> Result<Vec<Filter>, Problem> {
    query.listed().into_iter().map(|listed| list(store, listed)).collect()
}

fn list(store: &Store, listed: Listed) -> Result<Filter, Problem> {
    let begin = match listed {
        Listed::As(word) => return Ok(Filter::Has(Index::WORDS, Term::Text(word))),
        Listed::From(begin) => begin,
    };
    let Some(words) = store.texts_from(Index::WORDS, &begin, WORDS)? else {
        return Err(wrong(format!("More than {WORDS} words begin with `{begin}`; give more of it.")));
    };
    let mut ids = Vec::new();
    for word in words {
        for id in store.ids_behind(Index::WORDS, &Term::Text(word), Order::Ascending, None)? {
            ids.push(id?);
            if ids.len() > SEARCHED {
                return Err(wrong(format!("More than {SEARCHED} records have words with `{begin}`; give more of it.")));
            }
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(Filter::Among(ids.into()))
}

/// Counts what `query` asks for in a record, as [`Query::count`] does.
pub(crate) fn count(query: &Query, collection: Collection, stored: &Stored) -> Option<(Vec<usize>, usize)> {
    query.count(collection, std::str::from_utf8(stored.json()).unwrap_or_default())
}

/// Records in the order of their scores, the best first.
pub(crate) struct Ranked {
    pub(crate) records: Vec<(f64, Id)>,
    /// The mean length of the texts that the scores were made with.
    pub(crate) mean: f64,
    /// Whether no more records were found.
    pub(crate) is_whole: bool,
}

/// Puts the first [`RANKED`] of the records with these ids that `fits` and `query` find in order, the best first. Without a
/// `mean` of an earlier page it is that of these texts.
pub(crate) fn rank(
    store: &Store,
    query: &Query,
    ids: impl Iterator<Item = Result<Id, StoreError>>,
    fits: impl Fn(&Stored) -> bool,
    mean: Option<f64>,
) -> Result<Ranked, StoreError> {
    let (mut found, mut seen, mut is_whole) = (Vec::new(), 0, true);
    for id in ids {
        let id = id?;
        if found.len() == RANKED || seen == SEARCHED {
            is_whole = false;
            break;
        }
        seen += 1;
        if let Some(stored) = store.get(id)?.filter(&fits)
            && let Some((counts, length)) = count(query, store.collection(), &stored)
        {
            found.push((id, counts, length as f64));
        }
    }
    let mean =
        mean.unwrap_or_else(|| found.iter().map(|(_, _, length)| length).sum::<f64>() / found.len().max(1) as f64);
    let score = |counts: &[usize], length: f64| {
        let weight = ENOUGH * (1.0 - LENGTH + LENGTH * length / mean.max(1.0));
        counts.iter().map(|count| *count as f64 / (*count as f64 + weight)).sum::<f64>()
    };
    let mut records: Vec<(f64, Id)> = found.iter().map(|(id, counts, length)| (score(counts, *length), *id)).collect();
    records.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
    Ok(Ranked { records, mean, is_whole })
}
