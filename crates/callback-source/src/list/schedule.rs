//! The times at which questions are asked.
//!
//! [`Schedule`] is pure: it reads no clock and draws no random number. A question is asked:
//!
//! 1. **when it is due.** The set determines this time: the end of the TTL of an answer or denial, or the end of the
//!    back-off after a failed lookup. [`put_off`](Schedule::put_off) adds a random delay. After an answer or a denial,
//!    it also adds one second.
//! 2. **on demand**, while an unlisted peer waits, once the on-demand interval has passed since the last
//!    lookup.
//! 3. **never before the refresh interval floor** has passed since the last lookup.
//! 4. **never while it is in flight.**
//!
//! A question about a watched host is asked only when an unlisted peer calls. The question must be due, and the
//! on-demand interval must have passed since the last lookup of the question.
//!
//! The schedule enforces the refresh interval floor, except for a host that was removed and put back. The questions
//! about this host are due at once. For these questions, the [answer cache](super::answer_cache) enforces the floor: it
//! returns the last result instead of asking again.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use crate::{
    AllowSet, Question,
    list::on_demand::OnDemandLimits,
    set::{LAST_SECOND, MAX_JITTER, after, before},
};

/// Decides when each question is asked, and tracks which questions are in flight.
#[derive(Debug)]
pub(crate) struct Schedule {
    floor: Duration,
    on_demand_interval: Duration,
    in_flight: HashSet<Question>,
    last: HashMap<Question, LastLookup>,
}

/// The last lookup of a question.
#[derive(Debug)]
struct LastLookup {
    asked_at: Instant,
    /// The delay that is added to the time at which the question is due.
    delay: Duration,
}

/// The next steps of the refresher.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The questions to ask now. The schedule already regards these questions as in flight.
    pub(crate) ask: Vec<Question>,
    /// The earliest time at which a question that is not in flight is to be asked.
    pub(crate) next_at: Option<Instant>,
    /// `true` if a question of the set is in flight, including the questions in `ask`.
    pub(crate) is_asking: bool,
    /// The earliest time at which a question that is not in flight can be asked on demand.
    pub(crate) next_on_demand: Option<Instant>,
}

impl Schedule {
    /// Creates a schedule. `floor` is the minimum time between two lookups of one question, whatever triggers the
    /// lookups.
    pub(crate) fn new(floor: Duration, on_demand: &OnDemandLimits) -> Self {
        Self {
            floor,
            // At least the wait, so that a question is asked at most once during the wait of a request. After that
            // lookup, the request no longer waits for the question.
            on_demand_interval: on_demand.interval.max(on_demand.wait).max(floor),
            in_flight: HashSet::new(),
            last: HashMap::new(),
        }
    }

    /// Returns the refresh interval floor.
    pub(crate) fn floor(&self) -> Duration {
        self.floor
    }

    /// Selects the questions to ask now. `wanted_until` is the latest deadline of a request from an unlisted peer.
    pub(crate) fn plan(
        &mut self,
        set: &AllowSet,
        wanted_until: Option<Instant>,
        now: Instant,
    ) -> Plan {
        let mut plan = Plan::default();
        for (question, due_at) in set.questions() {
            // A question in flight that is not in the set does not matter, since its host was removed.
            if self.in_flight.contains(&question) {
                plan.is_asking = true;
                continue;
            }
            // A question whose host was removed and put back is not postponed, since the answer cache may have its
            // result.
            let last = self.last.get(&question);
            let last = last.filter(|_| !set.is_unasked(&question));
            let due_at = last.map_or(due_at, |last| {
                after(due_at, last.delay).max(after(last.asked_at, self.floor))
            });
            let on_demand_at =
                last.map_or(due_at, |last| after(last.asked_at, self.on_demand_interval));
            let is_wanted = wanted_until.is_some_and(|until| on_demand_at < until);
            let ask_at = match is_wanted {
                true => due_at.min(on_demand_at),
                false => due_at,
            };
            if ask_at <= now {
                plan.is_asking = true;
                plan.ask.push(question);
            } else {
                plan.next_at = earlier(plan.next_at, ask_at);
                plan.next_on_demand = earlier(plan.next_on_demand, on_demand_at);
            }
        }
        self.in_flight.extend(plan.ask.iter().cloned());
        plan
    }

