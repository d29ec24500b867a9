//! Oracle that knows which verdicts are right for each caller.
//!
//! The oracle is written from the contract and shares no code with the library. Its addresses are bits of a number, and
//! its times are milliseconds. A [`Model`] is one possible state of the list. There are several possible states if the
//! contract leaves a choice, or if it is uncertain whether a killed process saved its latest state. A verdict is right
//! if one of these states allows it. Each observed verdict rules out the states that do not allow it.

use std::collections::VecDeque;

use crate::schedule::{HOSTS, POOL, Setting, WHO};

/// Milliseconds since the start. Saved times can become negative after a step of the wall clock.
pub(crate) type Ms = i64;

/// A set of callers, with one bit for each caller.
pub(crate) type Callers = u64;

/// Outcome of a question, as the resolver returns it to the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answer { addresses: Callers, ttl: Ms },
    Denial { no_data: bool, ttl: Ms },
    Failure,
}

/// Verdicts that are right for a caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Right {
    pub(crate) admit: bool,
    pub(crate) not_listed: bool,
    pub(crate) unresolved: bool,
}

impl Right {
    fn or(self, other: Self) -> Self {
        Self {
            admit: self.admit || other.admit,
            not_listed: self.not_listed || other.not_listed,
            unresolved: self.unresolved || other.unresolved,
        }
    }

    pub(crate) fn is_decided(self) -> bool {
        u8::from(self.admit) + u8::from(self.not_listed) + u8::from(self.unresolved) == 1
    }
}

/// A verdict of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Given {
    Admit,
    NotListed,
    /// Like `NotListed`, but with a separate reason.
    WrongEnvironment,
    Unresolved,
}

/// For each caller, the verdicts that are right at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    surely: Callers,
    perhaps: Callers,
    known: [Tri; 2],
}

impl Picture {
    pub(crate) fn right(&self, who: u8) -> Right {
        let bit = 1 << who;
        if self.surely & bit != 0 {
            return Right {
                admit: true,
                ..Right::default()
            };
        }
        let known = self.known[family_of(who)];
        Right {
            admit: self.perhaps & bit != 0,
            not_listed: known != Tri::No,
            unresolved: known != Tri::Yes,
        }
    }

    pub(crate) fn explains(&self, who: u8, given: Given) -> bool {
        let right = self.right(who);
        match given {
            Given::Admit => right.admit,
            Given::NotListed | Given::WrongEnvironment => right.not_listed,
            Given::Unresolved => right.unresolved,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tri {
    Yes,
    No,
    Either,
}

/// All possible states of the list.
#[derive(Clone, Debug)]
pub(crate) struct Worlds {
    pub(crate) models: Vec<Model>,
    rules: Rules,
    /// States of the last minute, which a killed process may have left on disk. Each state is stored with its time and
    /// with the offset of the wall clock at that time.
    recent: VecDeque<(Ms, Ms, Vec<Model>)>,
    /// States that the file may contain.
    disk: Vec<OnDisk>,
    /// Time of the last change of addresses.
    changed_at: Option<Ms>,
    /// True if the file cannot be written, so that `disk` does not change.
    blocked: bool,
    saves: bool,
    wall: Ms,
    started_at: Ms,
}

/// A state that may be in the state file.
#[derive(Clone, Debug)]
struct OnDisk {
    model: Model,
    /// Offset of the wall clock at the time of writing.
    wall: Ms,
    /// Earliest and latest time of writing.
    written: (Ms, Ms),
}

/// Windows and bounds, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) min_ttl: Ms,
    pub(crate) max_ttl: Ms,
    pub(crate) linger: Ms,
    pub(crate) stale_for: Ms,
    /// The callers of static networks.
    pub(crate) networks: Callers,
}

impl From<&Setting> for Rules {
    fn from(setting: &Setting) -> Self {
        let ms = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX / 1_000) * 1_000;
        Self {
            min_ttl: ms(setting.min_ttl),
            max_ttl: ms(setting.max_ttl),
            linger: ms(setting.linger),
            stale_for: ms(setting.stale_for),
            networks: match setting.networks {
                true => STATIC.iter().fold(0, |set, who| set | 1 << who),
                false => 0,
            },
        }
    }
}

impl Rules {
    pub(crate) fn clamp(&self, ttl: Ms) -> Ms {
        ttl.min(self.max_ttl).max(self.min_ttl)
    }

