//! Checks of all schedules of a few events for two hosts and both families. The events are applied to the set itself.
//!
//! The events are an answer, another answer, a denial, a failure, and two ticks. One tick advances the time to the next
//! end of a window, and the other tick to the millisecond before such an end. After each event, the verdicts on ten
//! callers are compared with the verdicts of the [model](crate::oracle), for this moment, for each later end of a
//! window, and for the millisecond before each of these ends. Of the schedules that differ only in the names of hosts
//! or families, one is checked.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::{self, Write},
    hash::{DefaultHasher, Hasher},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use callback_source::{AllowSet, Answer, Family, Question, ResolveError, ResolveErrorKind, set};
use tokio::time::Instant;

use crate::{
    oracle::{Model, Ms, Outcome, Rules, caller, family_of},
    play::given,
    schedule::{HOSTS, POOL},
    world::{address, name},
};

/// Numbers of schedules, of different states in them, and of compared verdicts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Looked {
    pub(crate) schedules: u64,
    pub(crate) states: u64,
    pub(crate) verdicts: u64,
    pub(crate) either: u64,
}

/// Checks all schedules with this number of events.
///
/// # Errors
///
/// If a verdict is wrong. The error contains the first schedule after which a verdict is wrong.
pub(crate) fn exhaust(depth: u32, jobs: u64) -> Result<Looked, String> {
    let mut variants = Vec::new();
    for rules in RULES {
        for no_data in [false, true] {
            for pause in [0, 1_000] {
                variants.push((rules, no_data, pause));
            }
        }
    }
    let rest = Mutex::new(variants);
    let work = || -> Result<Looked, String> {
        let mut looked = Looked::default();
        loop {
            let next = rest.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some((rules, no_data, pause)) = next else {
                return Ok(looked);
            };
            let mut search = Search {
                rules,
                no_data,
                pause,
                base: Instant::now().into_std(),
                path: Vec::new(),
                seen: HashMap::new(),
                looked,
            };
            let names = [name(0), name(1)];
            let set = AllowSet::new(set_rules(rules), names, &[], search.base)
                .map_err(|error| error.to_string())?;
            search.go(&set, &Model::new(0b11, 0), 0, depth)?;
            looked = search.looked;
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        let mut sum = Looked::default();
        for thread in threads {
            let joined = thread.join();
            let looked = joined.unwrap_or_else(|_| Err("a search panicked".into()))?;
            sum.schedules += looked.schedules;
            sum.states += looked.states;
            sum.verdicts += looked.verdicts;
            sum.either += looked.either;
        }
        Ok(sum)
    })
}

#[derive(Clone, Copy, Debug)]
#[expect(dead_code, reason = "read by `Debug`")]
enum Step {
    Came {
        host: u8,
        family: u8,
        what: Came,
    },
    /// Advances the time to the next end of a window, or to the millisecond before such an end.
    Tick {
        early: Ms,
    },
}

#[derive(Clone, Copy, Debug)]
enum Came {
    Answer,
    Other,
    Denial,
    Failure,
}

struct Search {
    rules: Rules,
    no_data: bool,
    /// Pause between two events.
    pause: Ms,
    base: std::time::Instant,
    path: Vec<Step>,
    /// Number of schedules that continue from each state. The key is a hash of the state and of the number of events
    /// left.
    seen: HashMap<u64, u64>,
    looked: Looked,
}

impl Search {
    fn go(&mut self, set: &AllowSet, model: &Model, now: Ms, depth: u32) -> Result<(), String> {
        let before = self.looked.schedules;
        // The first outcome is chosen from fewer hosts and families. Whether there was an outcome is therefore part of
        // the state.
        let key = hash(set, model, now, depth, self.is_before_first_outcome());
        if let Some(schedules) = self.seen.get(&key) {
            self.looked.schedules += schedules;
            return Ok(());
        }
        self.looked.states += 1;
        self.check(set, model, now)?;
        self.go_on(set, model, now, depth)?;
        self.seen.insert(key, self.looked.schedules - before);
        Ok(())
    }

    fn is_before_first_outcome(&self) -> bool {
        let mut path = self.path.iter();
        !path.any(|step| matches!(step, Step::Came { .. }))
    }

    fn go_on(&mut self, set: &AllowSet, model: &Model, now: Ms, depth: u32) -> Result<(), String> {
        if depth == 0 {
            self.looked.schedules += 1;
            return Ok(());
        }
        for early in [0, 1] {
            let edges = model.edges(&self.rules).into_iter();
            let Some(next) = edges.map(|at| at - early).filter(|at| now < *at).min() else {
                continue;
            };
            let mut set = set.clone();
            let mut model = model.clone();
            let _ = set.expire(self.instant(next));
            model.settle(&self.rules, next);
            self.path.push(Step::Tick { early });
            self.go(&set, &model, next, depth - 1)?;
            self.path.pop();
        }
        // Before the first outcome, all hosts and both families are interchangeable, so one choice is enough.
        let first = self.is_before_first_outcome();
        let (hosts, families) = if first { (1, 1) } else { (2, 2) };
        let now = now + self.pause;
        for host in 0..hosts {
            for family in 0..families {
                for what in [Came::Answer, Came::Other, Came::Denial, Came::Failure] {
                    let mut set = set.clone();
                    let mut model = model.clone();
                    self.apply(&mut set, &mut model, (host, family), what, now);
                    self.path.push(Step::Came { host, family, what });
                    self.go(&set, &model, now, depth - 1)?;
                    self.path.pop();
                }
            }
        }
        Ok(())
    }

