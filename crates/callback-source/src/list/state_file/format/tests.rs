use super::*;
use crate::list::clock::now;

pub(crate) fn encode(saved: Vec<PersistedHost>, clocks: Clocks) -> Vec<u8> {
    let (text, cut) = super::encode(saved, clocks);
    assert_eq!(cut, Cut::default());
    text
}

fn clocks(utc: u64) -> Clocks {
    let utc = Duration::from_millis(utc);
    Clocks {
        instant: now(),
        utc,
    }
}

pub(crate) fn lingering_since(left_at: Instant) -> PersistedLingering {
    PersistedLingering {
        left_at,
        until: Some(left_at + Duration::from_secs(3600)),
    }
}

pub(crate) fn saved(clocks: Clocks) -> Vec<PersistedHost> {
    let ago = |seconds| clocks.instant - Duration::from_secs(seconds);
    let ahead = |seconds| clocks.instant + Duration::from_secs(seconds);
    let answer = LastAnswer {
        addresses: ["20.0.0.1".parse().unwrap(), "20.0.0.2".parse().unwrap()].into(),
        ttl: Duration::from_secs(60),
        answered_at: ago(10),
        ttl_ends: ahead(50),
        restored: true,
    };
    let lingering = lingering_since(ago(1800));
    let v4 = PersistedQuestion {
        family: Family::V4,
        stale_from: ahead(50),
        denied: false,
        had_answer: true,
        answer: Some(answer),
    };
    let v6 = PersistedQuestion {
        family: Family::V6,
        stale_from: ago(300),
        denied: true,
        had_answer: false,
        answer: None,
    };
    vec![PersistedHost {
        host: "h.test".parse().unwrap(),
        questions: vec![v4, v6],
        lingering: [("20.0.0.3".parse().unwrap(), lingering)].into(),
    }]
}

const NOW: u64 = 1_760_000_000_000;

#[test]
fn no_more_hosts_are_left_out_than_necessary() {
    let host = || -> SavedHost {
        let saved = serde_json::json!({
            "host": "h.test",
            "a": {"window_from": 0, "denied": false, "answer": null},
            "aaaa": {"window_from": 0, "denied": false, "answer": null},
            "lingering": {},
        });
        serde_json::from_value(saved).unwrap()
    };
    let length = serde_json::to_vec(&host()).unwrap().len();
    let dropped = |over| {
        let hosts = (0..4).map(|_| host()).collect();
        let mut document = Document {
            version: VERSION,
            written_at: NOW,
            hosts,
        };
        document.drop_hosts(over)
    };
    // Dropping a host also removes the comma after it.
    for (over, expected) in [
        (1, 1),
        (length + 1, 1),
        (length + 2, 2),
        (2 * length + 2, 2),
    ] {
        assert_eq!(dropped(over), expected, "{over}");
    }
}

#[test]
fn a_time_after_the_write_is_believed_up_to_a_step_of_the_clock() {
    let clocks = clocks(NOW);
    let text = String::from_utf8(encode(saved(clocks), clocks)).unwrap();
    let is_read = |answered_at: u64| {
        let mut file: serde_json::Value = serde_json::from_str(&text).unwrap();
        file["hosts"][0]["a"]["answer"]["answered_at"] = answered_at.into();
        decode(file.to_string().as_bytes(), clocks).is_ok()
    };
    assert!(is_read(NOW + CLOCK_STEP));
    assert!(!is_read(NOW + CLOCK_STEP + 1));
}

#[test]
fn a_written_state_is_read_with_its_original_times() {
    let before = clocks(NOW);
    let text = encode(saved(before), before);
    // The state is read an hour later, by a process whose monotonic clock has another origin.
    let later = Clocks {
        instant: before.instant + Duration::from_secs(3600 + 7777),
        utc: Duration::from_millis(NOW + 3_600_000),
    };
    let shifted = Clocks {
        instant: before.instant + Duration::from_secs(7777),
        utc: Duration::from_millis(NOW),
    };
    assert_eq!(decode(&text, later).unwrap(), saved(shifted));
}

