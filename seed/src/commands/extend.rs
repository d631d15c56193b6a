//! Adds collections that are new in the plan to a split in place.

use std::io;
use std::path::Path;
use std::sync::Arc;

use record::model::Collection;
use store::Store;

use crate::database::Database;
use crate::error::Error;
use crate::filling::{Built, destinations, prove, refuse_orphans};
use crate::identity::identify;
use crate::ids;
use crate::manifest::{Manifest, Moment};
use crate::options::Options;
use crate::orphans::{Edited, Edits, Orphans};
use crate::plan::Plan;
use crate::progress::Total;
use crate::rejects::Rejects;
use crate::source::Reading;
use crate::splitting::Splitting;
use crate::target::{Place, Target};

/// Adds the collections of `plan` that a split does not have, from the file. The existing ones stay unchanged, and their
/// services go on running. Returns the manifest, and each added collection with its number of records.
pub(crate) fn extend(
    input: &Path,
    data: &Path,
    plan: &Plan,
    manifest: Manifest,
    target: &mut Target,
    options: &Options,
) -> Result<(Manifest, Vec<(Collection, u64)>), Error> {
    let fresh = plan.without(&manifest.plan());
    if fresh.count() == 0 {
        return Ok((manifest, Vec::new()));
    }
    if !target.is_empty(&fresh) {
        let names: Vec<&str> = fresh.iter().map(Collection::name).collect();
        let holds = format!("it holds slices or databases of {} without a manifest of them", names.join(", "));
        return Err(Error::occupied(data, holds));
    }
    let building = target.build(&fresh)?;
    let given = ids::read_beside(input, plan, || identify(input))?;
    let reading = Arc::new(Reading { given, as_node: options.as_node || manifest.as_node > 0 });
    let passes = options.rejects.is_some() || manifest.rejected > 0;
    let mut rejects = if passes { Rejects::pass_over(input) } else { Rejects::refuse(input) };
    let splitting = Splitting {
        path: input,
        plan,
        reading: &reading,
        requires_all: options.require,
        // The split has put other collections aside, or the update will.
        rest: Some(Box::new(io::sink())),
        progress: options.progress,
    };
    let split = splitting.split(&destinations(&building), &mut rejects)?;
    let (rejected, as_node) = rejects.finish()?;
    let built = Built { split, rejected, as_node, reading: Arc::clone(&reading), taken_up: false };
    let scans = prove(input, plan, &building, &built, options)?;
    let added = built.split.parts.iter().map(|part| (part.collection, part.digests.exact.count)).collect();
    if options.dry_run {
        drop(scans);
        target.clear()?;
        return Ok((manifest, added));
    }
    let stores: Vec<Store> = scans.into_iter().map(|scanned| scanned.store).collect();
    let moments = stores.iter().map(Moment::of).collect::<Result<_, _>>()?;
    let orphans = refuse_orphans(find_orphans(target, &fresh, &stores)?, options)?;
    drop(stores);
    target.places().iter_mut().for_each(Place::close_database);
    let manifest = manifest.with_added(built.split.parts, moments, orphans, plan);
    let _stage = options.progress.stage("putting into place", Total::Unknown);
    target.publish(&manifest, || Ok(()))?;
    target.go_on();
    Ok((manifest, added))
}

/// Counts the references that lead nowhere, in the existing collections and in the `stores` of the `fresh` ones.
fn find_orphans(target: &mut Target, fresh: &Plan, stores: &[Store]) -> Result<Orphans, Error> {
    let mut new: Vec<Database> = stores.iter().map(Database::of).collect();
    let mut new = new.iter_mut();
    let mut edits = Vec::new();
    let edited = &Edited::default();
    for place in target.places() {
        let collection = place.collection;
        let database =
            if fresh.has(collection) { new.next().expect("each that is fresh was built") } else { place.database()? };
        edits.push(Edits { collection, database, edited });
    }
    Orphans::find_edited(&mut edits)
}
