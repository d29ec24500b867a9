//! Time limits of a connection that waits for its client.
//!
//! hyper starts its time limit for the head of a request when the previous response ends. That limit would also end
//! idle connections. Callbacks are rare. If a proxy sends a callback over a connection while the server closes that
//! connection, the callback is lost. Therefore the time limit of an idle connection is long. A head must arrive within
//! ten seconds of its first byte, and the first head within ten seconds of the start of the connection. Neither limit
//! applies while a request is in flight.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::framing::RequestPart;

/// State of a listener that all its connections observe.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ListenerState {
    /// `true` if few permits are left, or if a connection could not be accepted.
    pub(super) crowded: bool,
    /// Time at which the server began to stop.
    pub(super) stopping: Option<Instant>,
}

/// Time limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    head: Duration,
    idle: Duration,
    /// Earliest start of the idle time.
    idle_from: Option<Instant>,
    /// `true` if the connection ends with the next response.
    pub(super) closes_after_response: bool,
    /// Time at which the connection ends even if a request is in flight, since a client may ignore GOAWAY.
    pub(super) cut_at: Option<Instant>,
}

impl Limits {
    pub(super) fn new(listener: ListenerState, spared: bool, idle_timeout: Duration) -> Self {
        let (head, idle) = match (listener.stopping, listener.crowded && !spared) {
            (Some(_), _) => (HEAD_TIME, STOPPING_IDLE_TIME),
            (None, true) => (CROWDED_TIME, CROWDED_TIME),
            (None, false) => (HEAD_TIME, idle_timeout),
        };
        Self {
            head,
            idle,
            idle_from: listener.stopping,
            closes_after_response: Self::closes_after_response(listener, spared),
            cut_at: None,
        }
    }

    pub(super) fn closes_after_response(listener: ListenerState, spared: bool) -> bool {
        listener.stopping.is_some() || (listener.crowded && !spared)
    }
}

/// Timer of a connection that waits for its client.
#[derive(Debug)]
pub(super) struct IdleTimer {
    state: Mutex<State>,
    displaced: Notify,
}

/// Outcome of an attempt to displace a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Displaced {
    Now,
    Already,
    NotYet,
    RequestInFlight,
}

#[derive(Debug)]
struct State {
    /// Number of requests in flight.
    in_flight: usize,
    /// Time since which no request has been in flight.
    idle_since: Instant,
    /// Time at which the head of the next request began.
    head_since: Option<Instant>,
    /// Part of a request that contains the next byte.
    next_part: RequestPart,
    /// Time at which the connection was displaced by another connection.
    displaced: Option<Instant>,
    /// `true` if the last response has been sent, and the server only waits until the client closes the connection.
    is_lingering: bool,
}

