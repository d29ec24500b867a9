//! Tests with quiet days, and with shrunk schedules that once violated a rule. `simulate --seed N` prints schedules in
//! this form.

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
fn a_quiet_day_violates_no_rule_and_is_reproducible() {
    let schedule = Schedule::with_length(1, 24 * 60 * 60);
    holds(&schedule);
    let traces = [(); 2].map(|()| play(&schedule, None).expect("a runtime").tally.trace);
    assert_eq!(traces[0], traces[1]);
}

#[test]
fn a_quiet_day_of_the_real_resolver_violates_no_rule_and_is_reproducible() {
    let schedule = Schedule::with_length(10, 24 * 60 * 60);
    assert!(schedule.hickory);
    holds(&schedule);
    let played = [(); 2].map(|()| play(&schedule, None).expect("a runtime").tally);
    assert_eq!(played[0].trace, played[1].trace);
    // A question goes out over UDP, TCP, or both.
    assert!(played[0].questions <= played[0].messages, "{played:?}");
}

#[test]
fn an_empty_list_gets_the_right_verdicts() {
    holds(&Schedule {
        seed: 0,
        hickory: false,
        setting: Setting {
            hosts: 0,
            min_ttl: 5,
            max_ttl: 3600,
            linger: 3600,
            stale_for: 86400,
            networks: false,
        },
        seconds: 60,
        events: Vec::new(),
    });
}

