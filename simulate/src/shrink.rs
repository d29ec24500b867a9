//! Search for a short schedule that still violates a rule.

use std::{fmt::Write, io, time::Duration};

use callback_source::simulation::Fault;
use tokio::time::Instant;

use crate::{
    play::play,
    schedule::{Event, Schedule},
    world::{Class, Violation},
};

/// Removes events and shortens pauses while the schedule still violates the same rule.
///
/// # Errors
///
/// Fails if the runtime or the temporary folder cannot be created.
pub(crate) fn shrink(
    schedule: &Schedule,
    fault: Option<Fault>,
    violation: &Violation,
) -> io::Result<Schedule> {
    let mut shrinking = Shrinking {
        best: schedule.clone(),
        fault,
        class: violation.class,
        ends: Instant::now() + MAX_TIME,
    };
    shrinking.end_at(violation.at);
    shrinking.begin_later()?;
    shrinking.remove()?;
    shrinking.draw_together()?;
    shrinking.remove()?;
    Ok(shrinking.best)
}

struct Shrinking {
    best: Schedule,
    fault: Option<Fault>,
    class: Class,
    ends: Instant,
}

impl Shrinking {
    /// Removes all events after the violation.
    fn end_at(&mut self, at: i64) {
        let at = u64::try_from(at).unwrap_or_default();
        self.best.events.retain(|event| event.at <= at);
        self.best.seconds = at / 1_000 + 2;
    }

    fn still_fails(&mut self, events: Vec<Event>) -> io::Result<bool> {
        let candidate = Schedule {
            events,
            ..self.best.clone()
        };
        let played = play(&candidate, self.fault)?;
        let Some(violation) = played.violation.filter(|of| of.class == self.class) else {
            return Ok(false);
        };
        self.best = candidate;
        self.end_at(violation.at);
        Ok(true)
    }

    /// Removes the first part of the schedule, except for the initial zone, because idle time takes most of the run.
    fn begin_later(&mut self) -> io::Result<()> {
        let mut part = 2;
        while part < 1 << 8 {
            let end = self.best.seconds * 1_000;
            let cut = end / part;
            let mut events = self.best.events.clone();
            events.retain(|event| event.at == 0 || cut < event.at);
            for event in &mut events {
                event.at = event.at.saturating_sub(cut);
            }
            if !self.still_fails(events)? {
                part *= 2;
            }
        }
        Ok(())
    }

    fn remove(&mut self) -> io::Result<()> {
        let mut size = self.best.events.len().div_ceil(2);
        while size > 0 {
            let mut at = 0;
            while at < self.best.events.len() {
                if self.ends < Instant::now() {
                    return Ok(());
                }
                let mut events = self.best.events.clone();
                let end = (at + size).min(events.len());
                events.drain(at..end);
                if !self.still_fails(events)? {
                    at += size;
                }
            }
            size /= 2;
        }
        Ok(())
    }

    /// Shortens the pause before each event.
    fn draw_together(&mut self) -> io::Result<()> {
        let mut at = 0;
        while at < self.best.events.len() {
            for pause in [0, 1_000, 60_000, 3_600_000, 86_400_000] {
                let events = &self.best.events;
                let before = at.checked_sub(1).map_or(0, |before| events[before].at);
                let gap = events[at].at - before;
                if gap <= pause || self.ends < Instant::now() {
                    break;
                }
                let mut events = events.clone();
                for event in &mut events[at..] {
                    event.at -= gap - pause;
                }
                if self.still_fails(events)? {
                    break;
                }
            }
            at += 1;
        }
        Ok(())
    }
}

/// Formats a schedule as a test to paste into `found.rs`.
pub(crate) fn as_test(schedule: &Schedule, violation: &Violation) -> String {
    let mut text = format!(
        "#[test]\nfn seed_{}() {{\n    // {:?} at {} ms.\n    holds(&Schedule {{\n        seed: {},\n        \
         hickory: {},\n        setting: {:?},\n        seconds: {},\n        events: vec![\n",
        schedule.seed,
        violation.class,
        violation.at,
        schedule.seed,
        schedule.hickory,
        schedule.setting,
        schedule.seconds
    );
    for event in &schedule.events {
        let _ = writeln!(text, "            {event:?},");
    }
    text.push_str("        ],\n    });\n}\n");
    text
}

/// Time limit of the search, in real time.
const MAX_TIME: Duration = Duration::from_secs(120);
