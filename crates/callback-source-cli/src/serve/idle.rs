//! How long a client may keep its connection waiting.
//!
//! hyper's own limit on the time for a request's head starts when the previous response ends, so it
//! would be the limit on idleness, too. Callbacks are rare, and a proxy that finds its idle connection
//! closed loses one: idleness is long, and a head has its ten seconds from its first byte. Neither is
//! there while a request is being answered.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::framing::Coming;

/// What all connections are told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Signal {
    /// There are too many.
    pub(super) crowded: bool,
    /// The server stops, since then.
    pub(super) stopping: Option<Instant>,
}

/// How long a client may keep a connection waiting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    head: Duration,
    idle: Duration,
    /// Idleness counts from here at the earliest.
    idle_from: Option<Instant>,
    /// Whether the connection ends with the answer to its request.
    pub(super) leaves: bool,
    /// When even a request that is being answered is cut, such as of a client that ignores GOAWAY.
    pub(super) last_answer: Option<Instant>,
}

impl Limits {
    pub(super) fn of(signal: Signal, spared: bool, idle_timeout: Duration) -> Self {
        let (head, idle) = match (signal.stopping, signal.crowded && !spared) {
            (Some(_), _) => (HEAD_TIME, STOPPING_IDLE_TIME),
            (None, true) => (CROWDED_TIME, CROWDED_TIME),
            (None, false) => (HEAD_TIME, idle_timeout),
        };
        Self {
            head,
            idle,
            idle_from: signal.stopping,
            leaves: Self::leaves(signal, spared),
            last_answer: None,
        }
    }

    pub(super) fn leaves(signal: Signal, spared: bool) -> bool {
        signal.stopping.is_some() || (signal.crowded && !spared)
    }
}

/// What a connection waits for.
#[derive(Debug)]
pub(super) struct Waiting {
    stage: Mutex<Stage>,
    displaced: Notify,
}

/// Outcome of an attempt to displace a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Displaced {
    Now,
    Before,
    NotYet,
    NotWhileAnswering,
}

#[derive(Debug)]
struct Stage {
    /// How many requests are being answered.
    answering: usize,
    /// Since when none is.
    idle_since: Instant,
    /// When the head of the next request began.
    head_since: Option<Instant>,
    /// Which part of a request the next byte belongs to.
    coming: Coming,
    /// Time at which the place was given to another connection.
    displaced: Option<Instant>,
    /// Whether only the client's end of the connection is due.
    lingers: bool,
}

