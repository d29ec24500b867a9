//! `check`: whether peers would be admitted.

use std::net::IpAddr;

use callback_source::{Allowed, RejectionKind, Verdict};
use ipnet::IpNet;
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    Error, Outcome,
    args::CheckArgs,
    config::{self, Config, Subject},
    output, report,
};

pub(crate) fn run(args: CheckArgs) -> Result<Outcome, Error> {
    config::log_once(&args.common)?;
    let config = Config::once(&args.common, Subject::Callers)?;
    let list = report::asked_once(config)?;

    let now = Instant::now();
    let set = list.snapshot();
    let verdicts: Vec<_> = args
        .peers
        .iter()
        .map(|peer| (*peer, set.verdict(*peer, now)))
        .collect();

    if args.json {
        let peers = verdicts
            .iter()
            .map(|(peer, verdict)| Checked::new(*peer, verdict));
        output::json(&Report {
            peers: peers.collect(),
        })?;
    } else {
        let lines = verdicts.iter().map(|(peer, verdict)| line(*peer, verdict));
        output::data(lines.collect::<String>().as_bytes())?;
    }

    let outcome = outcome(verdicts.iter().map(|(_, verdict)| verdict));
    let hosts = set.health(now);
    report::say_dropped(&hosts);
    report::say_open(
        match outcome {
            Outcome::Incomplete => "error",
            Outcome::Yes | Outcome::No => "warning",
        },
        &hosts,
    );
    Ok(outcome)
}

fn outcome<'a>(verdicts: impl Iterator<Item = &'a Verdict>) -> Outcome {
    let rejections = verdicts.filter_map(Verdict::rejection);
    rejections.fold(Outcome::Yes, |outcome, rejection| {
        match (outcome, rejection.kind()) {
            (Outcome::Yes | Outcome::No, RejectionKind::NotListed) => Outcome::No,
            _ => Outcome::Incomplete,
        }
    })
}

fn line(peer: IpAddr, verdict: &Verdict) -> String {
    match verdict {
        Verdict::Allow(allowed) => {
            let freshness = allowed.freshness();
            format!("{peer} allow {} {freshness}\n", lister(allowed))
        }
        Verdict::Reject(rejection) => format!("{peer} reject {}\n", rejection.kind().as_str()),
    }
}

fn lister(allowed: &Allowed) -> String {
    let host = allowed.host().map(ToString::to_string);
    let network = || allowed.network().as_ref().map(IpNet::to_string);
    host.or_else(network).unwrap_or_else(|| "-".to_owned())
}

#[derive(Serialize)]
struct Report {
    peers: Vec<Checked>,
}

#[derive(Serialize)]
struct Checked {
    peer: IpAddr,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<IpNet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    freshness: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl Checked {
    fn new(peer: IpAddr, verdict: &Verdict) -> Self {
        let allowed = verdict.allowed();
        Self {
            peer,
            verdict: match verdict {
                Verdict::Allow(_) => "allow",
                Verdict::Reject(_) => "reject",
            },
            host: allowed.and_then(Allowed::host).map(ToString::to_string),
            network: allowed.and_then(Allowed::network),
            freshness: allowed.map(|allowed| allowed.freshness().as_str()),
            reason: verdict
                .rejection()
                .map(|rejection| rejection.kind().as_str()),
        }
    }
}
