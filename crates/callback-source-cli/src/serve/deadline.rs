//! Deadline of a connection that waits for its client.
//!
//! The deadline depends on the state of the listener and on other connections, and can change while a connection waits.
//! It is therefore computed again at each change, instead of being set once as a timeout.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, Sleep, sleep_until},
};

use super::idle::{IdleTimer, LAST_RESPONSE_TIME, Limits, ListenerState};

/// Timer of a connection, with the events that change its limits.
#[derive(Debug)]
pub(super) struct Deadline {
    pub(super) timer: Arc<IdleTimer>,
    pub(super) listener: watch::Receiver<ListenerState>,
    pub(super) idle_timeout: Duration,
    /// `true` if the connection keeps its normal limits while the listener is crowded.
    pub(super) spared: bool,
    /// Time since which the current or the next request is the last request of the connection.
    pub(super) last_request_since: Option<Instant>,
}

impl Deadline {
    fn limits(&mut self) -> Limits {
        let listener = *self.listener.borrow_and_update();
        let mut limits = Limits::new(listener, self.spared, self.idle_timeout);
        if limits.closes_after_response || self.timer.is_displaced() {
            let since = *self.last_request_since.get_or_insert_with(Instant::now);
            limits.cut_at = Some(since + LAST_RESPONSE_TIME);
        } else {
            // The listener is not crowded. If it becomes crowded later, a request in flight gets the whole time limit.
            self.last_request_since = None;
        }
        limits
    }
}

/// Runs a future to its end, or returns `None` at the deadline.
///
/// The limits are computed again whenever the state of the listener changes or the connection is displaced.
pub(super) async fn until_deadline<F: Future>(
    mut future: Pin<&mut F>,
    deadline: &mut Deadline,
    on_last_request: fn(Pin<&mut F>),
) -> Option<F::Output> {
    let mut alarm = pin!(sleep_until(Instant::now()));
    let mut announced = false;
    loop {
        let limits = deadline.limits();
        if limits.cut_at.is_some() && !announced {
            announced = true;
            on_last_request(future.as_mut());
        }
        let timer = &deadline.timer;
        let end = std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            // The future is polled first, so that the timer has recorded every byte from the client.
            match timer.ends(&limits) {
                Some(end) => poll_at(alarm.as_mut(), end, cx).map(|()| None),
                None => Poll::Pending,
            }
        });
        tokio::select! {
            end = end => return end,
            () = timer.displaced() => {}
            changed = deadline.listener.changed() => {
                if changed.is_err() {
                    return None;
                }
            }
        }
    }
}

fn poll_at(mut alarm: Pin<&mut Sleep>, end: Instant, cx: &mut Context<'_>) -> Poll<()> {
    if alarm.deadline() != end {
        alarm.as_mut().reset(end);
    }
    alarm.poll(cx)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::serve::idle::{InFlight, LAST_RESPONSE_TIME};

    const NORMAL: ListenerState = ListenerState {
        crowded: false,
        stopping: None,
    };

    const CROWDED: ListenerState = ListenerState {
        crowded: true,
        stopping: None,
    };

    /// Returns the time after which a request that never ends is cut. The listener enters each state after the duration
    /// beside that state.
    async fn cut_after(states: &[(Duration, ListenerState)]) -> Duration {
        let (sender, listener) = watch::channel(NORMAL);
        let timer = Arc::new(IdleTimer::new(Instant::now()));
        let mut deadline = Deadline {
            timer: Arc::clone(&timer),
            listener,
            idle_timeout: Duration::from_secs(3_900),
            spared: false,
            last_request_since: None,
        };
        let _endless = InFlight::start(&timer, Some(0));
        let start = Instant::now();
        let crowd = async {
            for (after, state) in states {
                advance(*after).await;
                sender.send_replace(*state);
                tokio::task::yield_now().await;
            }
            std::future::pending::<()>().await;
        };
        let endless = pin!(std::future::pending::<()>());
        tokio::select! {
            ended = until_deadline(endless, &mut deadline, |_| {}) => assert_eq!(ended, None),
            () = crowd => {}
        }
        start.elapsed()
    }

    const AFTER: Duration = Duration::from_secs(100);

    #[tokio::test(start_paused = true)]
    async fn a_last_request_that_never_ends_is_cut() {
        let cut = cut_after(&[(AFTER, CROWDED)]).await;
        assert_eq!(cut, AFTER + LAST_RESPONSE_TIME);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_has_its_whole_time_when_the_listener_is_crowded_again() {
        let second = Duration::from_secs(1);
        let cut = cut_after(&[(AFTER, CROWDED), (second, NORMAL), (AFTER, CROWDED)]).await;
        assert_eq!(cut, AFTER + second + AFTER + LAST_RESPONSE_TIME);
    }
}