    /// Returns the pause after this number of failures in a row.
    pub(crate) fn backoff(&self, times: u32) -> Ms {
        let least = self.min_ttl.max(1_000);
        let doubled = least << times.saturating_sub(1).min(16);
        doubled.min(MAX_BACKOFF.max(least))
    }
}

impl Worlds {
    pub(crate) fn new(rules: Rules, hosts: u8, now: Ms) -> Self {
        Self {
            models: vec![Model::new(hosts, now)],
            rules,
            recent: VecDeque::new(),
            disk: Vec::new(),
            changed_at: None,
            blocked: false,
            saves: false,
            wall: 0,
            started_at: now,
        }
    }

    pub(crate) fn apply(&mut self, host: u8, family: usize, outcome: Outcome, now: Ms) {
        self.settle(now);
        let before = self.perhaps(now);
        for model in &mut self.models {
            model.apply(&self.rules, host, family, outcome, now);
        }
        self.note_change(&before, now);
        self.merge();
        self.remember(now);
    }

    /// Ends all windows whose end is not after `now`.
    pub(crate) fn settle(&mut self, now: Ms) {
        let mut changed_at = Vec::new();
        for model in &mut self.models {
            let mut changed = None;
            while let Some((at, sure)) = model.next_settling(&self.rules)
                && at <= now
            {
                model.settle(&self.rules, at);
                if sure {
                    changed = Some(at);
                }
            }
            changed_at.push(changed);
        }
        // If one state has no certain change, it is not certain that any change was saved.
        let changed_at: Option<Vec<_>> = changed_at.into_iter().collect();
        if let Some(at) = changed_at.and_then(|all| all.into_iter().min()) {
            self.changed_at = self.changed_at.max(Some(at));
        }
    }

    pub(crate) fn replace_hosts(&mut self, hosts: u8, now: Ms) {
        self.settle(now);
        let models = std::mem::take(&mut self.models);
        let mut before = Vec::new();
        for model in &models {
            for saved_at in model.saved_at(&self.rules, now) {
                let mut model = model.clone();
                before.push(model.picture(&self.rules, now).perhaps);
                model.replace_hosts(&self.rules, hosts, self.saves, saved_at, now);
                model.settle(&self.rules, now);
                self.models.push(model);
            }
        }
        self.note_change(&before, now);
        self.merge();
        self.remember(now);
    }

    /// Records the time of a change of addresses, because changed addresses are saved at once. The change is certain
    /// only if every possible state changes.
    fn note_change(&mut self, before: &[Callers], now: Ms) {
        let after = self.perhaps(now);
        if before
            .iter()
            .zip(&after)
            .all(|(before, after)| before != after)
        {
            self.changed_at = Some(now);
        }
    }

    pub(crate) fn step_wall_clock(&mut self, by: Ms, now: Ms) {
        self.wall += by;
        self.remember(now);
    }

    pub(crate) fn block_writes(&mut self, block: bool, now: Ms) {
        if self.blocked == block {
            return;
        }
        self.blocked = block;
        if !self.saves {
            return;
        }
        if block {
            self.disk = self.on_disk(now);
        } else {
            self.recent.clear();
            self.started_at = now;
            self.changed_at = None;
            self.remember(now);
        }
    }

