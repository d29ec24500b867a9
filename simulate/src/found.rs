//! Schedules that went wrong once, each shrunk. `simulate --seed N` prints them as they stand here.

#[expect(unused_imports, reason = "as far as the schedules need them")]
use crate::{
    play::play,
    schedule::{
        Ending::{self, Clean, Damaged, Kill, KillWriting},
        Event,
        Mood::{self, *},
        Schedule, Setting,
        Stack::{self, *},
        What::{self, *},
    },
};

fn holds(schedule: &Schedule) {
    let played = play(schedule, None).expect("a runtime and a folder");
    assert_eq!(played.violation, None);
}

#[test]
fn a_quiet_day_holds_and_is_the_same_each_time() {
    let schedule = Schedule::with_length(1, 24 * 60 * 60);
    holds(&schedule);
    let traces = [(); 2].map(|()| play(&schedule, None).expect("a runtime").tally.trace);
    assert_eq!(traces[0], traces[1]);
}

#[test]
fn a_list_of_nothing_holds() {
    holds(&Schedule {
        seed: 0,
        setting: Setting {
            hosts: 0,
            min_ttl: 5,
            max_ttl: 3600,
            linger: 3600,
            stale_for: 86400,
        },
        seconds: 60,
        events: Vec::new(),
    });
}

#[test]
fn what_was_known_of_a_host_that_was_taken_out_is_not_in_the_file() {
    holds(&Schedule {
        seed: 1,
        setting: Setting {
            hosts: 3,
            min_ttl: 1,
            max_ttl: 86400,
            linger: 7200,
            stale_for: 43200,
        },
        seconds: 110,
        events: vec![
            Event {
                at: 0,
                what: Zone {
                    host: 0,
                    family: 1,
                    addresses: 9,
                    ttl: 86400,
                },
            },
            Event {
                at: 1_000,
                what: Restart {
                    ending: KillWriting,
                    down: 1000,
                    hosts: 3,
                    state_file: true,
                },
            },
            Event {
                at: 10_000,
                what: Hosts { hosts: 6 },
            },
            Event {
                at: 100_000,
                what: Restart {
                    ending: KillWriting,
                    down: 1000,
                    hosts: 3,
                    state_file: true,
                },
            },
        ],
    });
}
