//! Reports on hosts, for people and for programs.
//!
//! `lookup --json` and `/status.json` describe hosts with the same fields, so that one script can read both. Times are
//! ages in seconds, because the list uses a monotonic clock, which has no date.

use std::{net::IpAddr, time::Instant};

use callback_source::{
    AllowList, HostName, Rejection, RejectionKind, ResolveErrorKind,
    set::{FamilyHealth, HostHealth, QuestionStatus},
};
use serde::Serialize;

use crate::{config::Config, error::Error, output};

/// Spawns the list and waits for the first result of each question.
pub(crate) fn look_up_once(config: Config) -> Result<AllowList, Error> {
    look_up_for(config, &[])
}

/// Spawns the list and waits for the first result of each question. If one of the peers is unlisted, the function also
/// waits for the first result of each question about the watched hosts.
pub(crate) fn look_up_for(config: Config, peers: &[IpAddr]) -> Result<AllowList, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Start)?;
    Ok(runtime.block_on(async {
        let list = config.list.spawn(config.resolver);
        list.attempted().await;
        let is_unlisted = |peer: &IpAddr| {
            let verdict = list.verdict(*peer);
            verdict.rejection().map(Rejection::kind) == Some(RejectionKind::NotListed)
        };
        if peers.iter().any(is_unlisted) {
            list.watched_attempted().await;
        }
        list
    }))
}

/// Returns whether a question is asked. `--ipv4-only` omits the AAAA questions.
pub(crate) fn is_asked(family: &FamilyHealth) -> bool {
    family.state != QuestionStatus::NotAsked
}

/// Returns whether a question is asked but is neither answered nor denied.
pub(crate) fn is_unanswered(family: &FamilyHealth) -> bool {
    !matches!(
        family.state,
        QuestionStatus::Answered | QuestionStatus::Denied | QuestionStatus::NotAsked
    )
}

/// Prints messages of this kind about the questions that are neither answered nor denied.
pub(crate) fn print_unanswered(kind: &str, hosts: &[HostHealth]) {
    let mut unknown = false;
    let mut unreachable = false;
    for host in hosts {
        let mut reasons: Vec<(String, String)> = Vec::new();
        for family in host.families.iter().filter(|family| is_unanswered(family)) {
            let reason = match &family.last_error {
                Some(error) if error.is_denial() => {
                    format!("{error}; this denial is not believed while no other host answers")
                }
                Some(error) => format!("{error}{}", output::causes(error)),
                None => "no lookup has completed".to_owned(),
            };
            match reasons.iter_mut().find(|(_, before)| *before == reason) {
                Some((types, _)) => types.push_str(&format!(" and {}", family.family)),
                None => reasons.push((family.family.to_string(), reason)),
            }
        }
        let errors = || {
            host.families
                .iter()
                .filter_map(|family| family.last_error.as_ref())
        };
        let asked = || host.families.iter().filter(|family| is_asked(family));
        unknown |= errors().filter(|error| error.is_denial()).count() == asked().count();
        unreachable |= errors().any(|error| {
            use ResolveErrorKind::{NoData, NxDomain, OnlySpecialAddresses, TooManyAddresses};
            !matches!(
                error.kind(),
                NxDomain | NoData | OnlySpecialAddresses | TooManyAddresses
            )
        });
        for (types, reason) in reasons {
            output::message(
                kind,
                format_args!("no answer for `{}` {types}: {reason}", host.host),
            );
        }
    }
    if unknown {
        output::message("hint", "check the spelling of the host, and the DNS server");
    }
    if unreachable {
        output::message(
            "hint",
            "check that the DNS server can be reached, or give another one with `--dns-server IP`",
        );
    }
}

/// Prints a warning for each answer with special-purpose addresses, which are not admitted.
pub(crate) fn print_left_out(hosts: &[HostHealth]) {
    let mut any = false;
    for host in hosts {
        for family in host
            .families
            .iter()
            .filter(|family| !family.dropped.is_empty())
        {
            any = true;
            let addresses: Vec<_> = family.dropped.iter().map(IpAddr::to_string).collect();
            output::message(
                "warning",
                format_args!(
                    "special-purpose addresses of `{}` {} are left out: {}",
                    host.host,
                    family.family,
                    addresses.join(", "),
                ),
            );
        }
    }
    if any {
        output::message(
            "hint",
            "for tests, admit them with `--allow-special-addresses`",
        );
    }
}

/// Prints a note for each host whose questions were all denied.
pub(crate) fn print_denied(hosts: &[HostHealth]) {
    for host in hosts {
        if host
            .families
            .iter()
            .filter(|family| is_asked(family))
            .all(|family| family.state == QuestionStatus::Denied)
        {
            output::message("note", format_args!("`{}` has no addresses", host.host));
        }
    }
}

/// A host in the JSON output.
#[derive(Debug, Serialize)]
pub(crate) struct HostReport<'a> {
    host: &'a str,
    /// Admitted addresses, including lingering addresses.
    addresses: Vec<IpAddr>,
    questions: Vec<QuestionReport<'a>>,
}

impl<'a> HostReport<'a> {
    pub(crate) fn new(health: &'a HostHealth, now: Instant) -> Self {
        Self {
            host: HostName::as_str(&health.host),
            addresses: health.addresses.iter().copied().collect(),
            questions: health
                .families
                .iter()
                .filter(|family| is_asked(family))
                .map(|family| QuestionReport::new(family, now))
                .collect(),
        }
    }
}

#[derive(Debug, Serialize)]
struct QuestionReport<'a> {
    r#type: String,
    state: &'static str,
    ttl_seconds: Option<u64>,
    age_seconds: Option<u64>,
    addresses: &'a [IpAddr],
    left_out: &'a [IpAddr],
    failing_for_seconds: Option<u64>,
    last_error: Option<ErrorReport>,
}

impl<'a> QuestionReport<'a> {
    fn new(family: &'a FamilyHealth, now: Instant) -> Self {
        let seconds_since = |then: Instant| now.saturating_duration_since(then).as_secs();
        Self {
            r#type: family.family.to_string(),
            state: family.state.as_str(),
            ttl_seconds: family.ttl.map(|ttl| ttl.as_secs()),
            age_seconds: family.answered_at.map(seconds_since),
            addresses: &family.addresses,
            left_out: &family.dropped,
            failing_for_seconds: family.failing_since.map(seconds_since),
            last_error: family.last_error.as_ref().map(|error| ErrorReport {
                reason: error.kind().as_str(),
                message: format!("{error}{}", output::causes(error)),
            }),
        }
    }
}

#[derive(Debug, Serialize)]
struct ErrorReport {
    reason: &'static str,
    message: String,
}
