//! The task that keeps a list up to date.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{sleep, sleep_until};
use tracing::{error, info};

use crate::{
    AllowList, LOG_TARGET, Question,
    list::{
        answer_cache::{AnswerCache, Lookup, Outcome},
        clock::{SleepClock, now},
        handle::Handle,
        schedule::Schedule,
        shared::Shared,
        state_file::StateFile,
        state_writer::StateWriter,
    },
};

/// Task that keeps an [`AllowList`](crate::AllowList) up to date.
///
/// The task asks a question again one second after the TTL of the answer has ended. It asks a failing question again
/// after a back-off that doubles with each failure, up to a maximum. While an unlisted peer waits, it asks each
/// question whose last lookup is at least the [`on_demand_interval`](crate::AllowListBuilder::on_demand_interval) ago.
/// The delay of one second is for resolvers that keep time in whole seconds. Until the delay is over, these resolvers
/// may still return the old records with a TTL of zero. The task also adds a random delay, at most 0.5 s and at most a
/// tenth of the time until the question is due, so that replicas do not ask at the same time. A lookup that hangs or
/// panics delays no other lookup.
///
/// On Linux and Android, the task checks at least every 5 seconds whether the machine has slept, because `Instant` does
/// not include sleep. After a sleep, all windows end earlier by the length of the sleep, and the questions that have
/// become due are asked at once. Until the task notices the sleep, verdicts ignore it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use callback_source::{AllowList, Answer, Question};
///
/// let (list, refresher) = AllowList::builder()
///     .host("callbacks.example.com".parse()?)
///     .pair(|_: Question| async {
///         Ok(Answer::new(["20.0.0.1".parse().unwrap()], Duration::from_secs(60)))
///     });
/// let running = tokio::spawn(refresher.run());
/// list.ready().await;
/// assert!(list.verdict("20.0.0.1".parse()?).is_allowed());
///
/// // It ends with the last handle, after it has written the state file, if there is one.
/// drop(list);
/// running.await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is looked up unless it runs"]
pub struct Refresher {
    shared: Arc<Shared>,
    /// Used only for its reference count: the refresher ends when no handle is left.
    handles: Weak<Handle>,
    cache: Arc<AnswerCache>,
    schedule: Schedule,
    /// The time at which the next window ends.
    change_at: Option<Instant>,
    sleep_clock: Option<SleepClock>,
    state_writer: Option<StateWriter>,
}

impl Refresher {
    pub(crate) fn new(
        list: &AllowList,
        cache: AnswerCache,
        schedule: Schedule,
        sleep_clock: Option<SleepClock>,
        state_file: Option<Arc<StateFile>>,
    ) -> Self {
        Self {
            shared: Arc::clone(list.shared()),
            handles: list.downgrade(),
            cache: Arc::new(cache),
            schedule,
            change_at: None,
            sleep_clock,
            state_writer: state_file.map(StateWriter::new),
        }
    }

    /// Runs until the last handle of the list is dropped. A panic is logged, and the task continues after one second.
    ///
    /// Requires a tokio runtime with the time driver enabled, and the drivers that the resolver requires.
    pub async fn run(mut self) {
        while AssertUnwindSafe(self.drive()).catch_unwind().await.is_err() {
            error!(target: LOG_TARGET, "the refresher panicked, which is a bug; it continues after a second");
            sleep(AFTER_PANIC).await;
        }
        self.write_last_state().await;
    }

    /// Writes the state after the last handle of the list has been dropped.
    async fn write_last_state(&mut self) {
        self.notice_sleep();
        if let Some(writer) = &self.state_writer {
            writer.write_last(&self.shared).await;
        }
        // The writer is removed only after the write. If the runtime shuts down before the write has ended, the drop of
        // the refresher writes the state.
        self.state_writer = None;
    }

