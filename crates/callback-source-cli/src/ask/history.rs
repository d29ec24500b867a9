//! `history`: the journal of the running server.

use std::time::UNIX_EPOCH;

use super::client;
use crate::{
    args::{AskArgs, EventKind, HistoryArgs, all},
    error::Error,
    journal::{Entry, Event},
    outcome::Outcome,
    output,
};

pub(crate) fn run(args: &HistoryArgs) -> Result<Outcome, Error> {
    let mut path = "/history.jsonl?".to_owned();
    if let Some(since) = args.since {
        let since = since.time().duration_since(UNIX_EPOCH).unwrap_or_default();
        path += &format!("since={}&", since.as_secs());
    }
    if let Some(peer) = args.peer {
        path += &format!("peer={peer}");
    }
    let kinds = all(&args.only);
    let mut entries = entries(&args.ask, &path)?;
    entries.retain(|entry| kinds.is_empty() || kinds.contains(&kind(&entry.event)));
    match args.ask.json {
        true => output::json(&entries)?,
        false => {
            let lines: String = entries.iter().map(|entry| line(entry) + "\n").collect();
            output::data(lines.as_bytes())?;
        }
    }
    Ok(match entries.is_empty() {
        true => Outcome::No,
        false => Outcome::Yes,
    })
}

/// Fetches the events that the server returns at this path.
pub(super) fn entries(args: &AskArgs, path: &str) -> Result<Vec<Entry>, Error> {
    let body = client::get(args, path)?;
    let lines = body.split(|byte| *byte == b'\n');
    Ok(lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect())
}

pub(super) fn is_change(event: &Event) -> bool {
    kind(event) == EventKind::Changes
}

fn kind(event: &Event) -> EventKind {
    match event {
        Event::Added { .. }
        | Event::Left { .. }
        | Event::Returned { .. }
        | Event::Removed { .. } => EventKind::Changes,
        Event::OutageBegan { .. } | Event::OutageEnded { .. } => EventKind::Outages,
        Event::Refused { .. } => EventKind::Refusals,
        Event::RefusedThenListed { .. } => EventKind::RefusedThenListed,
        Event::Started { .. }
        | Event::Stopped {}
        | Event::Reloaded { .. }
        | Event::ReloadRefused { .. }
        | Event::ClockSetBack { .. } => EventKind::Operation,
    }
}

pub(super) fn line(entry: &Entry) -> String {
    let peer = |peer: &Option<std::net::IpAddr>| {
        peer.map_or_else(|| "several peers".to_owned(), |peer| peer.to_string())
    };
    let text = match &entry.event {
        Event::Started {
            version,
            hosts,
            networks,
            report_only,
        } => {
            let mode = if *report_only { ", report-only" } else { "" };
            format!(
                "started: version {version}, {} hosts, {} networks{mode}",
                hosts.len(),
                networks.len()
            )
        }
        Event::Stopped {} => "stopped".to_owned(),
        Event::Reloaded { changed } => format!("reloaded: {}", changed.join(", ")),
        Event::ReloadRefused { error } => format!("not reloaded: {error}"),
        Event::ClockSetBack { seconds } => format!(
            "the clock was set back by {}",
            humantime::format_duration(std::time::Duration::from_secs(*seconds))
        ),
        Event::Added { host, address } => format!("added: {address} of {host}"),
        Event::Left { host, address } => format!("left the answer, lingers: {address} of {host}"),
        Event::Returned { host, address } => format!("in the answer again: {address} of {host}"),
        Event::Removed { host, address } => format!("removed: {address} of {host}"),
        Event::OutageBegan {
            host,
            record_type,
            error,
        } => format!("lookups fail: {host} {record_type}: {error}"),
        Event::OutageEnded {
            host,
            record_type,
            seconds,
        } => format!(
            "lookups work again: {host} {record_type}, after {}",
            humantime::format_duration(std::time::Duration::from_secs(*seconds))
        ),
        Event::Refused {
            peer: refused,
            reason,
            count,
            first,
            last,
        } => format!(
            "refused: {}, {reason}, {count} times from {first} to {last}",
            peer(refused)
        ),
        Event::RefusedThenListed {
            peer: refused,
            host,
            refusals,
            last_refused,
        } => format!(
            "REFUSED, THEN LISTED: {} is a server of {host}; refused {refusals} times, last at {last_refused}",
            peer(refused)
        ),
    };
    format!("{}  {text}", entry.at)
}