    /// Ends the process. `written` means a clean exit, which saves the final state.
    pub(crate) fn end(&mut self, written: bool, now: Ms) {
        self.settle(now);
        if !self.saves {
            return;
        }
        if self.blocked {
            // A file that cannot be written does not change.
        } else if written {
            let on_disk = |model: &Model| OnDisk {
                model: model.on_disk(&self.rules, now),
                wall: self.wall,
                written: (now, now),
            };
            let mut left: Vec<_> = self.models.iter().map(on_disk).collect();
            // A damaged file is not overwritten with an empty state.
            if self.models.iter().all(Model::is_empty) {
                left.append(&mut self.disk);
            }
            self.disk = left;
        } else {
            self.disk = self.on_disk(now);
        }
        self.saves = false;
        self.recent.clear();
    }

    /// Damages the file.
    pub(crate) fn lose_disk(&mut self) {
        self.disk.clear();
    }

    /// Starts a new process.
    pub(crate) fn start(&mut self, hosts: u8, saves: bool, now: Ms) {
        let blank = Model::new(hosts, now);
        self.models.clear();
        if saves {
            for saved in &self.disk {
                let shift = self.wall - saved.wall;
                let (earliest, latest) = saved.written;
                // A file whose times are in the future is ignored.
                if now + CLOCK_STEP < latest - shift {
                    self.models.push(blank.clone());
                }
                if earliest - shift <= now + CLOCK_STEP {
                    let restored = saved.model.restored(&self.rules, &blank, shift, now);
                    self.models.push(restored);
                }
            }
        }
        if self.models.is_empty() {
            self.models.push(blank);
        }
        for model in &mut self.models {
            model.settle(&self.rules, now);
        }
        self.merge();
        self.saves = saves;
        self.recent.clear();
        self.changed_at = None;
        self.started_at = now;
        self.remember(now);
    }

    pub(crate) fn picture(&mut self, now: Ms) -> Vec<Picture> {
        self.settle(now);
        self.models
            .iter()
            .map(|model| model.picture(&self.rules, now))
            .collect()
    }

    pub(crate) fn right(pictures: &[Picture], who: u8) -> Right {
        pictures
            .iter()
            .map(|picture| picture.right(who))
            .fold(Right::default(), Right::or)
    }

    /// Rules out each state that does not explain a verdict. At least one state must remain.
    pub(crate) fn observe(&mut self, pictures: &[Picture], who: u8, given: Given) {
        let mut pictures = pictures.iter();
        self.models.retain(|_| {
            pictures
                .next()
                .is_none_or(|picture| picture.explains(who, given))
        });
    }

    /// Returns the first time after `after` at which a verdict may change by itself.
    pub(crate) fn next_edge(&self, after: Ms) -> Option<Ms> {
        let models = self.models.iter();
        models
            .flat_map(|model| model.edges(&self.rules))
            .filter(|at| after < *at)
            .min()
    }

    /// Returns the least and the largest possible number of failures of a question in a row. A denial may be believed
    /// in one state while it is still a failure in another state.
    pub(crate) fn failures(&self, host: u8, family: usize) -> (u32, u32) {
        let models = self.models.iter();
        let failing = models.filter_map(|model| model.records(host, family)?.failing.as_ref());
        let times = failing.map(|failing| failing.times);
        (times.clone().min().unwrap_or(1), times.max().unwrap_or(1))
    }

    pub(crate) fn describe(&self) -> String {
        format!("{:?}", self.models)
    }

    fn perhaps(&self, now: Ms) -> Vec<Callers> {
        let models = self.models.iter();
        models
            .map(|model| model.picture(&self.rules, now).perhaps)
            .collect()
    }

    fn merge(&mut self) {
        let mut at = 0;
        while at < self.models.len() {
            let (before, after) = self.models.split_at(at);
            if before.contains(&after[0]) {
                self.models.swap_remove(at);
            } else {
                at += 1;
            }
        }
    }

    fn remember(&mut self, now: Ms) {
        if !self.saves {
            return;
        }
        self.recent.push_back((now, self.wall, self.models.clone()));
        // The latest state from before the last minute is kept, because it was still in use when that minute began.
        while self
            .recent
            .get(1)
            .is_some_and(|(at, ..)| *at < now - BETWEEN_SAVES - SLACK)
        {
            self.recent.pop_front();
        }
    }

