//! Numbers for the records of a newer list with text ids. A record keeps its number in the database, whatever its
//! place.
//!
//! 1. A record whose id is in the slice is that record; if its service has replaced the record by another of the same
//!    id, it is the other.
//! 2. A record whose id only the database has was made by its service.
//! 3. Others are new and get numbers that no record ever had, so they are listed last.
//!
//! Records without ids are [aligned](crate::align) afterwards.

use record::id::Id;

use crate::database::{AT_ONCE, Database};
use crate::error::Error;
use crate::obstacle::Kind;
use crate::rows::Rows;
use crate::text::name_of;

/// Gives the `newer` rows with ids of their own their numbers, and the `older` rows their present numbers in the
/// database. `is_untouched` tells that the database was not written to since the split. With `takes`, new numbers are
/// reserved in the database. Returns the name of a repeated id, if there is one.
pub fn number(
    database: &mut Database,
    older: &mut Rows,
    newer: &mut Rows,
    is_untouched: bool,
    takes: bool,
) -> Result<Option<u128>, Error> {
    // Given ids count as texts, too.
    older
        .names
        .extend(older.rows.iter().filter(|row| row.given).map(|row| (name_of(&row.id.to_string()), row.position)));
    older.names.sort_unstable();
    newer.names.sort_unstable();
    let repeated = newer.names.windows(2).find(|pair| pair[0].0 == pair[1].0).map(|pair| pair[0].0);
    if !is_untouched {
        look_up_older(database, older, newer)?;
    }
    let mut unknown = Vec::new();
    for (name, position) in &newer.names {
        let nth = newer.at(*position);
        match older.named(*name).map(|was| older.rows[was]).filter(|was| !(was.given && newer.own.contains(was.id))) {
            Some(was) => newer.rows[nth].id = was.id,
            None => unknown.push(nth),
        }
    }
    unknown.sort_unstable();
    let mut fresh = Vec::new();
    for part in unknown.chunks(AT_ONCE) {
        for (nth, number) in part.iter().zip(look_up(database, newer, part)?) {
            newer.rows[*nth].id = number;
            if number == 0 {
                fresh.push(*nth);
            }
        }
    }
    let above = older.rows.iter().chain(&newer.rows).filter(|row| !row.rejected).map(|row| row.id).max().unwrap_or(0);
    let last_id = reserve(database, fresh.len() as u64, above, takes)?;
    for (nth, number) in fresh.iter().zip(last_id + 1..) {
        if Id::try_from(number).is_err() {
            let reason = "no number is left for new records".to_owned();
            let (file, place) = (newer.path().to_owned(), newer.collection.name().to_owned());
            return Err(Error::Input { file, kind: Some(Kind::Record), place, reason });
        }
        newer.rows[*nth].id = number;
    }
    let own = newer.names.iter().map(|(_, position)| newer.rows[newer.at(*position)].id);
    newer.own.extend(own.collect::<Vec<u64>>());
    Ok(repeated)
}

/// Gives `older` rows whose records are gone the numbers of the records that have their ids now.
fn look_up_older(database: &mut Database, older: &mut Rows, newer: &mut Rows) -> Result<(), Error> {
    let there = database.written(u64::MAX)?.0;
    let absent: Vec<usize> = (0..older.rows.len()).filter(|nth| !there.contains(older.rows[*nth].id)).collect();
    for part in absent.chunks(AT_ONCE) {
        for (nth, number) in part.iter().zip(look_up(database, older, part)?) {
            let row = &mut older.rows[*nth];
            match number {
                0 => {}
                // Another record owns the id now, so no record without an id can have it.
                _ if row.given => drop(newer.own.insert(row.id)),
                _ => row.id = number,
            }
        }
    }
    Ok(())
}

/// Returns the database's numbers for the ids of these rows; 0 for a missing record.
fn look_up(database: &mut Database, rows: &Rows, places: &[usize]) -> Result<Vec<u64>, Error> {
    let texts = places.iter().map(|nth| rows.id_text(&rows.rows[*nth])).collect::<Result<_, _>>()?;
    database.numbers(texts)
}

fn reserve(database: &mut Database, count: u64, above: u64, takes: bool) -> Result<u64, Error> {
    if takes && count > 0 { database.reserve(count, above) } else { Ok(above.max(database.look()?.last_id)) }
}

/// Finds `count` consecutive ids above `above` for records of the `newer` list without ids; returns the last id before
/// them. If ids are texts, no record has their digits as its id.
pub fn give_ids(database: &mut Database, newer: &Rows, count: u64, mut above: u64, takes: bool) -> Result<u64, Error> {
    loop {
        let last_id = reserve(database, count, above, takes)?;
        let end = last_id.saturating_add(count);
        if !newer.collection.has_text_ids() || end > Id::MAX.get() || !has_any(database, newer, last_id + 1, end)? {
            return Ok(last_id);
        }
        above = end;
    }
}

/// Tells whether a record's text id is the digits of a number from `first` to `last`.
fn has_any(database: &mut Database, newer: &Rows, first: u64, last: u64) -> Result<bool, Error> {
    for first in (first..=last).step_by(AT_ONCE) {
        let numbers = first..=last.min(first + AT_ONCE as u64 - 1);
        let texts: Vec<String> = numbers.map(|number| number.to_string()).collect();
        let is_taken = texts.iter().any(|text| newer.named(name_of(text)).is_some());
        if is_taken || database.numbers(texts)?.iter().any(|number| *number > 0) {
            return Ok(true);
        }
    }
    Ok(false)
}