    fn apply(
        &self,
        set: &mut AllowSet,
        model: &mut Model,
        (host, family): (u8, u8),
        what: Came,
        now: Ms,
    ) {
        let answer = |number: u8| {
            let who = caller(host, family, number);
            let outcome = Outcome::Answer {
                addresses: 1 << who,
                ttl: TTL,
            };
            (outcome, Ok(Answer::new([address(who)], duration(TTL))))
        };
        let (outcome, result) = match what {
            Came::Answer => answer(0),
            Came::Other => answer(1),
            Came::Denial => {
                let kind = match self.no_data {
                    true => ResolveErrorKind::NoData,
                    false => ResolveErrorKind::NxDomain,
                };
                let error = ResolveError::new(kind).with_negative_ttl(duration(TTL));
                let outcome = Outcome::Denial {
                    no_data: self.no_data,
                    ttl: TTL,
                };
                (outcome, Err(error))
            }
            Came::Failure => {
                let error = ResolveError::new(ResolveErrorKind::ServFail);
                (Outcome::Failure, Err(error))
            }
        };
        let question = Question {
            host: name(host),
            family: Family::ALL[usize::from(family)],
        };
        let _ = set.apply(&question, result, self.instant(now));
        model.apply(&self.rules, host, family.into(), outcome, now);
    }

    fn check(&mut self, set: &AllowSet, model: &Model, now: Ms) -> Result<(), String> {
        let mut times: BTreeSet<_> = model.edges(&self.rules).into_iter().collect();
        times.extend(times.clone().into_iter().map(|at| at - 1));
        times.insert(now);
        for at in times.range(now..) {
            let mut later = model.clone();
            later.settle(&self.rules, *at);
            let picture = later.picture(&self.rules, *at);
            for who in callers() {
                let verdict = given(&set.verdict(address(who), self.instant(*at)));
                let right = picture.right(who);
                self.looked.verdicts += 1;
                self.looked.either += u64::from(!right.is_decided());
                if !picture.explains(who, verdict) {
                    return Err(format!(
                        "after {:?} with {:?}, no data {}, pause {}: at {at} ms (now {now}) caller {who} \
                         got {verdict:?}, right would be {right:?}\n{later:?}",
                        self.path, self.rules, self.no_data, self.pause
                    ));
                }
            }
        }
        Ok(())
    }

    fn instant(&self, at: Ms) -> std::time::Instant {
        self.base + duration(at)
    }
}

/// Hashes a state by its `Debug` text, which has every field of the set and of the model.
fn hash(set: &AllowSet, model: &Model, now: Ms, depth: u32, is_first: bool) -> u64 {
    struct Hashed(DefaultHasher);

    impl Write for Hashed {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.write(text.as_bytes());
            Ok(())
        }
    }

    let mut hashed = Hashed(DefaultHasher::new());
    let _ = write!(hashed, "{set:?} {model:?} {now} {depth} {is_first}");
    hashed.0.finish()
}

/// Returns the callers: two addresses of each question, and one unlisted caller of each family.
fn callers() -> impl Iterator<Item = u8> {
    let pool = [0, 1, 2, 3]
        .into_iter()
        .flat_map(|question| [0, 1].map(|number| caller(question / 2, question % 2, number)));
    let unlisted = HOSTS * 2 * POOL;
    debug_assert_ne!(family_of(unlisted), family_of(unlisted + 1));
    pool.chain([unlisted, unlisted + 1])
}

fn set_rules(rules: Rules) -> set::Rules {
    let mut of_set = set::Rules::default();
    of_set.min_ttl = duration(rules.min_ttl);
    of_set.max_ttl = duration(rules.max_ttl);
    of_set.linger = duration(rules.linger);
    of_set.stale_for = duration(rules.stale_for);
    of_set
}

fn duration(at: Ms) -> Duration {
    Duration::from_millis(u64::try_from(at).unwrap_or_default())
}

/// Three sets of windows. In the first set, the linger window is shorter than the TTL and the stale window. In the
/// second set, it is longer. The third set has no stale window.
const RULES: [Rules; 3] = [
    Rules {
        min_ttl: 5_000,
        max_ttl: 3_600_000,
        linger: 60_000,
        stale_for: 1_800_000,
        networks: 0,
    },
    Rules {
        min_ttl: 5_000,
        max_ttl: 3_600_000,
        linger: 3_600_000,
        stale_for: 900_000,
        networks: 0,
    },
    Rules {
        min_ttl: 5_000,
        max_ttl: 3_600_000,
        linger: 60_000,
        stale_for: 0,
        networks: 0,
    },
];

const TTL: Ms = 600_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schedule_of_two_events_gets_the_right_verdicts() {
        let looked = exhaust(2, 1).expect("all are right");
        assert!(looked.schedules > 100);
    }
}
