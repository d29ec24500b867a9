//! The one task that asks: due questions, on-demand refreshes, and the end of windows.

use std::{
    collections::{HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    task::JoinHandle,
    time::{sleep, sleep_until},
};
use tracing::{error, info};

use crate::{
    LOG_TARGET, Question,
    list::Shared,
    list::answer_cache::{AnswerCache, Asked},
    list::sleep_clock::SleepClock,
    list::state_file::StateFile,
    set::{LAST_SECOND, MAX_JITTER, after, before},
};

/// Keeps an [`AllowList`](crate::AllowList) up to date.
///
/// Asks each question a second after its answer's TTL ended, a failing one after a pause that doubles
/// up to the longest, and, while an unlisted peer waits, each that was not asked for the
/// [`on_demand_interval`](crate::AllowListBuilder::on_demand_interval). The second is for resolvers that count
/// in whole ones: they still hand out the old records, with a TTL of zero, until it is over. A tenth
/// of the wait, at most 0.5 s, is added by chance, so that replicas do not ask in step. A question that
/// hangs or panics holds up no other.
///
/// On Linux and Android it also looks every 5 seconds whether the machine has slept, which `Instant`
/// does not count. All windows then end earlier by the time of the sleep, and the questions that are due
/// because of it are asked at once. Until it has looked, verdicts are given as if there had been no sleep.
#[derive(Debug)]
#[must_use = "nothing is looked up unless it runs"]
pub struct Refresher {
    shared: Arc<Shared>,
    cache: Arc<AnswerCache>,
    attempted: HashMap<Question, Tried>,
    /// The next time at which a window ends.
    change_at: Option<Instant>,
    sleep_clock: Option<SleepClock>,
    state: Option<State>,
}

/// The last lookup of a question.
#[derive(Debug)]
struct Tried {
    /// When it was asked.
    at: Instant,
    /// How long it is put off beyond the time at which it is due.
    delay: Duration,
}

impl Refresher {
    pub(crate) fn new(
        shared: Arc<Shared>,
        cache: AnswerCache,
        sleep_clock: Option<SleepClock>,
        state_file: Option<Arc<StateFile>>,
    ) -> Self {
        let state = state_file.map(|file| State {
            file,
            writing: None,
            written_at: tokio::time::Instant::now().into_std(),
        });
        Self {
            shared,
            cache: Arc::new(cache),
            attempted: HashMap::new(),
            change_at: None,
            sleep_clock,
            state,
        }
    }

    /// Runs until the last handle of the list is dropped. A panic on the way is reported, and the
    /// work goes on after a second.
    ///
    /// Needs a tokio runtime with time enabled, and the drivers that the resolver needs.
    pub async fn run(mut self) {
        while AssertUnwindSafe(self.drive()).catch_unwind().await.is_err() {
            error!(target: LOG_TARGET, "the refresher panicked, which is a defect; it goes on");
            sleep(AFTER_PANIC).await;
        }
        self.save_last().await;
    }

    /// Saves what is known when the last handle of the list was dropped, without the disk being waited for
    /// on a thread of the runtime.
    async fn save_last(&mut self) {
        self.notice_sleep();
        let Some(State { file, .. }) = &self.state else {
            return;
        };
        let file = Arc::clone(file);
        let snapshot = file.snapshot(&self.shared.published.load());
        // A panic of the writer is reported by tokio's own hook.
        let _ = tokio::task::spawn_blocking(move || file.write(&snapshot)).await;
        // Only now: if the runtime ends meanwhile, the write may not have begun.
        self.state = None;
    }

    async fn drive(&mut self) {
        let mut lookups = Lookups::default();
        while !self.shared.handles_dropped.load(Ordering::Acquire) {
            self.notice_sleep();
            let now = tokio::time::Instant::now().into_std();
            // Here and not where the timer is waited for: if another event came first, the timer for
            // this time is gone.
            if self.change_at.is_some_and(|at| at <= now) {
                self.shared.update(|set, now| set.expire(now));
            }
            let ask_at = self.ask(&mut lookups, now);
            let save_at = self.save(now);
            let look_at = self.sleep_clock.is_some().then(|| now + BETWEEN_LOOKS);

            let wake_at = [self.change_at, ask_at, save_at, look_at];
            let wake_at = wake_at.into_iter().flatten().min();
            tokio::select! {
                Some((question, asked)) = lookups.running.next() => {
                    lookups.asking.remove(&question);
                    self.finish(question, asked);
                }
                () = sleep_until(wake_at.unwrap_or(now).into()), if wake_at.is_some() => {}
                () = saved(self.state.as_mut()) => {}
                () = self.shared.wake.notified() => {}
            }
        }
    }

    /// Starts the questions whose time has come, and returns when the next one is to be asked.
    fn ask(&mut self, lookups: &mut Lookups, now: Instant) -> Option<Instant> {
        let turn = self.shared.on_demand.turn();
        let set = self.shared.published.load_full();
        self.change_at = set.next_change_at(now);
        let floor = set.rules().min_ttl;
        let mut next = None;
        let mut next_idle = None;
        // Not that of a host which is gone meanwhile.
        let mut is_asking = false;
        for (question, due_at) in set.questions() {
            if lookups.asking.contains(&question) {
                is_asking = true;
                continue;
            }
            // A host that was taken out and put back is not put off: the cache may know it.
            let tried = self.attempted.get(&question);
            let tried = tried.filter(|_| !set.is_unasked(&question));
            let due_at = tried.map_or(due_at, |tried| {
                after(due_at, tried.delay).max(after(tried.at, floor))
            });
            let askable_at = tried.map_or(due_at, |tried| {
                after(tried.at, self.shared.on_demand.interval())
            });
            let ask_at = match turn.is_wanted(askable_at) {
                true => due_at.min(askable_at),
                false => due_at,
            };
            if ask_at <= now {
                lookups.start(&self.cache, question);
                is_asking = true;
            } else {
                next = earlier(next, ask_at);
                next_idle = earlier(next_idle, askable_at);
            }
        }
        if turn.end(is_asking, next_idle) {
            self.shared.published_changed.send_replace(());
        }
        next
    }

    fn finish(&mut self, question: Question, asked: Asked) {
        let set = self.shared.published.load_full();
        self.attempted
            .retain(|tried, _| set.hosts().any(|host| *host == tried.host));
        let at = asked.at.into_std();
        let tried = self.attempted.entry(question.clone()).or_insert(Tried {
            at,
            delay: Duration::ZERO,
        });
        tried.at = at;
        if !asked.is_new && !set.is_unasked(&question) {
            return;
        }
        #[cfg(feature = "metrics")]
        let counted = asked.is_new.then(|| asked.outcome.clone());
        #[cfg(callback_source_simulation)]
        if crate::simulation::planted(crate::simulation::Fault::OnDemandAnswerDropped)
            && set
                .due_at(&question)
                .is_some_and(|at| tokio::time::Instant::now().into_std() < at)
        {
            return;
        }
        let last_second = match &asked.outcome {
            Err(error) if !error.is_denial() => Duration::ZERO,
            _ => LAST_SECOND,
        };
        self.shared
            .update(|set, now| set.apply(&question, asked.outcome, now));
        let set = self.shared.published.load();
        #[cfg(feature = "metrics")]
        if let Some(outcome) = counted {
            super::log::looked_up(
                outcome.as_ref().map(|_| ()),
                &set,
                tokio::time::Instant::now().into_std(),
            );
        }
        if let Some(due_at) = set.due_at(&question) {
            let wait = due_at.saturating_duration_since(tokio::time::Instant::now().into_std());
            let jitter = MAX_JITTER.min(wait / 10).mul_f64(fastrand::f64());
            tried.delay = last_second + jitter;
            #[cfg(callback_source_simulation)]
            if crate::simulation::planted(crate::simulation::Fault::JitterNegative) {
                tried.delay = last_second.saturating_sub(jitter);
            }
        }
    }

    /// Adds the time that the machine slept to the age of all that is known.
    fn notice_sleep(&mut self) {
        let Some(slept) = self.sleep_clock.as_mut().and_then(SleepClock::slept) else {
            return;
        };
        info!(target: LOG_TARGET, ?slept, "the machine slept; windows end earlier by that time");
        self.cache.slept(slept);
        for tried in self.attempted.values_mut() {
            tried.at = before(tried.at, slept);
        }
        let file = self.state.as_ref().map(|state| &state.file);
        self.shared.update(|set, now| {
            // Within the same change: hosts that are replaced in between would move twice or not at all.
            if let Some(file) = file {
                file.slept(slept);
            }
            set.slept(slept, now)
        });
    }

    /// Writes the state if it is time, or says when it will be.
    fn save(&mut self, now: Instant) -> Option<Instant> {
        let state = self.state.as_mut()?;
        if state.writing.is_some() {
            return None;
        }
        let due_at = match self.shared.dirty.load(Ordering::Acquire) {
            true => now,
            false => state.written_at + BETWEEN_SAVES,
        };
        #[cfg(callback_source_simulation)]
        if crate::simulation::planted(crate::simulation::Fault::ChangesSavedLate)
            && now < state.written_at + BETWEEN_SAVES
        {
            return Some(state.written_at + BETWEEN_SAVES);
        }
        if now < due_at {
            return Some(due_at);
        }
        self.shared.dirty.store(false, Ordering::Release);
        state.written_at = now;
        let file = Arc::clone(&state.file);
        let snapshot = file.snapshot(&self.shared.published.load());
        state.writing = Some(tokio::task::spawn_blocking(move || file.write(&snapshot)));
        None
    }
}

impl Drop for Refresher {
    fn drop(&mut self) {
        self.notice_sleep();
        self.shared.on_demand.end();
        self.shared.published_changed.send_replace(());
        // The runtime ends, and a task to wait in with it.
        if let Some(State { file, .. }) = self.state.take() {
            let snapshot = file.snapshot(&self.shared.published.load());
            let (written, is_written) = std::sync::mpsc::channel();
            let write = move || {
                file.write(&snapshot);
                let _ = written.send(());
            };
            // A disk that is stuck must not keep the process from ending.
            if std::thread::Builder::new().spawn(write).is_ok() {
                let _ = is_written.recv_timeout(LAST_WRITE);
            }
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

#[derive(Default)]
struct Lookups {
    running: FuturesUnordered<BoxFuture<'static, (Question, Asked)>>,
    asking: HashSet<Question>,
}

impl Lookups {
    fn start(&mut self, cache: &Arc<AnswerCache>, question: Question) {
        self.asking.insert(question.clone());
        let cache = Arc::clone(cache);
        self.running.push(Box::pin(async move {
            let asked = cache.ask(question.clone()).await;
            (question, asked)
        }));
    }
}

fn earlier(at: Option<Instant>, other: Instant) -> Option<Instant> {
    Some(at.map_or(other, |at| at.min(other)))
}

/// For how long the end of a runtime waits for the last write.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// Times move on with each answer; addresses that change are saved at once.
const BETWEEN_SAVES: Duration = Duration::from_secs(60);

const AFTER_PANIC: Duration = Duration::from_secs(1);

/// For how long after a wake-up of the machine verdicts can be given as if it had not slept.
const BETWEEN_LOOKS: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::{
        net::IpAddr,
        sync::{
            Mutex,
            atomic::{AtomicI64, AtomicUsize},
        },
        time::SystemTime,
    };

    use tokio::time::advance;

    use super::*;
    use crate::{
        AllowList, AllowListBuilder, Answer, Freshness, RejectionKind, ResolveError,
        ResolveErrorKind,
    };

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(60 * 60);
    /// The refresher has looked once more when it is over.
    const A_LOOK: Duration = Duration::from_millis(5_010);

    fn one() -> IpAddr {
        "20.0.0.1".parse().unwrap()
    }

    fn builder() -> AllowListBuilder {
        AllowList::builder().host("h.test".parse().unwrap())
    }

    /// What DNS says, how often it was asked, and for how long the machine has slept.
    #[derive(Clone)]
    struct World {
        answer: Arc<Mutex<Result<Answer, ResolveError>>>,
        asked: Arc<AtomicUsize>,
        slept: Arc<AtomicI64>,
    }

    impl World {
        fn new(ttl: Duration) -> Self {
            Self {
                answer: Arc::new(Mutex::new(Ok(Answer::new([one()], ttl)))),
                asked: Arc::default(),
                slept: Arc::default(),
            }
        }

        /// A list that is ready, and the task that refreshes it.
        async fn run(&self, builder: AllowListBuilder) -> (AllowList, JoinHandle<()>) {
            let world = self.clone();
            let (list, mut refresher) = builder.pair(move |question: Question| {
                let v4 = question.family == crate::Family::V4;
                world.asked.fetch_add(usize::from(v4), Ordering::Relaxed);
                let answer = world.answer.lock().unwrap().clone();
                let none = Err(ResolveError::new(ResolveErrorKind::NoData));
                std::future::ready(if v4 { answer } else { none })
            });
            let slept = Arc::clone(&self.slept);
            refresher.sleep_clock = Some(SleepClock::new(move || slept.load(Ordering::Relaxed)));
            let running = tokio::spawn(refresher.run());
            list.ready().await;
            (list, running)
        }

        fn fail(&self) {
            let error = ResolveError::new(ResolveErrorKind::ServFail);
            *self.answer.lock().unwrap() = Err(error);
        }

        fn sleep(&self, time: Duration) {
            let time = i64::try_from(time.as_nanos()).unwrap();
            self.slept.fetch_add(time, Ordering::Relaxed);
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }
    }

    fn freshness(list: &AllowList, peer: IpAddr) -> Option<Freshness> {
        let verdict = list.verdict(peer);
        verdict.allowed().map(|allowed| allowed.freshness())
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_became_due_while_the_machine_slept_is_asked_within_five_seconds() {
        let world = World::new(HOUR);
        let (list, _) = world.run(builder()).await;
        sleep(2 * SECOND).await;
        world.sleep(2 * HOUR);
        sleep(A_LOOK).await;
        assert_eq!(world.asked(), 2);
        assert_eq!(freshness(&list, one()), Some(Freshness::Fresh));
    }

    #[tokio::test(start_paused = true)]
    async fn the_call_of_an_unlisted_peer_notices_a_sleep_at_once() {
        let world = World::new(HOUR);
        let (list, _) = world.run(builder()).await;
        sleep(7 * SECOND).await;
        world.sleep(2 * HOUR);
        let two = "20.0.0.2".parse().unwrap();
        *world.answer.lock().unwrap() = Ok(Answer::new([two], HOUR));
        assert!(list.verdict_after_refresh(two).await.is_allowed());
        // It left the answer after the sleep, not before.
        assert_eq!(freshness(&list, one()), Some(Freshness::Lingering));
    }

    #[tokio::test(start_paused = true)]
    async fn the_stale_window_goes_on_while_the_machine_sleeps() {
        let world = World::new(60 * SECOND);
        let (list, _) = world.run(builder()).await;
        world.fail();
        world.sleep(24 * HOUR);
        sleep(A_LOOK).await;
        assert_eq!(freshness(&list, one()), Some(Freshness::Stale));
        world.sleep(60 * SECOND);
        sleep(A_LOOK).await;
        let verdict = list.verdict(one());
        let kind = verdict.rejection().map(|rejection| rejection.kind());
        assert_eq!(kind, Some(RejectionKind::Unresolved), "{verdict:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_that_ends_in_a_sleep_is_told_as_a_change() {
        let world = World::new(60 * SECOND);
        let (list, _) = world.run(builder().stale_for(Duration::ZERO)).await;
        let mut changes = list.changes();
        world.fail();
        world.sleep(HOUR);
        let told = changes.next().await;
        assert_eq!(told[0].removed, [one()]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_floor_counts_what_the_machine_slept() {
        let world = World::new(SECOND);
        let floor = 30 * SECOND;
        let (_list, _) = world.run(builder().ttl_bounds(floor, HOUR).unwrap()).await;
        advance(SECOND).await;
        world.sleep(floor);
        sleep(A_LOOK).await;
        assert_eq!(world.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_stays_awake_asks_no_more_than_without_the_clock() {
        let world = World::new(HOUR);
        let (_list, _) = world.run(builder()).await;
        sleep(HOUR - SECOND).await;
        assert_eq!(world.asked(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_moves_no_time_of_the_state_file_ahead() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let answered_at = || {
            let text = std::fs::read(&path).unwrap();
            let state: serde_json::Value = serde_json::from_slice(&text).unwrap();
            state["hosts"][0]["a"]["answer"]["answered_at"]
                .as_u64()
                .unwrap()
        };
        let world = World::new(HOUR);
        let start = SystemTime::now();
        let (list, running) = world.run(builder().state_file(&path)).await;
        sleep(10 * SECOND).await;
        world.fail();
        world.sleep(8 * HOUR);
        // The last save, which comes before the next look at the clock.
        drop(list);
        running.await.unwrap();

        // The wall clock of this test has not slept, so that the answer is as long ago as the sleep.
        let since_epoch = start.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let ago = since_epoch - Duration::from_millis(answered_at());
        let expected = 8 * HOUR + 10 * SECOND;
        let late = start.elapsed().unwrap() + Duration::from_millis(10);
        assert!(
            (expected - late..=expected + late).contains(&ago),
            "{ago:?}"
        );
    }
}
