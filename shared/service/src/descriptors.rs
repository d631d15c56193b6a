//! The limit of open files, of which a connection takes one: clients get what the service can spare, so that the database's
//! files can always be opened.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::connection::Bounds;

/// The limit that is more than enough. macOS takes none above 10,240.
const ENOUGH: u64 = 8192;

/// What a service keeps for itself: the database, sorted parts of an index that is being built, the broker, operators, `seed`.
const OWN: usize = 256;

/// What a thread that serves takes.
const OF_A_WORKER: usize = 4;

/// The fewest connections and listeners that are of use.
const FEWEST: usize = 16;

/// Raises the limit of open files to what is enough, or as far as the system lets it. Returns how many connections there may be
/// with it.
///
/// # Errors
/// It is too low for a service.
pub(crate) fn raise_limit(workers: usize) -> Result<Bounds, String> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(ENOUGH, |maximum| maximum.min(ENOUGH));
    let mut limit = current.unwrap_or(ENOUGH);
    if limit < wanted && setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).is_ok() {
        limit = wanted;
    }
    let own = OWN + workers * OF_A_WORKER;
    let bounds = share(usize::try_from(limit).unwrap_or(usize::MAX), own);
    let Bounds { connections, listeners } = bounds;
    if connections < FEWEST {
        return Err(format!(
            "a process may have {limit} open files here, and a service needs {}; raise the limit with `ulimit -n`, or \
             LimitNOFILE= of its unit",
            own + 2 * FEWEST
        ));
    }
    if connections < Bounds::default().connections || listeners < Bounds::default().listeners {
        log::warn!(
            "a process may have {limit} open files here, so there are at most {connections} connections and {listeners} that \
             follow the changes; raise the limit for more"
        );
    }
    Ok(bounds)
}

/// Shares what is left of `limit` behind `own`.
fn share(limit: usize, own: usize) -> Bounds {
    let half = limit.saturating_sub(own) / 2;
    let Bounds { connections, listeners } = Bounds::default();
    Bounds { connections: connections.min(half), listeners: listeners.min(half) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_and_a_service_fit_into_the_limit() {
        let most = Bounds::default();
        for (limit, connections, listeners) in
            [(0, 0, 0), (264, 0, 0), (1024, 380, 380), (4096, most.connections, 1916), (8192, most.connections, 2048)]
        {
            let bounds = share(limit, 264);
            assert_eq!((bounds.connections, bounds.listeners), (connections, listeners), "{limit}");
        }
    }
}