/// The test contains the keys literally, so that a renamed field of the code cannot change the format unnoticed.
#[test]
fn version_1_of_the_format_is_read_and_written_with_these_keys() {
    const TEXT: &str = r#"{"version":1,"written_at":1760000000000,"hosts":[{"host":"h.test","a":{"window_from":1760000050000,"denied":false,"answer":{"addresses":["20.0.0.1","20.0.0.2"],"ttl":60000,"answered_at":1759999990000,"ttl_ends":1760000050000}},"aaaa":{"window_from":1759999700000,"denied":true,"answer":null},"lingering":{"20.0.0.3":1759998200000},"lingering_until":{"20.0.0.3":1760001800000}}]}"#;
    let clocks = clocks(NOW);
    assert_eq!(decode(TEXT.as_bytes(), clocks).unwrap(), saved(clocks));
    let value = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).unwrap();
    assert_eq!(
        value(&encode(saved(clocks), clocks)),
        value(TEXT.as_bytes())
    );
}

#[test]
fn a_question_whose_answer_ended_is_read_as_answered() {
    let clocks = clocks(NOW);
    let mut ended = saved(clocks);
    let question = &mut ended[0].questions[0];
    (question.answer, question.had_answer) = (None, true);
    let text = encode(ended.clone(), clocks);
    assert!(String::from_utf8_lossy(&text).contains("\"had_answer\": true"));
    assert_eq!(decode(&text, clocks).unwrap(), ended);
}

#[test]
fn a_wall_clock_that_is_set_while_running_moves_no_time() {
    let before = clocks(NOW);
    for step in [-86_400_000, 86_400_000] {
        let stepped = Clocks {
            utc: Duration::from_millis(NOW.saturating_add_signed(step)),
            ..before
        };
        let text = encode(saved(before), stepped);
        assert_eq!(decode(&text, stepped).unwrap(), saved(before));
    }
}

#[test]
fn no_number_of_restarts_moves_a_time_ahead() {
    let start = clocks(NOW);
    let mut state = saved(start);
    let first = state.clone();
    for restart in 1..1000u64 {
        let since = Duration::from_micros(restart * 777);
        let now = Clocks {
            instant: start.instant + since,
            utc: start.utc + since,
        };
        let text = encode(state, now);
        state = decode(&text, now).unwrap();
    }
    for (question, first) in state[0].questions.iter().zip(&first[0].questions) {
        assert!(question.stale_from <= first.stale_from);
        assert!(first.stale_from - question.stale_from < Duration::from_millis(2));
    }
    for (address, lingering) in &state[0].lingering {
        let before = first[0].lingering[address];
        assert!(lingering.left_at <= before.left_at);
        assert!(lingering.until.is_some() && lingering.until <= before.until);
    }
}

#[test]
fn a_file_without_the_end_of_lingering_is_read() {
    let clocks = clocks(NOW);
    let text = encode(saved(clocks), clocks);
    let mut document: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let host = document["hosts"][0].as_object_mut().unwrap();
    assert!(host.remove("lingering_until").is_some());
    let read = decode(document.to_string().as_bytes(), clocks).unwrap();
    let [lingering] = read[0].lingering.values().collect::<Vec<_>>()[..] else {
        panic!("one address lingers");
    };
    let before = saved(clocks)[0].lingering[&"20.0.0.3".parse::<IpAddr>().unwrap()];
    assert_eq!((lingering.left_at, lingering.until), (before.left_at, None));
}

