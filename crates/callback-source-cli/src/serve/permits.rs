//! Permits for connections, and the choice of the connection to end when no permit is left.
//!
//! Time limits alone do not bound how long a client keeps a permit: a client that sends a request every second never
//! reaches a limit. Therefore three more rules apply:
//!
//! 1. A listener becomes *crowded* when fewer than 64 permits, and fewer than a quarter of all its permits, are free. A
//!    crowded listener ends each connection with its next response, except connections of trusted proxies.
//! 2. When no permit is left, a new connection displaces a connection of the address with the largest share. This may
//!    be the address of the new connection itself. Connections of smaller shares are never displaced. If every
//!    connection of the largest share has a request in flight, one of these requests becomes the last request of its
//!    connection.
//! 3. Connections of trusted proxies are displaced only when trusted proxies have every permit.
//!
//! Before its PROXY header is read, the address of a new connection is unknown. This address may already have one
//! connection, so the new connection never displaces the only connection of an address.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

use super::{idle::IdleTimer, owner::Owner, shares::Shares};

/// Permits of a listener.
#[derive(Debug)]
pub(super) struct Permits {
    max: usize,
    shares: Mutex<Shares>,
    freed: Notify,
}

impl Permits {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            shares: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// Waits for a permit, and displaces connections one after the other until a permit is free.
    pub(super) async fn acquire(self: &Arc<Self>, owner: Owner, timer: Arc<IdleTimer>) -> Permit {
        let mut displaced_one = false;
        loop {
            {
                let mut shares = self.shares();
                if shares.len() < self.max {
                    return self.issue(&mut shares, owner, timer);
                }
                if let Some(in_flight) = shares.displace(owner)
                    && !displaced_one
                {
                    in_flight.displace();
                    displaced_one = true;
                }
            }
            // The wait has a time limit, since the client of an HTTP/2 connection may delay the end of the connection.
            let _ = timeout(DISPLACE_AGAIN, self.freed.notified()).await;
        }
    }

    /// Returns a permit, even if the maximum is exceeded.
    pub(super) fn acquire_beyond_limit(
        self: &Arc<Self>,
        owner: Owner,
        timer: Arc<IdleTimer>,
    ) -> Permit {
        self.issue(&mut self.shares(), owner, timer)
    }

    fn issue(self: &Arc<Self>, shares: &mut Shares, owner: Owner, timer: Arc<IdleTimer>) -> Permit {
        let id = shares.add(owner, Arc::clone(&timer));
        Permit {
            permits: Arc::clone(self),
            owner,
            id,
            timer,
        }
    }

    pub(super) fn none_left(&self) -> bool {
        self.shares().len() >= self.max
    }

    /// Returns whether the listener is crowded, given its previous state.
    ///
    /// A listener becomes crowded when fewer than a certain number of permits are free, and stays crowded until twice
    /// that number are free. Otherwise, a connection that is repeatedly opened and closed would wake all other
    /// connections each time.
    pub(super) fn are_crowded(&self, were_crowded: bool) -> bool {
        let reserve = (self.max / 4).min(LARGEST_RESERVE);
        let reserve = if were_crowded { 2 * reserve } else { reserve };
        self.shares().len() > self.max - reserve
    }

    fn shares(&self) -> MutexGuard<'_, Shares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Permit for a connection, returned when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    permits: Arc<Permits>,
    owner: Owner,
    id: u64,
    timer: Arc<IdleTimer>,
}

impl Permit {
    pub(super) fn timer(&self) -> &Arc<IdleTimer> {
        &self.timer
    }

    /// Returns whether a crowded listener spares the connection. A connection whose PROXY header is unread comes
    /// from a trusted proxy.
    pub(super) fn is_spared(&self) -> bool {
        matches!(self.owner, Owner::Trusted | Owner::Unknown)
    }