impl IdleTimer {
    /// Creates a timer, and starts the time limit of the first head.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: Mutex::new(State {
                in_flight: 0,
                idle_since: now,
                head_since: Some(now),
                next_part: RequestPart::default(),
                displaced: None,
                is_lingering: false,
            }),
            displaced: Notify::new(),
        }
    }

    /// Records received bytes, and returns how many of them are in the current part of the request.
    pub(super) fn received(&self, bytes: &[u8]) -> usize {
        let mut state = self.state();
        if state.in_flight == 0 && state.next_part.is_head() && state.head_since.is_none() {
            state.head_since = Some(Instant::now());
        }
        state.next_part.advance(bytes)
    }

    /// Returns the end of the current time limit; `None` if no limit applies.
    pub(super) fn ends(&self, limits: &Limits) -> Option<Instant> {
        let state = self.state();
        if state.in_flight > 0 {
            return limits.cut_at;
        }
        let ends = match state.head_since {
            Some(since) => since + limits.head,
            None => {
                limits
                    .idle_from
                    .map_or(state.idle_since, |from| from.max(state.idle_since))
                    + limits.idle
            }
        };
        Some(state.displaced.map_or(ends, |since| since.min(ends)))
    }

    /// Ends the connection at once, or after the response to a request in flight.
    pub(super) fn displace(&self) {
        self.state().displaced.get_or_insert_with(Instant::now);
        self.displaced.notify_one();
    }

    /// Ends the connection if it has waited for its client for at least this long, or if its last response has been
    /// sent.
    pub(super) fn displace_if_idle(&self, for_at_least: Duration) -> Displaced {
        let state = self.state();
        if state.displaced.is_some() {
            return Displaced::Already;
        }
        if state.in_flight > 0 {
            return Displaced::RequestInFlight;
        }
        let since = state.head_since.unwrap_or(state.idle_since);
        if since.elapsed() < for_at_least && !state.is_lingering {
            return Displaced::NotYet;
        }
        drop(state);
        self.displace();
        Displaced::Now
    }

    /// Records that the last response has been sent.
    pub(super) fn start_linger(&self) {
        self.state().is_lingering = true;
    }

    pub(super) fn is_displaced(&self) -> bool {
        self.state().displaced.is_some()
    }

    #[cfg(test)]
    pub(super) fn head_has_begun(&self) -> bool {
        self.state().head_since.is_some()
    }

    pub(super) async fn displaced(&self) {
        self.displaced.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is in flight until this value is dropped.
pub(super) struct InFlight(Arc<IdleTimer>);

impl InFlight {
    /// Records the start of a request. `body` is the length of the body; `None` for a body in chunks.
    pub(super) fn start(timer: &Arc<IdleTimer>, body: Option<u64>) -> Self {
        let mut state = timer.state();
        state.in_flight += 1;
        state.head_since = None;
        state.next_part = RequestPart::body(body);
        Self(Arc::clone(timer))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.in_flight -= 1;
        state.idle_since = Instant::now();
    }
}

const HEAD_TIME: Duration = Duration::from_secs(10);

const CROWDED_TIME: Duration = Duration::from_secs(1);

/// Time for which an idle connection stays open while the server stops: a request may already have been sent.
const STOPPING_IDLE_TIME: Duration = Duration::from_millis(500);

/// Time limit for the last request of a connection. A request waits up to one second for an on-demand refresh.
pub(super) const LAST_RESPONSE_TIME: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const NORMAL: ListenerState = ListenerState {
        crowded: false,
        stopping: None,
    };

    const CROWDED: ListenerState = ListenerState {
        crowded: true,
        stopping: None,
    };

    const IDLE_TIME: Duration = Duration::from_secs(3_900);

    fn timer() -> Arc<IdleTimer> {
        Arc::new(IdleTimer::new(Instant::now()))
    }

    fn answer(timer: &Arc<IdleTimer>) {
        drop(InFlight::start(timer, Some(0)));
    }

    /// Time until the current limit ends.
    fn left(timer: &IdleTimer, listener: ListenerState) -> Option<Duration> {
        let ends = timer.ends(&Limits::new(listener, false, IDLE_TIME))?;
        Some(ends.saturating_duration_since(Instant::now()))
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_the_first_head_starts_with_the_connection() {
        let timer = timer();
        assert_eq!(left(&timer, NORMAL), Some(HEAD_TIME));
        advance(Duration::from_secs(4)).await;
        timer.received(b"G");
        assert_eq!(left(&timer, NORMAL), Some(Duration::from_secs(6)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_a_later_head_starts_with_its_first_byte() {
        let timer = timer();
        let in_flight = InFlight::start(&timer, Some(0));
        assert_eq!(left(&timer, NORMAL), None);
        advance(Duration::from_secs(60)).await;
        drop(in_flight);
        assert_eq!(left(&timer, NORMAL), Some(IDLE_TIME));

        advance(IDLE_TIME - Duration::from_secs(1)).await;
        timer.received(b"G");
        assert_eq!(left(&timer, NORMAL), Some(HEAD_TIME));
        advance(Duration::from_secs(3)).await;
        timer.received(b"ET ");
        assert_eq!(left(&timer, NORMAL), Some(Duration::from_secs(7)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_not_the_start_of_a_head() {
        for (body, bytes) in [(Some(4), "{}{}"), (None, "2\r\n{}\r\n0\r\n\r\n")] {
            let timer = timer();
            let in_flight = InFlight::start(&timer, body);
            assert_eq!(timer.received(bytes.as_bytes()), bytes.len());
            drop(in_flight);
            assert_eq!(left(&timer, NORMAL), Some(IDLE_TIME));
            timer.received(b"G");
            assert_eq!(left(&timer, NORMAL), Some(HEAD_TIME));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_limit_applies_while_a_request_is_in_flight() {
        let timer = timer();
        let first = InFlight::start(&timer, Some(0));
        let second = InFlight::start(&timer, Some(0));
        drop(first);
        assert_eq!(left(&timer, NORMAL), None);
        drop(second);
        assert_eq!(left(&timer, NORMAL), Some(IDLE_TIME));
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowded_server_closes_a_connection_that_waited_for_a_second() {
        let timer = timer();
        assert_eq!(left(&timer, CROWDED), Some(CROWDED_TIME));
        answer(&timer);
        advance(Duration::from_secs(20)).await;
        assert_eq!(left(&timer, CROWDED), Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_does_not_prolong_a_head() {
        let timer = timer();
        answer(&timer);
        timer.received(b"G");
        advance(Duration::from_millis(900)).await;
        timer.received(b"E");
        assert_eq!(
            left(&timer, CROWDED),
            Some(CROWDED_TIME - Duration::from_millis(900))
        );
    }

    #[test]
    fn a_crowded_listener_spares_a_trusted_proxy_and_a_stopping_one_does_not() {
        assert!(
            Limits::closes_after_response(CROWDED, false)
                && !Limits::closes_after_response(CROWDED, true)
        );
        assert!(!Limits::closes_after_response(NORMAL, false));
        let crowded = Limits::new(CROWDED, true, IDLE_TIME);
        assert_eq!((crowded.idle, crowded.head), (IDLE_TIME, HEAD_TIME));
        let stopping = ListenerState {
            stopping: Some(Instant::now()),
            ..NORMAL
        };
        assert!(Limits::closes_after_response(stopping, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_displaced_connection_ends_at_once_unless_it_has_a_request() {
        let timer = timer();
        let in_flight = InFlight::start(&timer, Some(0));
        timer.displace();
        assert_eq!(left(&timer, NORMAL), None);
        drop(in_flight);
        assert_eq!(left(&timer, NORMAL), Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_has_half_a_second_left_when_the_server_stops() {
        let timer = timer();
        answer(&timer);
        advance(Duration::from_secs(20)).await;
        let stopping = ListenerState {
            crowded: true,
            stopping: Some(Instant::now()),
        };
        assert_eq!(left(&timer, stopping), Some(STOPPING_IDLE_TIME));
    }
}
