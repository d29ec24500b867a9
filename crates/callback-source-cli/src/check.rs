//! `check`: verdicts on given peers.
//!
//! The command looks up the hosts once, and judges all peers by the same set. With `--peer`, it also prints each hop
//! from that peer to the client. The hops reveal the usual mistake: a proxy that is not trusted is judged as the
//! client.

use std::net::IpAddr;

use callback_source::{Allowed, Rejection, RejectionKind, Verdict};
use ipnet::IpNet;
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    args::CheckArgs,
    config::{self, Config, Subject},
    error::Error,
    log,
    outcome::Outcome,
    output, report,
};

pub(crate) fn run(mut args: CheckArgs) -> Result<Outcome, Error> {
    log::init_for_one_shot(&args.common)?;
    let config = Config::for_one_shot(&args.common, Subject::Callers)?;
    let mut hops = Vec::new();
    if let Some(peer) = args.peer {
        match walk(peer, &args, &mut hops)? {
            Ok(client) => args.peers = vec![client],
            // Nothing is looked up, because no DNS answer can change this verdict.
            Err(rejection) => {
                let text = rejection.body_text();
                print(hops, &[(peer, Verdict::Reject(rejection))], args.json)?;
                output::message("note", text);
                return Ok(Outcome::No);
            }
        }
    }
    let list = report::look_up_for(config, &args.peers)?;

    let now = Instant::now().into_std();
    let set = list.snapshot();
    let verdicts: Vec<_> = args
        .peers
        .iter()
        .map(|peer| (*peer, set.verdict(*peer, now)))
        .collect();
    print(hops, &verdicts, args.json)?;
    let rejections = verdicts
        .iter()
        .filter_map(|(_, verdict)| verdict.rejection());
    for explanation in rejections.filter_map(Rejection::explanation) {
        output::message("note", explanation);
    }

    let outcome = outcome(verdicts.iter().map(|(_, verdict)| verdict));
    let hosts = set.health(now);
    report::print_left_out(&hosts);
    report::print_unanswered(
        match outcome {
            Outcome::Incomplete => "error",
            Outcome::Yes | Outcome::No => "warning",
        },
        &hosts,
    );
    Ok(outcome)
}

/// Walks from the peer to the client and records each hop, beginning with the peer.
fn walk(
    peer: IpAddr,
    args: &CheckArgs,
    hops: &mut Vec<Hop>,
) -> Result<Result<IpAddr, Rejection>, Error> {
    let headers = args.header.iter().cloned().collect();
    let mut hop = |address, trusted| hops.push(Hop { address, trusted });
    Ok(match config::forwarded(args)? {
        Some(forwarded) => forwarded.walk(peer, &headers, hop),
        None => {
            let peer = peer.to_canonical();
            hop(peer, false);
            Ok(peer)
        }
    })
}

fn print(hops: Vec<Hop>, verdicts: &[(IpAddr, Verdict)], as_json: bool) -> Result<(), Error> {
    if as_json {
        let peers = verdicts
            .iter()
            .map(|(peer, verdict)| Checked::new(*peer, verdict));
        output::json(&Report {
            hops,
            peers: peers.collect(),
        })
    } else {
        let walked = hops.iter().map(Hop::line);
        let judged = verdicts.iter().map(|(peer, verdict)| line(*peer, verdict));
        output::data(walked.chain(judged).collect::<String>().as_bytes())
    }
}

fn outcome<'a>(verdicts: impl Iterator<Item = &'a Verdict>) -> Outcome {
    let rejections = verdicts.filter_map(Verdict::rejection);
    rejections.fold(Outcome::Yes, |outcome, rejection| {
        match (outcome, rejection.kind()) {
            (
                Outcome::Yes | Outcome::No,
                RejectionKind::NotListed | RejectionKind::WrongEnvironment,
            ) => Outcome::No,
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

/// Address on the path from the peer to the client. The peer and the client are included.
#[derive(Debug, Serialize)]
struct Hop {
    address: IpAddr,
    trusted: bool,
}

impl Hop {
    fn line(&self) -> String {
        let what = match self.trusted {
            true => "a trusted proxy",
            false => "the client",
        };
        format!("{} is {what}\n", self.address)
    }
}

#[derive(Serialize)]
struct Report {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hops: Vec<Hop>,
    peers: Vec<Checked>,
}

#[derive(Serialize)]
pub(crate) struct Checked {
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
    /// Watched host of another environment, if the peer is a server of that host.
    #[serde(skip_serializing_if = "Option::is_none")]
    watched_host: Option<String>,
}

impl Checked {
    pub(crate) fn new(peer: IpAddr, verdict: &Verdict) -> Self {
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
            watched_host: verdict
                .rejection()
                .and_then(Rejection::watched_host)
                .map(ToString::to_string),
        }
    }
}
