//! Limit on open files.
//!
//! Each connection is an open file. If connections used all files, the next lookup could not open a socket, and callers
//! could make the list stale. The maximum number of connections is therefore lowered to what the limit allows.

#[cfg(unix)]
use rustix::process::{Resource, getrlimit, setrlimit};
#[cfg(unix)]
use tracing::warn;

/// Raises the limit to the necessary value, or to the greatest value that is allowed. Returns how many connections
/// callers can have, and how many connections Envoys can have to the ext_authz listener.
pub(super) fn room_for(callers: u32, envoys: u32) -> (usize, usize) {
    let room = room(callers.saturating_add(envoys));
    share(room, usize::try_from(envoys).unwrap_or(usize::MAX))
}

/// Divides the connections between callers and Envoys. Envoys get at most a quarter of the connections, but at least
/// one if they have a listener.
fn share(room: usize, envoys: usize) -> (usize, usize) {
    let envoys = envoys.min((room / 4).max(1));
    (room.saturating_sub(envoys).max(1), envoys)
}

/// Returns how many of these connections the limit allows. 128 files are reserved, so that callers cannot make lookups
/// fail.
#[cfg(unix)]
fn room(connections: u32) -> usize {
    let wanted = u64::from(connections) + FOR_THE_REST;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let before = limit;
        limit.current = Some(limit.maximum.map_or(wanted, |most| most.min(wanted)));
        if setrlimit(Resource::Nofile, limit).is_err() {
            limit = before;
        }
    }
    let room = limit.current.map_or(wanted, |current| current.min(wanted));
    let room = usize::try_from(room.saturating_sub(FOR_THE_REST).max(1)).unwrap_or(usize::MAX);
    if u64::try_from(room).is_ok_and(|room| room < u64::from(connections)) {
        warn!(
            "the limit on open files allows only {room} connections; raise it with \
             `ulimit -n` or `LimitNOFILE=`, or lower `--max-connections`"
        );
    }
    room
}

#[cfg(not(unix))]
fn room(connections: u32) -> usize {
    usize::try_from(connections).unwrap_or(usize::MAX)
}

#[cfg(unix)]
const FOR_THE_REST: u64 = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envoys_get_what_they_need_but_at_most_a_quarter() {
        let shares = [
            (11_024, 1_024),
            (896, 1_024),
            (10_000, 0),
            (3, 1_024),
            (1, 0),
        ];
        let shares = shares.map(|(room, envoys)| share(room, envoys));
        let expected = [(10_000, 1_024), (672, 224), (10_000, 0), (2, 1), (1, 0)];
        assert_eq!(shares, expected);
    }
}
