//! Places of a listener, their owners, and the order in which connections end when all are taken.
//!
//! A bound on how slow a client may be does not bound how long it may hold a place: a client that sends a
//! request every second is never slow. So three rules apply on top of the time limits:
//!
//! 1. A listener is *crowded* while fewer than a quarter of its places (64 at most) are free. A crowded
//!    listener ends each connection with the answer to its request, except those of trusted proxies.
//! 2. When all places are taken, a new connection displaces one of the address that holds the most, which
//!    may be its own address. Those of smaller shares are never displaced: while the largest share has only
//!    requests that are being answered, one of these becomes its connection's last.
//! 3. Connections of trusted proxies are displaced only when they hold every place.
//!
//! Behind a PROXY header the address of a new connection is not known yet. It may belong to an address that
//! holds one connection already, so it displaces no connection that is its address's only one.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

use super::{idle::Waiting, owner::Owner, shares::Held};

/// Places of a listener.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    held: Mutex<Held>,
    freed: Notify,
}

impl Places {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            held: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// Waits for a place. While there is none, connections are displaced one by one.
    pub(super) async fn enter(self: &Arc<Self>, owner: Owner, waiting: Arc<Waiting>) -> Place {
        let mut enough = false;
        loop {
            {
                let mut held = self.held();
                if held.count() < self.most {
                    return self.place(&mut held, owner, waiting);
                }
                if let Some(answering) = held.displace(owner)
                    && !enough
                {
                    answering.displace();
                    enough = true;
                }
            }
            // Not until one is free: the client of an HTTP/2 connection may delay its end.
            let _ = timeout(DISPLACE_AGAIN, self.freed.notified()).await;
        }
    }

    /// Takes a place, or one beyond the last.
    pub(super) fn force(self: &Arc<Self>, owner: Owner, waiting: Arc<Waiting>) -> Place {
        self.place(&mut self.held(), owner, waiting)
    }

    fn place(self: &Arc<Self>, held: &mut Held, owner: Owner, waiting: Arc<Waiting>) -> Place {
        let id = held.add(owner, Arc::clone(&waiting));
        Place {
            places: Arc::clone(self),
            owner,
            id,
            waiting,
        }
    }

    pub(super) fn are_full(&self) -> bool {
        self.held().count() >= self.most
    }

    /// Whether the listener is crowded, given whether it was. It stays so until twice the reserve is free,
    /// so that a single connection that comes and goes does not wake all others each time.
    pub(super) fn are_crowded(&self, were: bool) -> bool {
        let reserve = (self.most / 4).min(LARGEST_RESERVE);
        let reserve = if were { 2 * reserve } else { reserve };
        self.held().count() > self.most - reserve
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place, freed when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    owner: Owner,
    id: u64,
    waiting: Arc<Waiting>,
}

impl Place {
    pub(super) fn waiting(&self) -> &Arc<Waiting> {
        &self.waiting
    }

    /// Whether the connection is spared when the listener is crowded. The PROXY header comes from a trusted
    /// proxy.
    pub(super) fn is_spared(&self) -> bool {
        matches!(self.owner, Owner::Trusted | Owner::Unknown)
    }

    /// Changes the owner: behind a PROXY header it is known only after the connection has its place.
    pub(super) fn belongs_to(&mut self, owner: Owner) {
        if owner != self.owner {
            let mut held = self.places.held();
            held.remove(self.owner, self.id);
            held.insert(owner, self.id, Arc::clone(&self.waiting));
            self.owner = owner;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.held().remove(self.owner, self.id);
        self.places.freed.notify_one();
    }
}

const LARGEST_RESERVE: usize = 64;

const DISPLACE_AGAIN: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, advance};

    use super::*;
    use crate::serve::{idle::Answering, shares::GRACE};

    fn at(text: &str) -> Owner {
        Owner::address(text.parse().unwrap())
    }

    fn waiting() -> Arc<Waiting> {
        Arc::new(Waiting::new(Instant::now()))
    }

    fn is_displaced(place: &Place) -> bool {
        place.waiting.is_displaced()
    }