    /// Returns the states that a killed process may leave in the file.
    fn on_disk(&self, now: Ms) -> Vec<OnDisk> {
        let written_from = (now - BETWEEN_SAVES - SLACK).max(self.changed_at.unwrap_or(Ms::MIN));
        let mut left = Vec::new();
        let mut next = self.recent.iter().skip(1).map(|(at, ..)| *at);
        for (at, wall, models) in &self.recent {
            let until = next.next().unwrap_or(now);
            if *at <= now && written_from <= until {
                let written = (written_from.max(*at), until);
                left.extend(models.iter().map(|model| {
                    // An answer whose window ended before the file was written is not in the file. If it were restored,
                    // its question would have no failures, so the window would be open again.
                    let mut model = model.clone();
                    model.settle(&self.rules, written.0);
                    OnDisk {
                        model: model.on_disk(&self.rules, written.1),
                        wall: *wall,
                        written,
                    }
                }));
            }
        }
        let surely_written = self.started_at + BETWEEN_SAVES + SLACK <= now
            || self.changed_at.is_some_and(|at| at < now);
        // A damaged file is not overwritten with an empty state.
        let nothing = self.changed_at.is_none() && self.models.iter().all(Model::is_empty);
        if nothing || !surely_written {
            left.extend(self.disk.iter().cloned());
            if self.disk.is_empty() {
                left.push(OnDisk {
                    model: Model::new(0, now),
                    wall: self.wall,
                    written: (Ms::MIN / 2, Ms::MIN / 2),
                });
            }
        }
        left
    }
}

/// One possible state of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Model {
    hosts: Vec<Host>,
    /// State of hosts that are not configured now. The flag is true if the file keeps the state. The file keeps hosts
    /// that were not configured at the start, and drops hosts that were removed later.
    parked: Vec<(Host, bool)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Host {
    host: u8,
    records: [Records; 2],
    lingering: Vec<Lingering>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lingering {
    addresses: Callers,
    left_at: Ms,
    surely_until: Ms,
    perhaps_until: Ms,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Records {
    held: Option<Held>,
    /// True if the last valid outcome was an answer, even if its window has ended.
    answered: bool,
    denied: bool,
    /// End of the TTL of the last answer or believed denial, or the time at which the host was added.
    window_from: Ms,
    failing: Option<Failing>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    addresses: Callers,
    answered_at: Ms,
    ttl_ends: Ms,
    restored: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Failing {
    /// Time of the first failure in a series of failures without a gap between the questions.
    since: Ms,
    /// Latest time of the next failure. If the next failure is later, there is a gap.
    next_by: Ms,
    times: u32,
    at: Ms,
    denial: Option<(bool, Ms)>,
}

impl Model {
    pub(crate) fn new(hosts: u8, now: Ms) -> Self {
        let hosts = (0..HOSTS).filter(|host| hosts >> host & 1 == 1);
        Self {
            hosts: hosts.map(|host| Host::new(host, now)).collect(),
            parked: Vec::new(),
        }
    }

    pub(crate) fn apply(
        &mut self,
        rules: &Rules,
        host: u8,
        family: usize,
        outcome: Outcome,
        now: Ms,
    ) {
        self.end_windows(rules, now);
        let Some(at) = self.hosts.iter().position(|of| of.host == host) else {
            return;
        };
        match outcome {
            Outcome::Answer { addresses, ttl } => {
                let ttl_ends = now + rules.clamp(ttl);
                let host = &mut self.hosts[at];
                let records = &mut host.records[family];
                let before = records.held.replace(Held {
                    addresses,
                    answered_at: now,
                    ttl_ends,
                    restored: false,
                });
                records.answered = true;
                records.denied = false;
                records.window_from = ttl_ends;
                records.failing = None;
                let left = before.map_or(0, |before| before.addresses & !addresses);
                host.come_back(addresses);
                host.leave(left, rules, now, ttl_ends);
            }
            Outcome::Denial { no_data, ttl } => {
                if self.believes(at, family, no_data, now, now) {
                    self.deny(rules, at, family, ttl, now, now);
                } else {
                    self.fail(rules, at, family, Some((no_data, ttl)), now);
                }
            }
            Outcome::Failure => self.fail(rules, at, family, None, now),
        }
        self.settle(rules, now);
    }

    fn fail(
        &mut self,
        rules: &Rules,
        at: usize,
        family: usize,
        denial: Option<(bool, Ms)>,
        now: Ms,
    ) {
        let records = &mut self.hosts[at].records[family];
        let before = records.failing.as_ref();
        let times = before.map_or(1, |before| before.times + 1);
        let unbroken = before.filter(|before| now <= before.next_by);
        let pause = rules.max_ttl.min(rules.stale_for / 4);
        records.failing = Some(Failing {
            since: unbroken.map_or(now, |before| before.since),
            next_by: now + pause.max(rules.backoff(times) + REFRESH_TIME),
            times,
            at: now,
            denial,
        });
    }

    fn deny(&mut self, rules: &Rules, at: usize, family: usize, ttl: Ms, denied_at: Ms, now: Ms) {
        let host = &mut self.hosts[at];
        let records = &mut host.records[family];
        let left = records.held.take().map_or(0, |held| held.addresses);
        // The question is repeated long before the lingering addresses are removed.
        let lingering = host
            .lingering
            .iter()
            .fold(left, |all, of| all | of.addresses);
        let soon = (rules.linger / 4).max(rules.min_ttl);
        let ttl = match lingering & family_mask(family) {
            0 => rules.clamp(ttl),
            _ => rules.clamp(ttl).min(soon),
        };
        let ttl_ends = denied_at + ttl;
        let records = &mut host.records[family];
        records.answered = false;
        records.denied = true;
        records.window_from = ttl_ends;
        records.failing = None;
        host.leave(left, rules, now, ttl_ends);
    }

    fn believes(&self, at: usize, family: usize, no_data: bool, denied_at: Ms, now: Ms) -> bool {
        let host = &self.hosts[at];
        let takes = host.records[family].answered;
        let mut others = self.hosts.iter().filter(|other| other.host != host.host);
        let evidence = others.any(|other| {
            let mut answers = other.records.iter().filter_map(|of| of.current(now));
            if takes {
                same_zone(host.host, other.host)
                    && answers.any(|held| denied_at <= held.answered_at)
            } else {
                answers.next().is_some()
            }
        });
        let own = no_data && !takes && host.records.iter().any(|of| of.current(now).is_some());
        evidence || own
    }

    pub(crate) fn settle(&mut self, rules: &Rules, now: Ms) {
        self.end_windows(rules, now);
        let mut believed = Vec::new();
        for (at, host) in self.hosts.iter().enumerate() {
            for family in 0..2 {
                if let Some(failing) = &host.records[family].failing
                    && let Some((no_data, ttl)) = failing.denial
                    && self.believes(at, family, no_data, failing.at, now)
                {
                    believed.push((at, family, ttl, failing.at));
                }
            }
        }
        for (at, family, ttl, denied_at) in believed {
            self.deny(rules, at, family, ttl, denied_at, now);
        }
    }

    fn end_windows(&mut self, rules: &Rules, now: Ms) {
        for host in &mut self.hosts {
            host.lingering.retain(|of| now < of.perhaps_until);
            for records in &mut host.records {
                if records.window_ends(rules) <= now {
                    records.held = None;
                    records.denied = false;
                }
            }
        }
    }

    /// Returns the next end of a window, and whether it is certain.
    fn next_settling(&self, rules: &Rules) -> Option<(Ms, bool)> {
        let hosts = self.hosts.iter();
        let lingering = hosts.clone().flat_map(|host| &host.lingering);
        let lingering = lingering.map(|of| (of.perhaps_until, of.surely_until == of.perhaps_until));
        let records = hosts.flat_map(|host| host.records.iter());
        let heard = records.filter(|of| of.held.is_some() || of.denied);
        lingering
            .chain(heard.map(|of| (of.window_ends(rules), true)))
            .min()
    }

    fn replace_hosts(&mut self, rules: &Rules, hosts: u8, keep: bool, saved_at: Ms, now: Ms) {
        let (stay, go) = std::mem::take(&mut self.hosts)
            .into_iter()
            .partition(|host| hosts >> host.host & 1 == 1);
        self.hosts = stay;
        self.forget(rules, saved_at);
        if keep {
            self.parked
                .extend(go.into_iter().map(|host: Host| (host, false)));
        }
        for host in 0..HOSTS {
            if hosts >> host & 1 == 1 && self.hosts.iter().all(|of| of.host != host) {
                let parked = self.parked.iter().position(|(of, _)| of.host == host);
                self.hosts.push(match parked {
                    Some(at) => self.parked.swap_remove(at).0.restored(rules, 0, now),
                    None => Host::new(host, now),
                });
            }
        }
        self.hosts.sort_by_key(|host| host.host);
        self.parked.sort_by_key(|(host, _)| host.host);
    }

    /// Returns the times at which the state may have been saved last. The first save after the stale window of an
    /// unconfigured host removes the host's answer from the state. Before that save, a host that is added back can
    /// still use the answer, until a refresh would have ended.
    fn saved_at(&self, rules: &Rules, now: Ms) -> Vec<Ms> {
        let parked = self.parked.iter().flat_map(|(host, _)| &host.records);
        let over = parked.map(|records| records.window_from + rules.stale_for);
        let over = over.filter(|at| *at <= now && now < *at + REFRESH_TIME - rules.stale_for);
        let mut times: Vec<_> = over.map(|at| at - 1).collect();
        times.push(now);
        times.sort_unstable();
        times.dedup();
        times
    }

    /// Removes the answers and denials of unconfigured hosts whose stale window has ended.
    fn forget(&mut self, rules: &Rules, now: Ms) {
        for (host, _) in &mut self.parked {
            for records in &mut host.records {
                if records.window_from + rules.stale_for <= now {
                    records.held = None;
                    records.answered = false;
                    records.denied = false;
                }
            }
        }
    }

    /// Returns the part of the state that is saved in the file.
    fn on_disk(&self, rules: &Rules, now: Ms) -> Self {
        let mut saved = self.clone();
        saved.parked.retain(|(_, in_file)| *in_file);
        saved.forget(rules, now);
        saved
    }

    fn restored(&self, rules: &Rules, blank: &Self, shift: Ms, now: Ms) -> Self {
        let mut restored = blank.clone();
        let parked = self.parked.iter().map(|(host, _)| host);
        for saved in self.hosts.iter().chain(parked) {
            let saved = saved.restored(rules, shift, now);
            match restored.hosts.iter_mut().find(|of| of.host == saved.host) {
                Some(host) => *host = saved,
                None => restored.parked.push((saved, true)),
            }
        }
        restored.parked.sort_by_key(|(host, _)| host.host);
        restored
    }

    fn is_empty(&self) -> bool {
        let parked = self.parked.iter().map(|(host, _)| host);
        self.hosts.iter().chain(parked).all(|host| {
            host.lingering.is_empty()
                && host
                    .records
                    .iter()
                    .all(|of| of.held.is_none() && !of.denied)
        })
    }

    fn records(&self, host: u8, family: usize) -> Option<&Records> {
        let host = self.hosts.iter().find(|of| of.host == host)?;
        Some(&host.records[family])
    }

    pub(crate) fn picture(&self, rules: &Rules, now: Ms) -> Picture {
        let mut surely = rules.networks;
        let mut perhaps = 0;
        for host in &self.hosts {
            for records in &host.records {
                if let Some(held) = &records.held
                    && now < records.window_ends(rules)
                {
                    surely |= held.addresses;
                }
            }
            for of in &host.lingering {
                if now < of.surely_until {
                    surely |= of.addresses;
                }
                if now < of.perhaps_until {
                    perhaps |= of.addresses;
                }
            }
        }
        let known = [0, 1].map(|family| {
            let start = match self.hosts.is_empty() && rules.networks == 0 {
                // The verdict of an empty list must be `Unresolved`.
                true => Tri::No,
                false => Tri::Yes,
            };
            let hosts = 0..self.hosts.len();
            hosts
                .map(|at| self.known(rules, at, family, now))
                .fold(start, |all, one| match (all, one) {
                    (Tri::No, _) | (_, Tri::No) => Tri::No,
                    (Tri::Either, _) | (_, Tri::Either) => Tri::Either,
                    (Tri::Yes, Tri::Yes) => Tri::Yes,
                })
        });
        Picture {
            surely,
            perhaps: surely | perhaps,
            known,
        }
    }

    /// Returns whether a host is resolved for a family: its question has an answer or a denial, or is given up.
    fn known(&self, rules: &Rules, at: usize, family: usize, now: Ms) -> Tri {
        let records = &self.hosts[at].records[family];
        if (records.held.is_some() || records.denied) && now < records.window_ends(rules) {
            return Tri::Yes;
        }
        let Some(failing) = &records.failing else {
            return Tri::No;
        };
        let given_up = records.window_from.max(failing.since) + rules.stale_for;
        if now < given_up || failing.next_by < given_up {
            return Tri::No;
        }
        let others = self
            .hosts
            .iter()
            .filter(|of| of.host != self.hosts[at].host);
        let zone = |of: &&Host| same_zone(of.host, self.hosts[at].host);
        // If the host's zone has other hosts but none with an answer, the contract leaves open whether an answer of
        // another zone is enough to give the host up.
        let any_zone = !others.clone().any(|of| zone(&of));
        let mut known = Tri::No;
        for (other, of) in others.flat_map(|host| host.records.iter().map(move |of| (host, of))) {
            let Some(held) = of.held.filter(|held| !held.restored) else {
                continue;
            };
            let current = now < held.ttl_ends && of.failing.is_none();
            let later = given_up <= held.answered_at && now < of.window_ends(rules);
            if current || later {
                if any_zone || zone(&other) {
                    return Tri::Yes;
                }
                known = Tri::Either;
            }
            // The answer's TTL has ended, but its refresh may not have ended yet.
            if of.failing.is_none() && now < held.ttl_ends + REFRESH_TIME {
                known = Tri::Either;
            }
        }
        known
    }

    pub(crate) fn edges(&self, rules: &Rules) -> Vec<Ms> {
        let mut edges = Vec::new();
        let mut fails = false;
        for host in &self.hosts {
            edges.extend(
                host.lingering
                    .iter()
                    .flat_map(|of| [of.surely_until, of.perhaps_until]),
            );
            for records in &host.records {
                if records.held.is_some() || records.denied {
                    edges.push(records.window_ends(rules));
                }
                if let Some(failing) = &records.failing {
                    fails = true;
                    edges.push(failing.since + rules.stale_for);
                    edges.push(records.window_from + rules.stale_for);
                }
            }
        }
        // Whether a failing host is given up can depend on the answer of another host.
        if fails {
            let records = self.hosts.iter().flat_map(|host| &host.records);
            edges.extend(records.filter_map(|of| of.held.map(|held| held.ttl_ends)));
        }
        edges
    }
}

impl Host {
    fn new(host: u8, now: Ms) -> Self {
        let records = Records {
            held: None,
            answered: false,
            denied: false,
            window_from: now,
            failing: None,
        };
        Self {
            host,
            records: [records.clone(), records],
            lingering: Vec::new(),
        }
    }

    /// Returns the host that is restored from this state, with all times shifted by the change of the wall clock.
    fn restored(&self, rules: &Rules, shift: Ms, now: Ms) -> Self {
        let mut host = Self::new(self.host, now);
        for (records, saved) in host.records.iter_mut().zip(&self.records) {
            records.window_from = (saved.window_from - shift).min(now);
            records.denied = saved.denied;
            records.answered = saved.answered;
            if let Some(held) = saved.held {
                let answered_at = (held.answered_at - shift).min(now);
                let ttl_ends = (held.ttl_ends - shift).min(answered_at + rules.max_ttl);
                records.window_from = ttl_ends;
                records.answered = true;
                records.denied = false;
                records.held = Some(Held {
                    addresses: held.addresses,
                    answered_at,
                    ttl_ends,
                    restored: true,
                });
            }
        }
        let lingering = self.lingering.iter().map(|of| Lingering {
            addresses: of.addresses,
            left_at: of.left_at - shift,
            surely_until: of.surely_until - shift,
            perhaps_until: of.perhaps_until - shift,
        });
        host.lingering = lingering.filter(|of| of.left_at <= now).collect();
        host
    }

    fn come_back(&mut self, addresses: Callers) {
        for of in &mut self.lingering {
            of.addresses &= !addresses;
        }
        self.lingering.retain(|of| of.addresses != 0);
    }

    /// Makes addresses linger. `due_at` is the end of the TTL of the answer without them, or of the denial.
    fn leave(&mut self, addresses: Callers, rules: &Rules, now: Ms, due_at: Ms) {
        if addresses == 0 {
            return;
        }
        self.come_back(addresses);
        let surely_until = (now + rules.linger).max(due_at);
        self.lingering.push(Lingering {
            addresses,
            left_at: now,
            surely_until,
            perhaps_until: (now + rules.linger).max(due_at + REFRESH_TIME),
        });
    }
}

impl Records {
    fn current(&self, now: Ms) -> Option<&Held> {
        let held = self.held.as_ref();
        held.filter(|held| !held.restored && now < held.ttl_ends)
    }

    /// Returns the end of an outcome's stale window. Without a later failure, the outcome stays in use at least until
    /// its refresh has ended.
    fn window_ends(&self, rules: &Rules) -> Ms {
        let least = match self.failing {
            Some(_) => 0,
            None => REFRESH_TIME,
        };
        self.window_from + rules.stale_for.max(least)
    }
}

/// Returns the number of the caller with an address, by host, family and number in the pool.
pub(crate) fn caller(host: u8, family: u8, number: u8) -> u8 {
    (host * 2 + family) * POOL + number
}

/// Returns the family of a caller. Unlisted callers alternate between the families.
pub(crate) fn family_of(who: u8) -> usize {
    match who < HOSTS * 2 * POOL {
        true => usize::from(who / POOL % 2),
        false => usize::from(who % 2),
    }
}

/// Returns whether a caller is a server of the test environment, which the list watches. There is one such caller of
/// each family.
pub(crate) fn is_test_server(who: u8) -> bool {
    who + 2 >= WHO
}

fn family_mask(family: usize) -> Callers {
    let members = everybody().filter(|who| family_of(*who) == family);
    members.fold(0, |mask, who| mask | 1 << who)
}

pub(crate) fn everybody() -> impl Iterator<Item = u8> {
    0..WHO
}

/// Returns whether two hosts are in the same zone. Hosts 0, 1 and 3 are in one zone, and host 2 is in another zone.
fn same_zone(one: u8, other: u8) -> bool {
    (one == 2) == (other == 2)
}

/// Callers in the static networks, if static networks are configured: one caller that a host can list, and three
/// callers that no host lists.
const STATIC: [u8; 4] = [2, 48, 49, 50];

/// Longest time between the end of a TTL and the refreshed answer. It is the sum of a second, the jitter, and the time
/// limit of a question.
pub(crate) const REFRESH_TIME: Ms = 6_500;

const MAX_BACKOFF: Ms = 60_000;

/// Longest time after which changed times are saved in the state file.
const BETWEEN_SAVES: Ms = 60_000;

/// A tolerance, since timers have a resolution of a millisecond.
const SLACK: Ms = 5;

/// Largest backward step of the wall clock after which the file does not appear to be from the future.
const CLOCK_STEP: Ms = 60_000;