    /// Changes the owner, which is known only after the PROXY header has been read.
    pub(super) fn set_owner(&mut self, owner: Owner) {
        if owner != self.owner {
            let mut shares = self.permits.shares();
            shares.remove(self.owner, self.id);
            shares.insert(owner, self.id, Arc::clone(&self.timer));
            self.owner = owner;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.permits.shares().remove(self.owner, self.id);
        self.permits.freed.notify_one();
    }
}

const LARGEST_RESERVE: usize = 64;

const DISPLACE_AGAIN: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, advance};

    use super::*;
    use crate::serve::{idle::InFlight, shares::GRACE};

    fn at(text: &str) -> Owner {
        Owner::address(text.parse().unwrap())
    }

    fn timer() -> Arc<IdleTimer> {
        Arc::new(IdleTimer::new(Instant::now()))
    }

    fn is_displaced(permit: &Permit) -> bool {
        permit.timer.is_displaced()
    }

    fn acquired(permits: &Arc<Permits>, owner: Owner) -> Permit {
        assert!(!permits.none_left());
        permits.acquire_beyond_limit(owner, timer())
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_displaces_a_connection_of_the_largest_share() {
        let permits = Permits::new(4);
        let other = acquired(&permits, at("192.0.2.9"));
        let mut many = Vec::new();
        for _ in 0..3 {
            many.push(acquired(&permits, at("192.0.2.1")));
        }
        let newcomer = permits.acquire(at("192.0.2.7"), timer());
        let leave = async {
            many[0].timer.displaced().await;
            drop(many.remove(0));
        };
        let (permit, ()) = tokio::join!(newcomer, leave);
        assert!(!is_displaced(&permit) && !is_displaced(&other));
        assert!(!many.iter().any(is_displaced));
        assert!(permits.none_left());
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_displaced_before_one_that_has_a_request() {
        let permits = Permits::new(2);
        let busy = acquired(&permits, at("192.0.2.1"));
        let _in_flight = InFlight::start(&busy.timer, Some(0));
        let idle = acquired(&permits, at("192.0.2.1"));
        advance(GRACE).await;
        assert!(permits.shares().displace(at("192.0.2.2")).is_none());
        assert!(is_displaced(&idle) && !is_displaced(&busy));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_not_displaced_before_its_request_can_arrive() {
        let permits = Permits::new(1);
        let new = acquired(&permits, at("192.0.2.1"));
        advance(GRACE - Duration::from_millis(1)).await;
        permits.shares().displace(at("192.0.2.2"));
        assert!(!is_displaced(&new));
        advance(Duration::from_millis(1)).await;
        permits.shares().displace(at("192.0.2.2"));
        assert!(is_displaced(&new));
    }

    #[tokio::test(start_paused = true)]
    async fn smaller_shares_are_spared_while_all_connections_of_the_largest_have_requests() {
        for newcomer in [Owner::Unknown, Owner::Trusted, at("192.0.2.2")] {
            let permits = Permits::new(3);
            let many = [
                acquired(&permits, at("192.0.2.1")),
                acquired(&permits, at("192.0.2.1")),
            ];
            let in_flight = many
                .each_ref()
                .map(|permit| InFlight::start(&permit.timer, Some(0)));
            let other = acquired(&permits, at("192.0.2.9"));
            advance(GRACE).await;
            permits.shares().displace(newcomer).unwrap().displace();
            assert!(is_displaced(&many[0]) && !is_displaced(&other));
            drop(in_flight);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_of_unknown_owner_never_displaces_an_only_connection() {
        let permits = Permits::new(3);
        let only = acquired(&permits, at("192.0.2.9"));
        let many = acquired(&permits, at("192.0.2.1"));
        advance(GRACE).await;
        assert!(permits.shares().displace(Owner::Unknown).is_none());
        assert!(!is_displaced(&only) && !is_displaced(&many));
        let second = acquired(&permits, at("192.0.2.1"));
        permits.shares().displace(Owner::Unknown);
        assert!(is_displaced(&many) && !is_displaced(&only) && !is_displaced(&second));
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_makes_only_one_request_the_last() {
        let permits = Permits::new(2);
        let trusted = [
            acquired(&permits, Owner::Trusted),
            acquired(&permits, Owner::Trusted),
        ];
        let _in_flight = trusted
            .each_ref()
            .map(|permit| InFlight::start(&permit.timer, Some(0)));
        let newcomer = permits.acquire(at("192.0.2.1"), timer());
        assert!(timeout(Duration::from_secs(4), newcomer).await.is_err());
        assert!(is_displaced(&trusted[0]) && !is_displaced(&trusted[1]));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_displaces_only_connections_of_larger_shares() {
        let permits = Permits::new(3);
        let other = acquired(&permits, at("192.0.2.9"));
        let many = [
            acquired(&permits, at("192.0.2.1")),
            acquired(&permits, at("192.0.2.1")),
        ];
        advance(GRACE).await;
        for _ in 0..3 {
            permits.shares().displace(at("192.0.2.1"));
        }
        assert!(many.iter().all(is_displaced) && !is_displaced(&other));
    }

    #[tokio::test(start_paused = true)]
    async fn connections_of_trusted_proxies_are_displaced_last() {
        let permits = Permits::new(3);
        let trusted = [
            acquired(&permits, Owner::Trusted),
            acquired(&permits, Owner::Trusted),
        ];
        let other = acquired(&permits, at("192.0.2.1"));
        advance(GRACE).await;
        for _ in 0..3 {
            permits.shares().displace(at("192.0.2.2"));
        }
        assert!(is_displaced(&other) && !trusted.iter().any(is_displaced));
        drop(other);
        let _third = acquired(&permits, Owner::Trusted);
        permits.shares().displace(at("192.0.2.2"));
        assert!(is_displaced(&trusted[0]) && !is_displaced(&trusted[1]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_changes_its_owner_when_the_client_is_known() {
        let permits = Permits::new(2);
        let mut permit = acquired(&permits, Owner::Trusted);
        let trusted = acquired(&permits, Owner::Trusted);
        permit.set_owner(at("192.0.2.1"));
        permits.shares().displace(Owner::Trusted);
        assert!(is_displaced(&permit) && !is_displaced(&trusted));
        drop((permit, trusted));
        assert!(permits.shares().is_empty());
    }

    #[test]
    fn a_listener_is_crowded_before_it_is_full() {
        for (max, crowded_from, until) in [(20, 16, 10), (64, 49, 32), (10_000, 9_937, 9_872)] {
            let permits = Permits::new(max);
            let mut acquired_permits = Vec::new();
            let mut fill = |count| {
                while acquired_permits.len() < count {
                    acquired_permits.push(permits.acquire_beyond_limit(at("192.0.2.1"), timer()));
                }
                acquired_permits.truncate(count);
            };
            fill(crowded_from - 1);
            assert!(!permits.are_crowded(false), "{max}");
            fill(crowded_from);
            assert!(permits.are_crowded(false), "{max}");
            fill(until + 1);
            assert!(permits.are_crowded(true), "{max}");
            fill(until);
            assert!(!permits.are_crowded(true), "{max}");
        }
    }
}