    fn held(places: &Arc<Places>, owner: Owner) -> Place {
        assert!(!places.are_full());
        places.force(owner, waiting())
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_displaces_a_connection_of_the_address_that_holds_the_most() {
        let places = Places::new(4);
        let other = held(&places, at("192.0.2.9"));
        let mut many = Vec::new();
        for _ in 0..3 {
            many.push(held(&places, at("192.0.2.1")));
        }
        let enter = places.enter(at("192.0.2.7"), waiting());
        let leave = async {
            many[0].waiting.displaced().await;
            drop(many.remove(0));
        };
        let (place, ()) = tokio::join!(enter, leave);
        assert!(!is_displaced(&place) && !is_displaced(&other));
        assert!(!many.iter().any(is_displaced));
        assert!(places.are_full());
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_displaced_before_one_that_has_a_request() {
        let places = Places::new(2);
        let busy = held(&places, at("192.0.2.1"));
        let _answering = Answering::start(&busy.waiting, Some(0));
        let idle = held(&places, at("192.0.2.1"));
        advance(GRACE).await;
        assert!(places.held().displace(at("192.0.2.2")).is_none());
        assert!(is_displaced(&idle) && !is_displaced(&busy));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_has_a_moment_for_its_request() {
        let places = Places::new(1);
        let new = held(&places, at("192.0.2.1"));
        advance(GRACE - Duration::from_millis(1)).await;
        places.held().displace(at("192.0.2.2"));
        assert!(!is_displaced(&new));
        advance(Duration::from_millis(1)).await;
        places.held().displace(at("192.0.2.2"));
        assert!(is_displaced(&new));
    }

    #[tokio::test(start_paused = true)]
    async fn smaller_shares_are_spared_while_the_largest_is_all_requests() {
        for newcomer in [Owner::Unknown, Owner::Trusted, at("192.0.2.2")] {
            let places = Places::new(3);
            let many = [
                held(&places, at("192.0.2.1")),
                held(&places, at("192.0.2.1")),
            ];
            let answering = many
                .each_ref()
                .map(|place| Answering::start(&place.waiting, Some(0)));
            let other = held(&places, at("192.0.2.9"));
            advance(GRACE).await;
            places.held().displace(newcomer).unwrap().displace();
            assert!(is_displaced(&many[0]) && !is_displaced(&other));
            drop(answering);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_of_unknown_owner_displaces_no_only_connection() {
        let places = Places::new(3);
        let only = held(&places, at("192.0.2.9"));
        let many = held(&places, at("192.0.2.1"));
        advance(GRACE).await;
        assert!(places.held().displace(Owner::Unknown).is_none());
        assert!(!is_displaced(&only) && !is_displaced(&many));
        let second = held(&places, at("192.0.2.1"));
        places.held().displace(Owner::Unknown);
        assert!(is_displaced(&many) && !is_displaced(&only) && !is_displaced(&second));
    }

    #[tokio::test(start_paused = true)]
    async fn only_one_request_is_the_last_for_a_newcomer() {
        let places = Places::new(2);
        let held = [held(&places, Owner::Trusted), held(&places, Owner::Trusted)];
        let _answering = held
            .each_ref()
            .map(|place| Answering::start(&place.waiting, Some(0)));
        let enter = places.enter(at("192.0.2.1"), waiting());
        assert!(timeout(Duration::from_secs(4), enter).await.is_err());
        assert!(is_displaced(&held[0]) && !is_displaced(&held[1]));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_displaces_no_connection_of_one_that_does_not_hold_more() {
        let places = Places::new(3);
        let other = held(&places, at("192.0.2.9"));
        let many = [
            held(&places, at("192.0.2.1")),
            held(&places, at("192.0.2.1")),
        ];
        advance(GRACE).await;
        for _ in 0..3 {
            places.held().displace(at("192.0.2.1"));
        }
        assert!(many.iter().all(is_displaced) && !is_displaced(&other));
    }

    #[tokio::test(start_paused = true)]
    async fn connections_of_trusted_proxies_are_displaced_last() {
        let places = Places::new(3);
        let trusted = [held(&places, Owner::Trusted), held(&places, Owner::Trusted)];
        let other = held(&places, at("192.0.2.1"));
        advance(GRACE).await;
        for _ in 0..3 {
            places.held().displace(at("192.0.2.2"));
        }
        assert!(is_displaced(&other) && !trusted.iter().any(is_displaced));
        drop(other);
        let _third = held(&places, Owner::Trusted);
        places.held().displace(at("192.0.2.2"));
        assert!(is_displaced(&trusted[0]) && !is_displaced(&trusted[1]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_changes_hands_when_its_client_is_known() {
        let places = Places::new(2);
        let mut place = held(&places, Owner::Trusted);
        let trusted = held(&places, Owner::Trusted);
        place.belongs_to(at("192.0.2.1"));
        places.held().displace(Owner::Trusted);
        assert!(is_displaced(&place) && !is_displaced(&trusted));
        drop((place, trusted));
        assert!(places.held().is_empty());
    }

    #[test]
    fn a_listener_is_crowded_before_it_is_full() {
        for (most, crowded_from, until) in [(20, 16, 10), (64, 49, 32), (10_000, 9_937, 9_872)] {
            let places = Places::new(most);
            let mut held_places = Vec::new();
            let mut fill = |count| {
                while held_places.len() < count {
                    held_places.push(places.force(at("192.0.2.1"), waiting()));
                }
                held_places.truncate(count);
            };
            fill(crowded_from - 1);
            assert!(!places.are_crowded(false), "{most}");
            fill(crowded_from);
            assert!(places.are_crowded(false), "{most}");
            fill(until + 1);
            assert!(places.are_crowded(true), "{most}");
            fill(until);
            assert!(!places.are_crowded(true), "{most}");
        }
    }
}