    async fn drive(&mut self) {
        let mut lookups = FuturesUnordered::new();
        // If an earlier call of this method panicked, its lookups were dropped.
        self.schedule.cancel();
        while !self.handles_dropped() {
            self.notice_sleep();
            let now = now();
            // The end of a window is checked here, and not when the timer fires, since the timer is dropped if another
            // event comes first.
            if self.change_at.is_some_and(|at| at <= now) {
                self.shared.update(|set, now| set.expire(now));
            }
            let ask_at = self.ask(&lookups, now);
            let write_at = self.write_state(now);
            let check_at = self.sleep_clock.is_some().then(|| now + BETWEEN_CHECKS);

            let wake_at = [self.change_at, ask_at, write_at, check_at];
            let wake_at = wake_at.into_iter().flatten().min();
            tokio::select! {
                Some((question, lookup)) = lookups.next() => self.finish(question, lookup),
                () = sleep_until(wake_at.unwrap_or(now).into()), if wake_at.is_some() => {}
                () = write_finished(self.state_writer.as_mut()) => {}
                () = self.shared.wake.notified() => {}
            }
        }
    }

    fn handles_dropped(&self) -> bool {
        self.handles.strong_count() == 0
    }

    fn write_state(&mut self, now: Instant) -> Option<Instant> {
        let writer = self.state_writer.as_mut()?;
        writer.write_if_due(&self.shared, now)
    }

    /// Asks the questions that are to be asked now, and returns the time at which the next question is to be asked.
    fn ask(&mut self, lookups: &Lookups, now: Instant) -> Option<Instant> {
        let mut turn = self.shared.on_demand.turn();
        let set = self.shared.published.load_full();
        self.change_at = set.next_change_at(now);
        let plan = self.schedule.plan(&set, turn.wanted_until(), now);
        let wants_watched = turn.takes_watched();
        let (watched, watched_at) = self.schedule.plan_watched(&set, wants_watched, now);
        turn.set_watched_at(watched_at);
        if turn.end(plan.is_asking, plan.next_on_demand) {
            self.shared.wake_waiters();
        }
        for question in plan.ask.into_iter().chain(watched) {
            let (cache, floor) = (Arc::clone(&self.cache), self.schedule.floor());
            lookups.push(Box::pin(async move {
                let lookup = cache.ask(question.clone(), floor).await;
                (question, lookup)
            }));
        }
        plan.next_at
    }

    /// Applies the result of a lookup, and postpones the next lookup of its question.
    fn finish(&mut self, question: Question, lookup: Lookup) {
        let set = self.shared.published.load_full();
        self.schedule.ended(&question, lookup.asked_at, &set);
        let (is_new, result) = match lookup.outcome {
            Outcome::New(result) => (true, result),
            Outcome::Cached(result) if set.is_unasked(&question) => (false, result),
            Outcome::Cached(_) => return,
        };
        let is_watched = set.is_watched(&question);
        if is_new && !is_watched {
            let error = result.as_ref().err();
            let outcome = error.map_or("answer", |error| error.kind().as_str());
            self.shared.metrics.lookup(outcome);
        }
        #[cfg(callback_source_simulation)]
        if crate::simulation::planted(crate::simulation::Fault::OnDemandAnswerDropped)
            && set.due_at(&question).is_some_and(|at| now() < at)
        {
            return;
        }
        let has_failed = matches!(&result, Err(error) if !error.is_denial());
        self.shared
            .update(|set, now| set.apply(&question, result, now));
        let set = self.shared.published.load();
        if let Some(due_at) = set.due_at(&question) {
            // A replica asks about a watched host only when an unlisted peer calls that replica, so this question needs
            // no random delay.
            let chance = if is_watched { 0.0 } else { fastrand::f64() };
            self.schedule
                .put_off(&question, has_failed, due_at, now(), chance);
        }
    }