#[test]
fn unknown_or_impossible_content_is_refused_with_the_reason() {
    let before = clocks(NOW);
    let good = String::from_utf8(encode(saved(before), before)).unwrap();
    let cases = [
        (String::new(), "malformed"),
        (good[..good.len() - 2].to_owned(), "malformed"),
        (
            good.replace("\"version\": 1", "\"version\": 2"),
            "version is 2",
        ),
        (good.replace("h.test", "not a host"), "invalid host name"),
        (good.replace("20.0.0.1", "20.0.0.300"), "malformed"),
        (
            good.replace(&(NOW - 10_000).to_string(), &(NOW + 90_000).to_string()),
            "after it was",
        ),
    ];
    for (text, reason) in cases {
        let error = decode(text.as_bytes(), before).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let early = Clocks {
        utc: Duration::from_millis(NOW - CLOCK_STEP - 1),
        ..before
    };
    let error = decode(good.as_bytes(), early).unwrap_err().to_string();
    assert!(error.contains("check this machine's clock"), "{error}");
    let early = Clocks {
        utc: Duration::from_millis(NOW - CLOCK_STEP),
        ..before
    };
    assert!(decode(good.as_bytes(), early).is_ok());
}

#[test]
fn a_text_that_would_be_too_large_loses_the_oldest_lingering_addresses_then_the_last_hosts() {
    let clocks = clocks(NOW);
    let mut all = Vec::new();
    for number in 0..20 {
        let mut saved = saved(clocks).remove(0);
        saved.host = format!("h{number}.test").parse().unwrap();
        saved.lingering = (0..500_u32)
            .map(|at| {
                let address = IpAddr::V4((0x1400_0000 + at).into());
                let left_at = clocks.instant - Duration::from_millis(u64::from(at));
                (address, lingering_since(left_at))
            })
            .collect();
        all.push(saved);
    }
    let document: Document = serde_json::from_slice(&encode(all, clocks)).unwrap();
    let document = || Document {
        version: document.version,
        written_at: document.written_at,
        hosts: serde_json::from_value(serde_json::to_value(&document.hosts).unwrap()).unwrap(),
    };
    let compact = serde_json::to_vec(&document()).unwrap().len();
    let pretty = serde_json::to_vec_pretty(&document()).unwrap().len();
    for (most, lingering, hosts) in [
        (pretty, 0..=0, 0..=0),
        (pretty - 1, 0..=0, 0..=0),
        (compact, 0..=0, 0..=0),
        (compact - 1, 1..=1, 0..=0),
        (compact - 100_000, 1_500..=2_500, 0..=0),
        (10_000, 9_000..=10_000, 0..=0),
        (2_000, 10_000..=10_000, 5..=19),
    ] {
        let (text, cut) = document().fitting(most);
        assert!(text.len() <= most, "{most}");
        let left_out = format!("{cut:?} for {most} of {compact}");
        assert!(lingering.contains(&cut.lingering), "{left_out}");
        assert!(hosts.contains(&cut.hosts), "{left_out}");
        let kept = decode(&text, clocks).unwrap();
        assert_eq!(kept.len(), 20 - cut.hosts);
        // The remaining addresses have lingered for a shorter time than the dropped addresses.
        let lingering = kept.iter().flat_map(|saved| saved.lingering.values());
        let oldest = lingering.map(|saved| saved.left_at).min();
        let age = oldest.map_or(Duration::ZERO, |oldest| clocks.instant - oldest);
        let kept_each = u64::try_from((10_000 - cut.lingering).div_ceil(20)).unwrap();
        assert!(
            age <= Duration::from_millis(kept_each + 1),
            "{age:?} {left_out}"
        );
    }
}

#[test]
fn a_duplicate_host_is_refused() {
    let clocks = clocks(NOW);
    let twice = [saved(clocks), saved(clocks)].concat();
    let error = decode(&encode(twice, clocks), clocks).unwrap_err();
    assert_eq!(error.to_string(), "it contains `h.test` twice");
}

#[test]
fn an_address_under_the_other_question_is_left_out() {
    let clocks = clocks(NOW);
    let text = String::from_utf8(encode(saved(clocks), clocks)).unwrap();
    let text = text.replace("20.0.0.2", "2606:4700::1");
    let saved = decode(text.as_bytes(), clocks).unwrap();
    let answer = saved[0].questions[0].answer.as_ref().unwrap();
    assert_eq!(*answer.addresses, ["20.0.0.1".parse::<IpAddr>().unwrap()]);
}