    /// Selects which questions about watched hosts to ask now. Selects no question unless an unlisted peer has
    /// triggered the lookups (`is_wanted`). Also returns the earliest time at which a peer can trigger another question
    /// about a watched host.
    pub(crate) fn plan_watched(
        &mut self,
        set: &AllowSet,
        is_wanted: bool,
        now: Instant,
    ) -> (Vec<Question>, Option<Instant>) {
        #[cfg(callback_source_simulation)]
        let is_wanted =
            is_wanted || crate::simulation::planted(crate::simulation::Fault::WatchedAskedFreely);
        let mut ask = Vec::new();
        let mut next_at = None;
        for (question, due_at) in set.watched_questions() {
            if self.in_flight.contains(&question) {
                continue;
            }
            let last = self.last.get(&question);
            let last = last.filter(|_| !set.is_unasked(&question));
            let ask_at = last.map_or(due_at, |last| {
                let interval_ends = after(last.asked_at, self.on_demand_interval);
                after(due_at, last.delay).max(interval_ends)
            });
            if is_wanted && ask_at <= now {
                ask.push(question);
            } else {
                next_at = earlier(next_at, ask_at);
            }
        }
        self.in_flight.extend(ask.iter().cloned());
        (ask, next_at)
    }

    /// Records that the lookup of a question has ended. Removes the records of questions whose hosts are neither in the
    /// set nor watched.
    pub(crate) fn ended(&mut self, question: &Question, asked_at: Instant, set: &AllowSet) {
        self.in_flight.remove(question);
        let last = self.last.entry(question.clone()).or_insert(LastLookup {
            asked_at,
            delay: Duration::ZERO,
        });
        last.asked_at = asked_at;
        self.last.retain(|question, _| {
            let mut hosts = set.hosts().chain(set.watched());
            hosts.any(|host| *host == question.host)
        });
    }

    /// Postpones a question beyond the time at which it is due. `chance` is between 0 and 1.
    ///
    /// After an answer or a denial, the delay is one second. Until this second is over, resolvers that keep time in
    /// whole seconds may still return the old records with a TTL of zero. In every case, a random delay is added, so
    /// that replicas do not ask at the same time. This delay is `chance` times the smaller of 0.5 s and a tenth of the
    /// time until `due_at`.
    pub(crate) fn put_off(
        &mut self,
        question: &Question,
        has_failed: bool,
        due_at: Instant,
        now: Instant,
        chance: f64,
    ) {
        let Some(last) = self.last.get_mut(question) else {
            return;
        };
        let last_second = if has_failed {
            Duration::ZERO
        } else {
            LAST_SECOND
        };
        let wait = due_at.saturating_duration_since(now);
        let jitter = MAX_JITTER.min(wait / 10).mul_f64(chance);
        last.delay = last_second + jitter;
        #[cfg(callback_source_simulation)]
        if crate::simulation::planted(crate::simulation::Fault::JitterNegative) {
            last.delay = last_second.saturating_sub(jitter);
        }
    }

    /// Forgets all lookups in flight, which were dropped without a result.
    pub(crate) fn cancel(&mut self) {
        self.in_flight.clear();
    }

    /// Adds a sleep of the machine to the age of all lookups.
    pub(crate) fn slept(&mut self, slept: Duration) {
        for last in self.last.values_mut() {
            last.asked_at = before(last.asked_at, slept);
        }
    }
}

