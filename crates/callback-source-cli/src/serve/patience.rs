//! Work on a connection, up to the time at which its client has kept it waiting for too long.

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

use super::idle::{LEAVING_TIME, Limits, Signal, Waiting};

/// Limits on how long a client may keep its connection waiting, and the signals that shorten them.
#[derive(Debug)]
pub(super) struct Patience {
    pub(super) waiting: Arc<Waiting>,
    pub(super) signal: watch::Receiver<Signal>,
    pub(super) idle_timeout: Duration,
    /// Whether it stays when the listener is crowded.
    pub(super) spared: bool,
    /// Time at which the connection was told that its request is the last.
    pub(super) told: Option<Instant>,
}

impl Patience {
    fn limits(&mut self) -> Limits {
        let signal = *self.signal.borrow_and_update();
        let mut limits = Limits::of(signal, self.spared, self.idle_timeout);
        if limits.leaves || self.waiting.is_displaced() {
            let told = *self.told.get_or_insert_with(Instant::now);
            limits.last_answer = Some(told + LEAVING_TIME);
        }
        limits
    }
}

/// Runs a future to its end, or until the client has kept it waiting for too long.
pub(super) async fn patiently<F: Future>(
    mut future: Pin<&mut F>,
    patience: &mut Patience,
    on_leaving: fn(Pin<&mut F>),
) -> Option<F::Output> {
    let mut alarm = pin!(sleep_until(Instant::now()));
    let mut told = false;
    loop {
        let limits = patience.limits();
        if limits.last_answer.is_some() && !told {
            told = true;
            on_leaving(future.as_mut());
        }
        let waiting = &patience.waiting;
        let end = std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            // By now the future has taken in whatever the client sent.
            match waiting.ends(&limits) {
                Some(end) => poll_at(alarm.as_mut(), end, cx).map(|()| None),
                None => Poll::Pending,
            }
        });
        tokio::select! {
            end = end => return end,
            () = waiting.displaced() => {}
            changed = patience.signal.changed() => {
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
    use crate::serve::idle::{Answering, LEAVING_TIME};

    const NORMAL: Signal = Signal {
        crowded: false,
        stopping: None,
    };

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_told_to_leave_is_cut_in_the_end() {
        let crowded = Signal {
            crowded: true,
            ..NORMAL
        };
        let (sender, signal) = watch::channel(NORMAL);
        let waiting = Arc::new(Waiting::new(Instant::now()));
        let mut patience = Patience {
            waiting: Arc::clone(&waiting),
            signal,
            idle_timeout: Duration::from_secs(3_900),
            spared: false,
            told: None,
        };
        let _endless = Answering::start(&waiting, Some(0));
        let start = Instant::now();
        let crowd = async {
            advance(Duration::from_secs(100)).await;
            sender.send_replace(crowded);
            std::future::pending::<()>().await;
        };
        let endless = pin!(std::future::pending::<()>());
        tokio::select! {
            ended = patiently(endless, &mut patience, |_| {}) => assert_eq!(ended, None),
            () = crowd => {}
        }
        assert_eq!(start.elapsed(), Duration::from_secs(100) + LEAVING_TIME);
    }
}
