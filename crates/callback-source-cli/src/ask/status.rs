//! `status`: the state of the running server.

use serde_json::Value;

use super::client;
use crate::{args::StatusArgs, error::Error, outcome::Outcome, output};

pub(crate) fn run(args: &StatusArgs) -> Result<Outcome, Error> {
    let status = client::get_json(&args.ask, "/status.json")?;
    match args.ask.json {
        true => output::json(&status)?,
        false => output::data(text(&status).as_bytes())?,
    }
    Ok(match status["ready"].as_bool() {
        Some(true) => Outcome::Yes,
        _ => Outcome::No,
    })
}

fn text(status: &Value) -> String {
    let ready = match status["ready"].as_bool() {
        Some(true) => "ready",
        _ => "not ready",
    };
    let mode = match status["report_only"].as_bool() {
        Some(true) => ", refuses nothing (report-only)",
        _ => "",
    };
    let uptime = status["uptime_seconds"].as_u64().unwrap_or(0);
    let uptime = humantime::format_duration(std::time::Duration::from_secs(uptime));
    let mut lines = vec![format!("{ready}{mode}, up {uptime}")];
    let verdicts = status["verdicts"].as_object().into_iter().flatten();
    let verdicts: Vec<_> = verdicts
        .map(|(kind, number)| format!("{kind} {number}"))
        .collect();
    lines.push(format!("verdicts: {}", verdicts.join(", ")));
    for host in status["hosts"].as_array().into_iter().flatten() {
        let addresses = host["addresses"].as_array().map_or(0, Vec::len);
        let name = host["host"].as_str().unwrap_or_default();
        lines.push(format!("{name}: {addresses} addresses{}", errors(host)));
    }
    let networks = status["networks"].as_array().into_iter().flatten();
    lines.extend(
        networks
            .filter_map(Value::as_str)
            .map(|network| format!("{network}: static")),
    );
    lines.join("\n") + "\n"
}

fn errors(host: &Value) -> String {
    let questions = host["questions"].as_array().into_iter().flatten();
    let errors = questions.filter_map(|question| {
        let state = question["state"].as_str()?;
        let kind = question["type"].as_str()?;
        (!matches!(state, "answered" | "denied" | "not-asked")).then(|| format!(", {kind} {state}"))
    });
    errors.collect()
}
