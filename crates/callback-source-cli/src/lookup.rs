//! `lookup`: the addresses that would be admitted.
//!
//! If a question failed, the addresses are still printed, and the exit code is 2. A firewall script must check the exit
//! code: a partial list would exclude the servers of the host whose question failed.

use std::{fmt::Write, net::IpAddr};

use callback_source::{
    Family,
    set::{HostHealth, QuestionStatus},
};
use ipnet::IpNet;
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    args::{LookupArgs, plain},
    config::{Config, Subject},
    error::Error,
    log,
    outcome::Outcome,
    output,
    report::{self, HostReport, is_asked},
};

pub(crate) fn run(args: LookupArgs) -> Result<Outcome, Error> {
    log::init_for_one_shot(&args.common)?;
    let subject = match args.api {
        true => Subject::Api,
        false => Subject::Callers,
    };
    let config = Config::for_one_shot(&args.common, subject)?;
    if args.api && !(args.common.host.is_empty() && args.common.allow.is_empty()) {
        output::message("note", "`--host` and `--allow` are ignored with `--api`");
    }
    let list = report::look_up_once(config)?;

    let now = Instant::now().into_std();
    let set = list.snapshot();
    let addresses: Vec<_> = set.addresses(now).into_iter().collect();
    let networks: Vec<_> = set.networks().collect();
    let hosts = set.health(now);
    let complete = !hosts
        .iter()
        .flat_map(|host| &host.families)
        .any(report::is_unanswered);

    if args.json {
        output::json(&Found {
            addresses: &addresses,
            networks: &networks,
            complete,
            hosts: hosts
                .iter()
                .map(|host| HostReport::new(host, now))
                .collect(),
        })?;
    } else if args.by_host {
        output::data(table(&hosts, &networks).as_bytes())?;
    } else {
        output::data(lines(&addresses, &networks).as_bytes())?;
    }

    report::print_left_out(&hosts);
    report::print_denied(&hosts);
    report::print_unanswered("error", &hosts);
    Ok(match complete {
        true => Outcome::Yes,
        false => Outcome::Incomplete,
    })
}

#[derive(Serialize)]
struct Found<'a> {
    addresses: &'a [IpAddr],
    networks: &'a [IpNet],
    /// `true` if every question is answered or denied.
    complete: bool,
    hosts: Vec<HostReport<'a>>,
}

fn lines(addresses: &[IpAddr], networks: &[IpNet]) -> String {
    let addresses = addresses.iter().copied().map(IpNet::from);
    let mut all: Vec<_> = addresses.chain(networks.iter().copied()).collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter()
        .map(|network| plain(network) + "\n")
        .collect()
}

/// Table with one address or network per line. A question without addresses also has a line. This line is omitted if
/// the question was denied and the host has an admitted address, since most hosts have addresses of only one family.
fn table(hosts: &[HostHealth], networks: &[IpNet]) -> String {
    let mut rows = vec![["HOST", "TYPE", "TTL", "STATE", "ADDRESS"].map(str::to_owned)];
    for host in hosts {
        let none = host.addresses.is_empty();
        for family in host.families.iter().filter(|family| is_asked(family)) {
            let row = |ttl: Option<u64>, state: &str, address: &str| {
                let ttl = ttl.map_or_else(|| "-".to_owned(), |ttl| ttl.to_string());
                let host = host.host.to_string();
                [
                    host,
                    family.family.to_string(),
                    ttl,
                    state.to_owned(),
                    address.to_owned(),
                ]
            };
            let state = family.state.as_str();
            let ttl = family.ttl.map(|ttl| ttl.as_secs());
            for address in &family.addresses {
                rows.push(row(ttl, state, &address.to_string()));
            }
            let lingering = host
                .addresses
                .iter()
                .filter(|address| Family::from_ip(**address) == family.family)
                .filter(|address| !family.addresses.contains(address));
            for address in lingering {
                rows.push(row(None, "lingering", &address.to_string()));
            }
            if family.addresses.is_empty() && (none || family.state != QuestionStatus::Denied) {
                rows.push(row(None, state, "-"));
            }
        }
    }
    for network in networks {
        rows.push(["-", "-", "-", "static", &plain(*network)].map(str::to_owned));
    }

    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let [host, kind, ttl, state] = [width(0), width(1), width(2), width(3)];
    let mut text = String::new();
    for row in &rows {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:host$}  {:kind$}  {:>ttl$}  {:state$}  {}",
            row[0], row[1], row[2], row[3], row[4],
        );
    }
    text
}