fn earlier(at: Option<Instant>, other: Instant) -> Option<Instant> {
    Some(at.map_or(other, |at| at.min(other)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Answer, Family, HostName, ResolveError, ResolveErrorKind, list::clock::now, set::Rules,
    };

    const SECOND: Duration = Duration::from_secs(1);
    const TICK: Duration = Duration::from_nanos(1);
    const FLOOR: Duration = Duration::from_secs(5);

    fn host(name: &str) -> HostName {
        name.parse().unwrap()
    }

    fn question(name: &str) -> Question {
        Question {
            host: host(name),
            family: Family::V4,
        }
    }

    /// A set that looks up IPv4 only, its schedule, and the time at which both were created.
    ///
    /// The set's minimum TTL is shorter than the floor, so that the effect of the floor is visible.
    struct World {
        set: AllowSet,
        schedule: Schedule,
        start: Instant,
    }

    impl World {
        fn new(names: &[&str]) -> Self {
            Self::with(names, OnDemandLimits::default())
        }

        fn with(names: &[&str], limits: OnDemandLimits) -> Self {
            let start = now();
            let rules = Rules {
                min_ttl: SECOND,
                only_family: Some(Family::V4),
                ..Rules::default()
            };
            let hosts = names.iter().map(|name| host(name));
            Self {
                schedule: Schedule::new(FLOOR, &limits),
                set: AllowSet::new(rules, hosts, &[], start).unwrap(),
                start,
            }
        }

        fn at(&self, time: Duration) -> Instant {
            self.start + time
        }

        fn plan(&mut self, time: Duration) -> Plan {
            self.schedule.plan(&self.set, None, self.start + time)
        }

        fn plan_wanted(&mut self, until: Duration, time: Duration) -> Plan {
            let until = Some(self.start + until);
            self.schedule.plan(&self.set, until, self.start + time)
        }

        /// Asks the questions that are due, and ends the lookup of one question at the same moment.
        fn ask(
            &mut self,
            name: &str,
            result: Result<Answer, ResolveError>,
            time: Duration,
            chance: f64,
        ) {
            let (question, now) = (question(name), self.start + time);
            let _ = self.plan(time);
            assert!(self.schedule.in_flight.contains(&question), "{name}");
            let has_failed = result.is_err();
            self.schedule.ended(&question, now, &self.set);
            self.set.apply(&question, result, now);
            let due_at = self.set.due_at(&question).unwrap();
            self.schedule
                .put_off(&question, has_failed, due_at, now, chance);
        }
    }

    fn answer(ttl: Duration) -> Result<Answer, ResolveError> {
        Ok(Answer::new(["20.0.0.1".parse().unwrap()], ttl))
    }

    fn failure() -> Result<Answer, ResolveError> {
        Err(ResolveError::new(ResolveErrorKind::ServFail))
    }

    #[test]
    fn a_new_question_is_asked_at_once_and_only_once_until_its_lookup_ends() {
        let mut world = World::new(&["a.test", "b.test"]);
        let first = world.plan(Duration::ZERO);
        assert_eq!(first.ask, [question("a.test"), question("b.test")]);
        assert!(first.is_asking);
        let again = Plan {
            is_asking: true,
            ..Plan::default()
        };
        assert_eq!(world.plan(3600 * SECOND), again);
        assert_eq!(world.plan_wanted(7200 * SECOND, 3600 * SECOND), again);
    }

    #[test]
    fn an_answer_is_refreshed_one_second_after_its_ttl_ended_and_not_a_tick_earlier() {
        let mut world = World::new(&["a.test"]);
        world.ask("a.test", answer(60 * SECOND), Duration::ZERO, 0.0);
        let before = world.plan(61 * SECOND - TICK);
        assert_eq!(before.ask, []);
        assert_eq!(before.next_at, Some(world.at(61 * SECOND)));
        assert!(!before.is_asking);
        assert_eq!(world.plan(61 * SECOND).ask, [question("a.test")]);
    }

    #[test]
    fn the_jitter_is_a_tenth_of_the_wait_and_at_most_half_a_second() {
        let millis = Duration::from_millis;
        let cases = [
            (true, millis(4_000), 1.0, millis(400)),
            (true, millis(4_000), 0.5, millis(200)),
            (true, millis(5_000), 1.0, millis(500)),
            (true, millis(60_000), 1.0, millis(500)),
            (true, millis(60_000), 0.0, millis(0)),
            (false, millis(60_000), 1.0, millis(1_500)),
            (false, millis(4_000), 0.0, millis(1_000)),
        ];
        for (has_failed, wait, chance, delay) in cases {
            let mut world = World::new(&["a.test"]);
            let asked = question("a.test");
            world.schedule.ended(&asked, world.start, &world.set);
            let (now, due_at) = (world.start, world.start + wait);
            world
                .schedule
                .put_off(&asked, has_failed, due_at, now, chance);
            let case = format!("failed: {has_failed}, wait {wait:?}, chance {chance}");
            assert_eq!(world.schedule.last[&asked].delay, delay, "{case}");
        }
    }

    #[test]
    fn a_failed_question_is_asked_again_after_its_back_off_without_the_last_second() {
        let mut world = World::new(&["a.test"]);
        // The back-offs of the first three failures are shorter than the floor.
        let mut asked_at = Duration::ZERO;
        for _ in 0..10 {
            world.ask("a.test", failure(), asked_at, 0.0);
            let due_at = world.set.due_at(&question("a.test")).unwrap();
            let back_off = due_at - world.at(asked_at);
            let wait = back_off.max(FLOOR);
            let next_at = world.plan(asked_at).next_at;
            assert_eq!(next_at, Some(world.at(asked_at + wait)), "{back_off:?}");
            asked_at += wait;
        }
        assert_eq!(
            asked_at,
            Duration::from_secs(5 + 5 + 5 + 8 + 16 + 32 + 4 * 60)
        );
    }

    #[test]
    fn a_failed_question_is_not_asked_before_the_floor() {
        let mut world = World::new(&["a.test"]);
        world.ask("a.test", failure(), Duration::ZERO, 0.0);
        assert!(world.set.due_at(&question("a.test")).unwrap() < world.at(FLOOR));
        assert_eq!(world.plan(FLOOR - TICK).ask, []);
        assert_eq!(world.plan(FLOOR).ask, [question("a.test")]);
    }

    #[test]
    fn the_floor_begins_when_a_question_was_asked_not_when_it_was_answered() {
        let mut world = World::new(&["a.test"]);
        let asked = question("a.test");
        let _ = world.plan(Duration::ZERO);
        let (asked_at, now) = (world.start, world.at(3 * SECOND));
        world.schedule.ended(&asked, asked_at, &world.set);
        world.set.apply(&asked, failure(), now);
        assert_eq!(world.plan(3 * SECOND).next_at, Some(world.at(FLOOR)));
    }

    #[test]
    fn an_on_demand_refresh_waits_for_the_interval_since_the_last_lookup() {
        let mut world = World::new(&["a.test"]);
        world.ask("a.test", answer(3600 * SECOND), 10 * SECOND, 0.0);
        let ready_at = world.at(15 * SECOND);
        for (until, time, is_asked) in [
            (15 * SECOND, 14 * SECOND, false),
            (15 * SECOND + TICK, 15 * SECOND - TICK, false),
            (15 * SECOND, 15 * SECOND, false),
            (15 * SECOND + TICK, 15 * SECOND, true),
        ] {
            let plan = world.plan_wanted(until, time);
            assert_eq!(!plan.ask.is_empty(), is_asked, "{until:?} {time:?}");
            if !is_asked {
                assert_eq!(plan.next_on_demand, Some(ready_at));
                let is_wanted = ready_at < world.at(until);
                assert_eq!(plan.next_at == Some(ready_at), is_wanted);
            }
        }
    }

    #[test]
    fn the_on_demand_interval_is_at_least_the_interval_floor_and_the_wait() {
        for (interval, wait, expected) in [(1, 2, 5), (7, 2, 7), (1, 9, 9)] {
            let limits = OnDemandLimits {
                interval: interval * SECOND,
                wait: wait * SECOND,
                ..OnDemandLimits::default()
            };
            let mut world = World::with(&["a.test"], limits);
            world.ask("a.test", answer(3600 * SECOND), Duration::ZERO, 0.0);
            let plan = world.plan_wanted(100 * SECOND, SECOND);
            assert_eq!(plan.next_at, Some(world.at(expected * SECOND)));
        }
    }

    #[test]
    fn a_question_that_is_due_is_asked_before_its_on_demand_interval_is_over() {
        let limits = OnDemandLimits {
            interval: 60 * SECOND,
            ..OnDemandLimits::default()
        };
        let mut world = World::with(&["a.test"], limits);
        world.ask("a.test", answer(10 * SECOND), Duration::ZERO, 0.0);
        let plan = world.plan_wanted(100 * SECOND, 11 * SECOND);
        assert_eq!(plan.ask, [question("a.test")]);
    }

    #[test]
    fn the_next_times_are_those_of_the_earliest_question_that_is_not_in_flight() {
        let mut world = World::new(&["a.test", "b.test", "c.test"]);
        world.ask("a.test", answer(300 * SECOND), Duration::ZERO, 0.0);
        world.ask("b.test", answer(100 * SECOND), Duration::ZERO, 0.0);
        let plan = world.plan(SECOND);
        assert!(plan.is_asking, "c.test is in flight");
        assert_eq!(plan.next_at, Some(world.at(101 * SECOND)));
        assert_eq!(plan.next_on_demand, Some(world.at(5 * SECOND)));
    }

    #[test]
    fn a_host_that_left_is_not_waited_for_and_is_not_asked_twice_when_it_is_back() {
        let mut world = World::new(&["a.test", "b.test"]);
        world.ask("b.test", answer(300 * SECOND), Duration::ZERO, 0.0);
        let now = world.at(SECOND);
        world.set.replace_hosts([host("b.test")], now);
        assert!(!world.plan(SECOND).is_asking);
        world
            .set
            .replace_hosts([host("a.test"), host("b.test")], now);
        let plan = world.plan(SECOND);
        assert_eq!((plan.ask, plan.is_asking), (Vec::new(), true));
    }

    #[test]
    fn a_host_that_is_put_back_is_due_at_once() {
        let mut world = World::new(&["a.test"]);
        world.ask("a.test", answer(300 * SECOND), Duration::ZERO, 0.0);
        let now = world.at(SECOND);
        world.set.replace_hosts([], now);
        world.set.replace_hosts([host("a.test")], now);
        assert_eq!(world.plan(SECOND).ask, [question("a.test")]);
    }

    #[test]
    fn questions_of_hosts_that_left_are_forgotten() {
        let mut world = World::new(&["a.test", "b.test"]);
        world.ask("a.test", answer(300 * SECOND), Duration::ZERO, 0.0);
        world.set.replace_hosts([host("b.test")], world.start);
        world.ask("b.test", answer(300 * SECOND), SECOND, 0.0);
        let known: Vec<_> = world.schedule.last.keys().collect();
        assert_eq!(known, [&question("b.test")]);
    }

    #[test]
    fn a_sleep_of_the_machine_shortens_floor_and_interval() {
        let mut world = World::new(&["a.test"]);
        world.ask("a.test", answer(3600 * SECOND), 10 * SECOND, 0.0);
        world.schedule.slept(4 * SECOND);
        let plan = world.plan_wanted(20 * SECOND, 10 * SECOND);
        assert_eq!(plan.next_at, Some(world.at(11 * SECOND)));
    }

    #[test]
    fn a_cancelled_lookup_is_asked_again() {
        let mut world = World::new(&["a.test"]);
        assert_eq!(world.plan(Duration::ZERO).ask.len(), 1);
        world.schedule.cancel();
        assert_eq!(world.plan(Duration::ZERO).ask, [question("a.test")]);
    }
}
