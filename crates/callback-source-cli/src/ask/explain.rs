//! `explain`: the present verdict of the running server on a peer, or, with `--at`, the hosts that listed the peer at a
//! given time.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use super::{
    client,
    history::{entries, line},
};
use crate::{
    args::ExplainArgs,
    error::Error,
    journal::{Entry, Event, FIRST_ID, time_text},
    outcome::Outcome,
    output,
};

pub(crate) fn run(args: &ExplainArgs) -> Result<Outcome, Error> {
    let peer = args.peer.to_canonical();
    let now = client::get_json(&args.ask, &format!("/explain.json?peer={peer}"))?;
    let events = match entries(&args.ask, &format!("/history.jsonl?peer={peer}")) {
        Err(Error::NoJournal) if args.at.is_none() => Vec::new(),
        events => events?,
    };
    let then = args.at.map(|at| (at.time(), listed_at(&events, at.time())));
    // A line that was removed from the journal may have recorded the addition of the peer, which can stay listed for
    // months.
    let begins_late = match &then {
        Some((_, hosts)) if hosts.is_empty() => {
            let oldest = entries(&args.ask, "/history.jsonl")?.into_iter().next();
            oldest.filter(|oldest| oldest.id > FIRST_ID)
        }
        _ => None,
    };
    if args.ask.json {
        let events = serde_json::to_value(&events).unwrap_or_default();
        let then = then.as_ref().map(|(at, listed)| {
            let listed = Some(listed).filter(|_| begins_late.is_none());
            json!({ "at": time_text(*at), "hosts": listed })
        });
        output::json(&json!({ "now": now, "then": then, "events": events }))?;
    } else {
        let mut text = match &then {
            None => now_text(&now),
            Some((at, hosts)) => then_text(&peer.to_string(), *at, hosts, begins_late.as_ref()),
        };
        text.extend(events.iter().map(|entry| line(entry) + "\n"));
        output::data(text.as_bytes())?;
    }
    Ok(match then {
        Some(_) if begins_late.is_some() => Outcome::Incomplete,
        Some((_, hosts)) if hosts.is_empty() => Outcome::No,
        Some(_) => Outcome::Yes,
        None => match (now["verdict"].as_str(), now["reason"].as_str()) {
            (Some("allow"), _) => Outcome::Yes,
            (_, Some("unresolved")) => Outcome::Incomplete,
            _ => Outcome::No,
        },
    })
}

/// Returns the hosts that had the peer as an admitted address at a given time, each with the time at which the peer was
/// added.
fn listed_at(events: &[Entry], at: SystemTime) -> BTreeMap<String, String> {
    let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut listed = BTreeMap::new();
    for entry in events {
        let time = entry
            .time()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        if time.is_none_or(|time| at < time.as_secs()) {
            continue;
        }
        match &entry.event {
            Event::Added { host, .. } => {
                listed.insert(host.clone(), entry.at.clone());
            }
            Event::Removed { host, .. } => {
                listed.remove(host);
            }
            _ => {}
        }
    }
    listed
}

fn now_text(now: &Value) -> String {
    let text = |key: &str| now[key].as_str().unwrap_or("-").to_owned();
    let peer = text("peer");
    match now["verdict"].as_str() {
        Some("allow") => {
            let lister = now["host"]
                .as_str()
                .or_else(|| now["network"].as_str())
                .unwrap_or("-");
            format!("{peer} is admitted: {lister}, {}\n", text("freshness"))
        }
        _ => format!(
            "{peer} is refused with {}: {}\n",
            now["status"],
            text("reason")
        ),
    }
}

fn then_text(
    peer: &str,
    at: SystemTime,
    hosts: &BTreeMap<String, String>,
    begins_late: Option<&Entry>,
) -> String {
    let at = time_text(at);
    if let Some(oldest) = begins_late {
        return format!(
            "unknown whether {peer} was listed at {at}: older lines of the journal, from before {}, were removed\n",
            oldest.at
        );
    }
    if hosts.is_empty() {
        return format!("at {at}, {peer} was not listed by any host, according to the journal\n");
    }
    let hosts = hosts
        .iter()
        .map(|(host, since)| format!("{host} (since {since})"));
    let hosts: Vec<_> = hosts.collect();
    format!("at {at}, {peer} was listed by {}\n", hosts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_was_listed_from_its_addition_to_its_removal() {
        let event = |id, at: &str, added| {
            let (host, address) = ("a.example".to_owned(), "20.0.0.1".parse().unwrap());
            Entry {
                id,
                at: at.to_owned(),
                event: match added {
                    true => Event::Added { host, address },
                    false => Event::Removed { host, address },
                },
            }
        };
        let events = [
            event(1, "2026-11-01T00:00:00Z", true),
            event(2, "2026-11-02T00:00:00Z", false),
        ];
        for (at, listed) in [
            ("2026-10-31T23:59:59Z", false),
            ("2026-11-01T00:00:00Z", true),
            ("2026-11-01T23:59:59Z", true),
            ("2026-11-02T00:00:00Z", false),
        ] {
            let hosts = listed_at(&events, humantime::parse_rfc3339(at).unwrap());
            assert_eq!(hosts.contains_key("a.example"), listed, "{at}");
        }
    }
}