    /// Checks whether the machine has slept. If so, moves the stored times into the past by the length of the sleep.
    fn notice_sleep(&mut self) {
        let Some(slept) = self.sleep_clock.as_mut().and_then(SleepClock::slept) else {
            return;
        };
        info!(target: LOG_TARGET, ?slept, "the machine slept; windows end earlier by that time");
        self.cache.slept(slept);
        self.schedule.slept(slept);
        let file = self.state_writer.as_ref().map(StateWriter::file);
        self.shared.update(|set, now| {
            // The times in `file` and in the set are moved within one update. Otherwise, hosts could be replaced
            // between the two moves, and some times would be moved twice or not at all.
            if let Some(file) = file {
                file.slept(slept);
            }
            set.slept(slept, now)
        });
    }
}

impl Drop for Refresher {
    fn drop(&mut self) {
        self.notice_sleep();
        self.shared.on_demand.end();
        self.shared.refresher_ended();
        self.shared.wake_waiters();
        if let Some(writer) = self.state_writer.take() {
            writer.write_at_exit(&self.shared);
        }
    }
}

async fn write_finished(writer: Option<&mut StateWriter>) {
    match writer {
        Some(writer) => writer.write_finished().await,
        None => std::future::pending().await,
    }
}

type Lookups = FuturesUnordered<BoxFuture<'static, (Question, Lookup)>>;

const AFTER_PANIC: Duration = Duration::from_secs(1);

/// The maximum time between two checks for a sleep of the machine.
const BETWEEN_CHECKS: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::{
        net::IpAddr,
        sync::{
            Mutex,
            atomic::{AtomicI64, AtomicUsize, Ordering},
        },
        time::SystemTime,
    };

    use tokio::{task::JoinHandle, time::advance};

    use super::*;
    use crate::{
        AllowListBuilder, Answer, Freshness, RejectionKind, ResolveError, ResolveErrorKind,
    };

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(60 * 60);
    /// A wait that is long enough for one check of the sleep clock.
    const A_CHECK: Duration = Duration::from_millis(5_010);

    fn one() -> IpAddr {
        "20.0.0.1".parse().unwrap()
    }

    fn builder() -> AllowListBuilder {
        AllowList::builder().host("h.test".parse().unwrap())
    }

    /// Environment of a list in a test: the DNS answer, the number of IPv4 lookups, and the sum of all sleeps of the
    /// machine in nanoseconds.
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

        /// Returns a list that is ready, and the task that refreshes it.
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
        sleep(A_CHECK).await;
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
        // The address left the answer after the sleep, so the sleep does not shorten the linger window.
        assert_eq!(freshness(&list, one()), Some(Freshness::Lingering));
    }

    #[tokio::test(start_paused = true)]
    async fn the_stale_window_goes_on_while_the_machine_sleeps() {
        let world = World::new(60 * SECOND);
        let (list, _) = world.run(builder()).await;
        world.fail();
        world.sleep(24 * HOUR);
        sleep(A_CHECK).await;
        assert_eq!(freshness(&list, one()), Some(Freshness::Stale));
        world.sleep(60 * SECOND);
        sleep(A_CHECK).await;
        let verdict = list.verdict(one());
        let kind = verdict.rejection().map(|rejection| rejection.kind());
        assert_eq!(kind, Some(RejectionKind::Unresolved), "{verdict:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_that_ends_in_a_sleep_is_reported_as_a_change() {
        let world = World::new(60 * SECOND);
        let (list, _) = world.run(builder().stale_for(Duration::ZERO)).await;
        let mut changes = list.changes();
        world.fail();
        world.sleep(HOUR);
        let changes = changes.next().await;
        assert_eq!(changes[0].removed, [one()]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_floor_includes_the_sleep_of_the_machine() {
        let world = World::new(SECOND);
        let floor = 30 * SECOND;
        let (_list, _) = world.run(builder().ttl_bounds(floor, HOUR).unwrap()).await;
        advance(SECOND).await;
        world.sleep(floor);
        sleep(A_CHECK).await;
        assert_eq!(world.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_sleep_clock_causes_no_lookup_while_the_machine_is_awake() {
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
        // The drop of the list causes the last write, before the next regular check for a sleep.
        drop(list);
        running.await.unwrap();

        // The wall clock of this test did not advance during the simulated sleep, so `answered_at` in the file
        // must be earlier by that sleep.
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
