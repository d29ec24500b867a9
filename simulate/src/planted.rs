//! Test of the simulation itself, which must find each fault that is planted in the library.

use std::{io, ops::Range};

use callback_source::simulation::Fault;
use tokio::time::Instant;

use crate::{play::play, schedule::Schedule};

/// For each fault, searches for a seed that finds it, or replays the known seed.
///
/// # Errors
///
/// Fails if the runtime or the temporary folder cannot be created.
pub(crate) fn run(replay: bool, only: Option<Fault>, seeds: &Range<u64>) -> io::Result<bool> {
    let mut all_found = true;
    if replay {
        // Without a planted fault, the schedules of these seeds violate no rule.
        let mut seeds: Vec<_> = FOUND_BY.iter().map(|(_, seed)| *seed).collect();
        seeds.sort_unstable();
        seeds.dedup();
        for seed in seeds {
            let played = play(&Schedule::with_length(seed, SEARCHED), None)?;
            if let Some(violation) = played.violation {
                println!("no fault: {:?} by seed {seed}", violation.class);
                all_found = false;
            }
        }
    }
    for fault in Fault::ALL
        .iter()
        .filter(|fault| only.is_none_or(|only| only == **fault))
    {
        let started = Instant::now();
        let known = FOUND_BY.iter().find(|(of, _)| of == fault);
        let seeds = match (replay, known) {
            (true, Some((_, seed))) => *seed..*seed + 1,
            // A fault without a known seed cannot be replayed.
            (true, None) => 0..0,
            (false, _) => seeds.clone(),
        };
        let mut found = None;
        for seed in seeds {
            let played = play(&Schedule::with_length(seed, SEARCHED), Some(*fault))?;
            if let Some(violation) = played.violation {
                found = Some((seed, violation));
                break;
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        match found {
            Some((seed, violation)) => {
                println!(
                    "{fault:?}: {:?} by seed {seed}, {seconds:.1} s",
                    violation.class
                );
            }
            None => {
                println!("{fault:?}: not found, {seconds:.1} s");
                all_found = false;
            }
        }
    }
    Ok(all_found)
}

/// Length of each schedule in seconds: about a tenth of a year.
const SEARCHED: u64 = 36 * 24 * 60 * 60;

/// For each fault, the first seed that found it.
const FOUND_BY: &[(Fault, u64)] = &[
    (Fault::WindowEndIncluded, 1),
    (Fault::FamiliesSwapped, 2),
    (Fault::RestoredRenewed, 1),
    (Fault::DenialBelievedEarly, 1),
    (Fault::LingerRestarted, 1),
    (Fault::StaleFromAnswer, 2),
    (Fault::LingerWithoutRefresh, 1),
    (Fault::GivenUpByTimeUnasked, 6),
    (Fault::HostsKept, 2),
    (Fault::FailureForgets, 1),
    (Fault::SpecialAdmitted, 1),
    (Fault::WakeUpLost, 1),
    (Fault::JudgedAtOnce, 1),
    (Fault::RefreshNotShared, 2),
    (Fault::OnDemandAnswerDropped, 1),
    (Fault::JitterNegative, 1),
    (Fault::ChangesSavedLate, 10),
    (Fault::PublishedBeforeApplied, 1),
    // The next two faults were found with hickory on a network in memory.
    (Fault::TruncatedTaken, 10),
    (Fault::DenialUnconfirmed, 30),
    (Fault::WatchedAdmitted, 1),
    (Fault::WatchedAskedFreely, 1),
];
