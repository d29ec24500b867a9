//! The one task that asks: due questions, questions of strangers, and the end of windows.

use std::{
    collections::{HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};
use tracing::error;

use crate::{
    Question,
    allow_list::Shared,
    allow_set::after,
    answer_cache::{AnswerCache, Asked},
    observe::TARGET,
    state_file::StateFile,
};

/// Keeps an [`AllowList`](crate::AllowList) up to date.
///
/// Asks each question a second after its answer's TTL ended, a failing one after a pause that doubles
/// up to the longest, and all at once when a stranger calls. The second is for resolvers that count
/// in whole ones: they still hand out the old records, with a TTL of zero, until it is over. A tenth
/// of the wait, at most 0.5 s, is added by chance, so that replicas do not ask in step. A question that
/// hangs or panics holds up no other.
#[derive(Debug)]
#[must_use = "nothing is looked up unless it runs"]
pub struct Refresher {
    shared: Arc<Shared>,
    cache: Arc<AnswerCache>,
    /// How long each question is put off beyond the time at which it is due.
    delays: HashMap<Question, Duration>,
    state: Option<State>,
}

impl Refresher {
    pub(crate) fn new(
        shared: Arc<Shared>,
        cache: AnswerCache,
        state_file: Option<Arc<StateFile>>,
    ) -> Self {
        let state = state_file.map(|file| State {
            file,
            writing: None,
            written_at: Instant::now(),
        });
        Self {
            shared,
            cache: Arc::new(cache),
            delays: HashMap::new(),
            state,
        }
    }

    /// Runs until the last handle of the list is dropped. A panic on the way is reported, and the
    /// work goes on after a second.
    ///
    /// Needs a tokio runtime with time enabled, and the drivers that the resolver needs.
    pub async fn run(mut self) {
        while AssertUnwindSafe(self.drive()).catch_unwind().await.is_err() {
            error!(target: TARGET, "the refresher panicked, which is a defect; it goes on");
            sleep(AFTER_PANIC).await;
        }
    }

    async fn drive(&mut self) {
        let mut lookups = Lookups::default();
        let mut round = Round::default();
        while !self.shared.abandoned.load(Ordering::Acquire) {
            let now = Instant::now();
            let set = self.shared.published.load_full();
            let mut wake_at = set.next_change_at(now);
            for (question, due_at) in set.questions() {
                // A host that was taken out and put back is not put off.
                let delay = self
                    .delays
                    .get(&question)
                    .filter(|_| !set.is_unasked(&question));
                let due_at = after(due_at, delay.copied().unwrap_or_default());
                if due_at <= now {
                    lookups.start(&self.cache, question, Duration::ZERO);
                } else if !lookups.asking.contains(&question) {
                    wake_at = Some(wake_at.map_or(due_at, |at| at.min(due_at)));
                }
            }
            let wanted = self.shared.round_wanted.load(Ordering::Acquire);
            if round.number < wanted {
                for (question, _) in set.questions() {
                    lookups.start(&self.cache, question, self.shared.recheck.interval);
                }
                round = Round {
                    number: wanted,
                    pending: lookups.asking.clone(),
                };
            }
            if round.pending.is_empty()
                && self.shared.round_done.load(Ordering::Acquire) < round.number
            {
                self.shared
                    .round_done
                    .store(round.number, Ordering::Release);
                self.shared.news.send_replace(());
            }
            let save_at = self.save(now);
            drop(set);

            let wake_at = wake_at.into_iter().chain(save_at).min();
            tokio::select! {
                Some((question, asked)) = lookups.running.next() => {
                    lookups.asking.remove(&question);
                    round.pending.remove(&question);
                    self.finish(question, asked);
                }
                () = sleep_until(wake_at.unwrap_or(now)), if wake_at.is_some() => {
                    self.shared.update(|set, now| set.expire(now));
                }
                () = saved(self.state.as_mut()) => {}
                () = self.shared.wake.notified() => {}
            }
        }
    }

    fn finish(&mut self, question: Question, asked: Asked) {
        match asked {
            Asked::Now(outcome) => {
                #[cfg(feature = "metrics")]
                let counted = outcome.clone();
                let last_second = match &outcome {
                    Err(error) if !error.is_denial() => Duration::ZERO,
                    _ => LAST_SECOND,
                };
                self.shared
                    .update(|set, now| set.apply(&question, outcome, now));
                #[cfg(feature = "metrics")]
                crate::observe::looked_up(
                    counted.as_ref().map(|_| ()),
                    &self.shared.published.load(),
                    Instant::now(),
                );
                let set = self.shared.published.load();
                if let Some(due_at) = set.due_at(&question) {
                    let wait = due_at.saturating_duration_since(Instant::now());
                    let jitter = MOST_JITTER.min(wait / 10).mul_f64(fastrand::f64());
                    self.delays.insert(question, last_second + jitter);
                }
                self.delays
                    .retain(|asked, _| set.hosts().any(|host| *host == asked.host));
            }
            // Due, but not to be asked yet: the host was taken out and put back.
            Asked::Before(asked_at, outcome) => {
                let set = self.shared.published.load_full();
                if set.is_unasked(&question) {
                    self.shared
                        .update(|set, now| set.apply(&question, outcome, now));
                    return;
                }
                if let Some(due_at) = set.due_at(&question) {
                    let floor_ends = after(asked_at, set.rules().min_ttl);
                    let delay = floor_ends.saturating_duration_since(due_at);
                    let known = self.delays.get(&question).copied().unwrap_or_default();
                    self.delays.insert(question, delay.max(known));
                }
            }
        }
    }

    /// Writes the state if it is time, or says when it will be.
    fn save(&mut self, now: Instant) -> Option<Instant> {
        let state = self.state.as_mut()?;
        if state.writing.is_some() {
            return None;
        }
        let due_at = match self.shared.unsaved.load(Ordering::Acquire) {
            true => now,
            false => state.written_at + BETWEEN_SAVES,
        };
        if now < due_at {
            return Some(due_at);
        }
        self.shared.unsaved.store(false, Ordering::Release);
        state.written_at = now;
        let file = Arc::clone(&state.file);
        let snapshot = file.snapshot(&self.shared.published.load());
        state.writing = Some(tokio::task::spawn_blocking(move || file.write(&snapshot)));
        None
    }
}

impl Drop for Refresher {
    fn drop(&mut self) {
        self.shared.driven.store(false, Ordering::Release);
        self.shared.news.send_replace(());
        if let Some(state) = &self.state {
            state
                .file
                .write(&state.file.snapshot(&self.shared.published.load()));
        }
    }
}

#[derive(Debug)]
struct State {
    file: Arc<StateFile>,
    writing: Option<JoinHandle<()>>,
    /// Or the start: a file that was not understood is not overwritten with nothing at once.
    written_at: Instant,
}

async fn saved(state: Option<&mut State>) {
    match state {
        Some(State {
            writing: writing @ Some(_),
            ..
        }) => {
            if let Some(writing) = writing {
                // A panic of the writer is reported by tokio's own hook; the next save tries again.
                let _ = writing.await;
            }
            *writing = None;
        }
        _ => std::future::pending().await,
    }
}

/// A round of questions that strangers wait for.
#[derive(Default)]
struct Round {
    number: u64,
    pending: HashSet<Question>,
}

#[derive(Default)]
struct Lookups {
    running: FuturesUnordered<BoxFuture<'static, (Question, Asked)>>,
    asking: HashSet<Question>,
}

impl Lookups {
    fn start(&mut self, cache: &Arc<AnswerCache>, question: Question, max_age: Duration) {
        if !self.asking.insert(question.clone()) {
            return;
        }
        let cache = Arc::clone(cache);
        self.running.push(Box::pin(async move {
            let asked = cache.ask(question.clone(), max_age).await;
            (question, asked)
        }));
    }
}

/// For how long a resolver can hand out records whose TTL has ended by our clock.
const LAST_SECOND: Duration = Duration::from_secs(1);

const MOST_JITTER: Duration = Duration::from_millis(500);

/// Times move on with each answer; addresses that change are saved at once.
const BETWEEN_SAVES: Duration = Duration::from_secs(60);

const AFTER_PANIC: Duration = Duration::from_secs(1);