#[test]
fn the_state_of_a_removed_host_is_not_in_the_file() {
    holds(&Schedule {
        seed: 1,
        hickory: false,
        setting: Setting {
            hosts: 3,
            min_ttl: 1,
            max_ttl: 86400,
            linger: 7200,
            stale_for: 43200,
            networks: false,
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

/// Found by seed 55.
#[test]
fn no_call_waits_for_a_host_that_was_removed_meanwhile() {
    holds(&Schedule {
        seed: 55,
        hickory: false,
        setting: Setting {
            hosts: 5,
            min_ttl: 5,
            max_ttl: 3600,
            linger: 600,
            stale_for: 3600,
            networks: false,
        },
        seconds: 62,
        events: vec![
            Event {
                at: 60000,
                what: Call {
                    who: 20,
                    through: Source,
                },
            },
            Event {
                at: 60000,
                what: Hosts { hosts: 0 },
            },
        ],
    });
}

/// Found by seed 66.
#[test]
fn a_file_written_before_writes_fail_stays_on_disk() {
    holds(&Schedule {
        seed: 66,
        hickory: false,
        setting: Setting {
            hosts: 3,
            min_ttl: 5,
            max_ttl: 3600,
            linger: 3600,
            stale_for: 86400,
            networks: false,
        },
        seconds: 691,
        events: vec![
            Event {
                at: 0,
                what: Zone {
                    host: 0,
                    family: 0,
                    addresses: 31,
                    ttl: 86400,
                },
            },
            Event {
                at: 1000,
                what: Restart {
                    ending: Clean,
                    down: 100,
                    hosts: 3,
                    state_file: true,
                },
            },
            Event {
                at: 2000,
                what: Server {
                    server: 0,
                    mood: Malformed,
                },
            },
            Event {
                at: 2000,
                what: Server {
                    server: 1,
                    mood: Malformed,
                },
            },
            Event {
                at: 2000,
                what: Restart {
                    ending: Kill,
                    down: 60000,
                    hosts: 3,
                    state_file: true,
                },
            },
            Event {
                at: 671558,
                what: Writes { fail: true },
            },
            Event {
                at: 671558,
                what: Server {
                    server: 1,
                    mood: Well,
                },
            },
            Event {
                at: 689236,
                what: Restart {
                    ending: Kill,
                    down: 0,
                    hosts: 3,
                    state_file: true,
                },
            },
        ],
    });
}

/// Found by seed 88, whose schedule has more idle time than this one.
#[test]
fn states_that_become_equal_are_not_saved_at_once() {
    holds(&Schedule {
        seed: 374,
        hickory: false,
        setting: Setting {
            hosts: 7,
            min_ttl: 1,
            max_ttl: 7200,
            linger: 60,
            stale_for: 600,
            networks: false,
        },
        seconds: 900,
        events: vec![
            Event {
                at: 0,
                what: Zone {
                    host: 2,
                    family: 0,
                    addresses: 63,
                    ttl: 86400,
                },
            },
            Event {
                at: 0,
                what: Zone {
                    host: 2,
                    family: 1,
                    addresses: 25,
                    ttl: 86400,
                },
            },
            Event {
                at: 1000,
                what: Restart {
                    ending: Clean,
                    down: 100,
                    hosts: 7,
                    state_file: true,
                },
            },
            Event {
                at: 101838,
                what: Server {
                    server: 0,
                    mood: TooMany,
                },
            },
            Event {
                at: 101838,
                what: Server {
                    server: 1,
                    mood: TooMany,
                },
            },
            Event {
                at: 111159,
                what: Restart {
                    ending: Kill,
                    down: 1000,
                    hosts: 7,
                    state_file: true,
                },
            },
            Event {
                at: 116848,
                what: Call {
                    who: 48,
                    through: Both { token: true },
                },
            },
            Event {
                at: 117206,
                what: Call {
                    who: 14,
                    through: Source,
                },
            },
            Event {
                at: 117914,
                what: Call {
                    who: 47,
                    through: Warns { token: true },
                },
            },
            Event {
                at: 119611,
                what: Call {
                    who: 9,
                    through: Both { token: true },
                },
            },
            Event {
                at: 161838,
                what: Server {
                    server: 0,
                    mood: Well,
                },
            },
            Event {
                at: 161838,
                what: Server {
                    server: 1,
                    mood: Well,
                },
            },
            Event {
                at: 200494,
                what: Server {
                    server: 0,
                    mood: Truncated,
                },
            },
            Event {
                at: 200494,
                what: Server {
                    server: 1,
                    mood: Truncated,
                },
            },
            Event {
                at: 217840,
                what: Restart {
                    ending: KillWriting,
                    down: 60000,
                    hosts: 7,
                    state_file: true,
                },
            },
            Event {
                at: 278362,
                what: Call {
                    who: 6,
                    through: Source,
                },
            },
            Event {
                at: 280722,
                what: Call {
                    who: 18,
                    through: Both { token: false },
                },
            },
            Event {
                at: 282094,
                what: Call {
                    who: 49,
                    through: Both { token: true },
                },
            },
        ],
    });
}

/// The rule that an empty state never overwrites a damaged file still applied after a state with content had replaced
/// that file. The next process therefore restored an answer that had ended, and kept it until a denial removed it.
#[test]
fn an_answer_that_has_ended_leaves_the_file_that_replaced_a_damaged_one() {
    holds(&Schedule {
        seed: 17,
        hickory: false,
        setting: Setting {
            hosts: 5,
            min_ttl: 5,
            max_ttl: 3600,
            linger: 600,
            stale_for: 0,
            networks: false,
        },
        seconds: 11075,
        events: vec![
            Event {
                at: 1000,
                what: Restart {
                    ending: Damaged,
                    down: 1000,
                    hosts: 5,
                    state_file: true,
                },
            },
            Event {
                at: 3601000,
                what: Restart {
                    ending: Damaged,
                    down: 3600000,
                    hosts: 5,
                    state_file: true,
                },
            },
            Event {
                at: 3601000,
                what: Zone {
                    host: 0,
                    family: 1,
                    addresses: 46,
                    ttl: 86400,
                },
            },
            Event {
                at: 9598842,
                what: Server {
                    server: 0,
                    mood: Refused,
                },
            },
            Event {
                at: 9598842,
                what: Server {
                    server: 1,
                    mood: Truncated,
                },
            },
            Event {
                at: 9598842,
                what: Zone {
                    host: 0,
                    family: 1,
                    addresses: 0,
                    ttl: 24,
                },
            },
            Event {
                at: 9598842,
                what: Zone {
                    host: 2,
                    family: 0,
                    addresses: 38,
                    ttl: 24,
                },
            },
            Event {
                at: 11003489,
                what: Restart {
                    ending: Clean,
                    down: 100,
                    hosts: 5,
                    state_file: true,
                },
            },
            Event {
                at: 11003489,
                what: Server {
                    server: 0,
                    mood: Well,
                },
            },
        ],
    });
}

const ONE_HOST: Setting = Setting {
    hosts: 1,
    min_ttl: 10,
    max_ttl: 3600,
    linger: 600,
    stale_for: 3600,
    networks: false,
};

fn at(at: u64, what: What) -> Event {
    Event { at, what }
}

fn server(server: u8, mood: Mood) -> What {
    Server { server, mood }
}

/// Found by seed 1010. One server sent an alias with a TTL of 60 s. The other server, whose records were older, denied
/// the alias's target with a TTL of a day. The oracle wrongly expected that the denial is valid for a day.
#[test]
fn a_denial_of_an_alias_target_ends_with_the_alias() {
    let zone = |family, addresses, ttl| Zone {
        host: 0,
        family,
        addresses,
        ttl,
    };
    holds(&Schedule {
        seed: 2952,
        hickory: true,
        setting: ONE_HOST,
        seconds: 4600,
        events: vec![
            at(0, zone(0, 1, 86_400)),
            at(0, zone(1, 0, 86_400)),
            at(1_000_000, zone(1, 1, 60)),
            at(
                1_000_000,
                Lag {
                    server: 1,
                    ms: 3_600_000,
                },
            ),
            at(1_000_000, server(0, Lossy)),
        ],
    });
}

/// Found by seed 1420. One server sent an alias, and the other denied every name, also the alias's target. The oracle
/// expected an answer or a denial, although NXDOMAIN for the target is neither.
#[test]
fn a_lookup_fails_if_the_target_of_an_alias_does_not_exist() {
    let zone = |family| Zone {
        host: 0,
        family,
        addresses: 1,
        ttl: 60,
    };
    holds(&Schedule {
        seed: 21,
        hickory: true,
        setting: ONE_HOST,
        seconds: 60,
        events: vec![
            at(0, zone(0)),
            at(0, zone(1)),
            at(0, server(0, Lossy)),
            at(0, server(1, Denies)),
        ],
    });
}

/// Found by seed 1557. An on-demand lookup failed shortly before the end of the answer's TTL. With a stale window of
/// zero, the answer ended with its TTL, and the file without the answer was written at once. The oracle expected the
/// answer in the file of the killed process.
#[test]
fn an_answer_that_ended_before_the_file_was_written_is_not_restored() {
    let restart = |ending| Restart {
        ending,
        down: 100,
        hosts: 1,
        state_file: true,
    };
    holds(&Schedule {
        seed: 1557,
        hickory: false,
        setting: Setting {
            min_ttl: 5,
            linger: 3600,
            stale_for: 0,
            ..ONE_HOST
        },
        seconds: 40,
        events: vec![
            at(
                0,
                Zone {
                    host: 0,
                    family: 0,
                    addresses: 1,
                    ttl: 24,
                },
            ),
            at(1_000, restart(Clean)),
            at(24_000, server(0, Refused)),
            at(24_000, server(1, Refused)),
            at(
                24_500,
                Call {
                    who: 52,
                    through: Source,
                },
            ),
            at(28_000, restart(Kill)),
        ],
    });
}