impl Waiting {
    /// The first head is due from the start.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            stage: Mutex::new(Stage {
                answering: 0,
                idle_since: now,
                head_since: Some(now),
                coming: Coming::default(),
                displaced: None,
                lingers: false,
            }),
            displaced: Notify::new(),
        }
    }

    /// Returns how many of these bytes belong to the request that is being read.
    pub(super) fn received(&self, bytes: &[u8]) -> usize {
        let mut stage = self.stage();
        if stage.answering == 0 && stage.coming.is_head() && stage.head_since.is_none() {
            stage.head_since = Some(Instant::now());
        }
        stage.coming.take(bytes)
    }

    /// When the client will have kept the connection waiting for too long.
    pub(super) fn ends(&self, limits: &Limits) -> Option<Instant> {
        let stage = self.stage();
        if stage.answering > 0 {
            return limits.last_answer;
        }
        let ends = match stage.head_since {
            Some(since) => since + limits.head,
            None => {
                limits
                    .idle_from
                    .map_or(stage.idle_since, |from| from.max(stage.idle_since))
                    + limits.idle
            }
        };
        Some(stage.displaced.map_or(ends, |since| since.min(ends)))
    }

    /// Ends the connection: at once, or with the answer to its request.
    pub(super) fn displace(&self) {
        self.stage().displaced.get_or_insert_with(Instant::now);
        self.displaced.notify_one();
    }

    /// Ends the connection if it has waited for its client for this long.
    pub(super) fn displace_if_idle(&self, for_at_least: Duration) -> Displaced {
        let stage = self.stage();
        if stage.displaced.is_some() {
            return Displaced::Before;
        }
        if stage.answering > 0 {
            return Displaced::NotWhileAnswering;
        }
        let since = stage.head_since.unwrap_or(stage.idle_since);
        if since.elapsed() < for_at_least && !stage.lingers {
            return Displaced::NotYet;
        }
        drop(stage);
        self.displace();
        Displaced::Now
    }

    /// The last answer was sent.
    pub(super) fn lingers(&self) {
        self.stage().lingers = true;
    }

    pub(super) fn is_displaced(&self) -> bool {
        self.stage().displaced.is_some()
    }

    #[cfg(test)]
    pub(super) fn head_has_begun(&self) -> bool {
        self.stage().head_since.is_some()
    }

    pub(super) async fn displaced(&self) {
        self.displaced.notified().await;
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is being answered.
pub(super) struct Answering(Arc<Waiting>);

impl Answering {
    /// With the length of the body, unless it comes in chunks.
    pub(super) fn start(waiting: &Arc<Waiting>, body: Option<u64>) -> Self {
        let mut stage = waiting.stage();
        stage.answering += 1;
        stage.head_since = None;
        stage.coming = Coming::body(body);
        Self(Arc::clone(waiting))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut stage = self.0.stage();
        stage.answering -= 1;
        stage.idle_since = Instant::now();
    }
}

const HEAD_TIME: Duration = Duration::from_secs(10);

const CROWDED_TIME: Duration = Duration::from_secs(1);

/// For a request that was sent before the client could know.
const STOPPING_IDLE_TIME: Duration = Duration::from_millis(500);

/// For the last request of a connection: an on-demand refresh takes one second.
pub(super) const LEAVING_TIME: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const NORMAL: Signal = Signal {
        crowded: false,
        stopping: None,
    };

    const CROWDED: Signal = Signal {
        crowded: true,
        stopping: None,
    };

    const IDLE_TIME: Duration = Duration::from_secs(3_900);

    fn waiting() -> Arc<Waiting> {
        Arc::new(Waiting::new(Instant::now()))
    }

    fn answer(waiting: &Arc<Waiting>) {
        drop(Answering::start(waiting, Some(0)));
    }

    /// For how long the client may still keep the connection waiting.
    fn left(waiting: &Waiting, signal: Signal) -> Option<Duration> {
        let ends = waiting.ends(&Limits::of(signal, false, IDLE_TIME))?;
        Some(ends.saturating_duration_since(Instant::now()))
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_head_is_due_from_the_start() {
        let waiting = waiting();
        assert_eq!(left(&waiting, NORMAL), Some(HEAD_TIME));
        advance(Duration::from_secs(4)).await;
        waiting.received(b"G");
        assert_eq!(left(&waiting, NORMAL), Some(Duration::from_secs(6)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_head_is_due_from_its_first_byte() {
        let waiting = waiting();
        let answering = Answering::start(&waiting, Some(0));
        assert_eq!(left(&waiting, NORMAL), None);
        advance(Duration::from_secs(60)).await;
        drop(answering);
        assert_eq!(left(&waiting, NORMAL), Some(IDLE_TIME));

        advance(IDLE_TIME - Duration::from_secs(1)).await;
        waiting.received(b"G");
        assert_eq!(left(&waiting, NORMAL), Some(HEAD_TIME));
        advance(Duration::from_secs(3)).await;
        waiting.received(b"ET ");
        assert_eq!(left(&waiting, NORMAL), Some(Duration::from_secs(7)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_not_the_start_of_a_head() {
        for (body, bytes) in [(Some(4), "{}{}"), (None, "2\r\n{}\r\n0\r\n\r\n")] {
            let waiting = waiting();
            let answering = Answering::start(&waiting, body);
            assert_eq!(waiting.received(bytes.as_bytes()), bytes.len());
            drop(answering);
            assert_eq!(left(&waiting, NORMAL), Some(IDLE_TIME));
            waiting.received(b"G");
            assert_eq!(left(&waiting, NORMAL), Some(HEAD_TIME));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_due_while_any_request_is_answered() {
        let waiting = waiting();
        let first = Answering::start(&waiting, Some(0));
        let second = Answering::start(&waiting, Some(0));
        drop(first);
        assert_eq!(left(&waiting, NORMAL), None);
        drop(second);
        assert_eq!(left(&waiting, NORMAL), Some(IDLE_TIME));
    }

    #[tokio::test(start_paused = true)]
    async fn who_kept_a_crowded_server_waiting_for_a_second_goes() {
        let waiting = waiting();
        assert_eq!(left(&waiting, CROWDED), Some(CROWDED_TIME));
        answer(&waiting);
        advance(Duration::from_secs(20)).await;
        assert_eq!(left(&waiting, CROWDED), Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_does_not_prolong_a_head() {
        let waiting = waiting();
        answer(&waiting);
        waiting.received(b"G");
        advance(Duration::from_millis(900)).await;
        waiting.received(b"E");
        assert_eq!(
            left(&waiting, CROWDED),
            Some(CROWDED_TIME - Duration::from_millis(900))
        );
    }

    #[test]
    fn a_trusted_proxy_is_spared_by_a_crowd_and_not_by_the_end() {
        assert!(Limits::leaves(CROWDED, false) && !Limits::leaves(CROWDED, true));
        assert!(!Limits::leaves(NORMAL, false));
        let crowded = Limits::of(CROWDED, true, IDLE_TIME);
        assert_eq!((crowded.idle, crowded.head), (IDLE_TIME, HEAD_TIME));
        let stopping = Signal {
            stopping: Some(Instant::now()),
            ..NORMAL
        };
        assert!(Limits::leaves(stopping, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_displaced_connection_ends_at_once_unless_it_has_a_request() {
        let waiting = waiting();
        let answering = Answering::start(&waiting, Some(0));
        waiting.displace();
        assert_eq!(left(&waiting, NORMAL), None);
        drop(answering);
        assert_eq!(left(&waiting, NORMAL), Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_has_a_moment_left_when_the_server_stops() {
        let waiting = waiting();
        answer(&waiting);
        advance(Duration::from_secs(20)).await;
        let stopping = Signal {
            crowded: true,
            stopping: Some(Instant::now()),
        };
        assert_eq!(left(&waiting, stopping), Some(STOPPING_IDLE_TIME));
    }
}
