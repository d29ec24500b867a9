//! `/status`: the state of the list and of the server, as a page for people.
//!
//! The page is complete without JavaScript, which its Content-Security-Policy does not allow anyway. By default, the
//! browser reloads the page every 30 seconds. Every text from outside this program is escaped.

use std::{
    fmt::{self, Write},
    net::IpAddr,
    time::{Duration, SystemTime},
};

use callback_source::{
    AllowList,
    set::{FamilyHealth, HostHealth, QuestionStatus},
    vipps::Environment,
};
use tokio::time::Instant;

use super::status::VerdictCounts;
use crate::{
    follow::TargetStatus,
    journal::{Entry, Event},
};

/// Everything that the page shows.
#[derive(Debug)]
pub(super) struct Page<'a> {
    pub(super) list: &'a AllowList,
    pub(super) counts: &'a VerdictCounts,
    pub(super) report_only: bool,
    /// `true` if the browser reloads the page regularly.
    pub(super) refreshes: bool,
    pub(super) uptime: Duration,
    pub(super) log_lines_dropped: u64,
    pub(super) journal_events_dropped: u64,
    /// Targets of `--follow`.
    pub(super) targets: Vec<TargetStatus>,
    /// Events of the last week; `None` without a journal.
    pub(super) events: Option<Vec<Entry>>,
}

impl Page<'_> {
    pub(super) fn html(&self) -> String {
        let mut html = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut html, SystemTime::now());
        html
    }

    fn write(&self, out: &mut String, now: SystemTime) -> fmt::Result {
        let hosts = self.list.health();
        let problems = self.problems(&hosts, now);
        let headline = match problems.as_slice() {
            [] => "All is well",
            [_] => "One problem",
            _ => "Several problems",
        };
        write!(
            out,
            "{HEAD}<title>{headline} – callback-source</title>{STYLE}</head>\n<body>\n<main>\n"
        )?;
        let class = if problems.is_empty() {
            "well"
        } else {
            "problem"
        };
        writeln!(out, "<h1 class=\"{class}\">{headline}</h1>")?;
        if !problems.is_empty() {
            out.push_str("<ul>\n");
            for problem in &problems {
                writeln!(out, "<li class=\"problem\">{}</li>", escaped(problem))?;
            }
            out.push_str("</ul>\n");
        }
        let mode = match self.report_only {
            true => " Refuses nothing (report-only).",
            false => "",
        };
        writeln!(
            out,
            "<p>At {} UTC, after {} of operation.{mode}</p>",
            utc(now),
            span(self.uptime)
        )?;
        self.write_hosts(out, &hosts, now)?;
        self.write_verdicts(out)?;
        self.write_refusals(out, now)?;
        write_links(out, &hosts)?;
        // The refresh is requested by a header and not by a `meta` tag, so that a reader can stop the refresh.
        out.push_str(match self.refreshes {
            true => "<p><a href=\"?still\">Stop the refresh every 30 seconds</a></p>\n",
            false => "<p><a href=\"?\">Refresh every 30 seconds</a></p>\n",
        });
        out.push_str("</main>\n</body>\n</html>\n");
        Ok(())
    }

    fn problems(&self, hosts: &[HostHealth], now: SystemTime) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.list.is_ready() {
            problems
                .push("Not ready: no address is admitted yet, so callbacks get 503.".to_owned());
        }
        for entry in self.entries() {
            if let Event::RefusedThenListed { peer, host, .. } = &entry.event
                && age(entry, now).is_some_and(|age| age < A_DAY)
            {
                let peer = peer.map_or_else(|| "a peer".to_owned(), |peer| peer.to_string());
                problems.push(format!(
                    "{peer}, a server of {host}, was refused before an answer named it."
                ));
            }
        }
        for host in hosts {
            for family in &host.families {
                let state = match family.state {
                    QuestionStatus::Failing | QuestionStatus::Expired => "fail",
                    QuestionStatus::GivenUp => "have failed for the whole stale window",
                    _ => continue,
                };
                let cause = family.last_error.as_ref().map(ToString::to_string);
                problems.push(format!(
                    "Lookups of {} {} {state}: {}.",
                    host.host,
                    family.family,
                    cause.unwrap_or_else(|| "no answer".to_owned())
                ));
            }
        }
        problems.extend(self.targets.iter().filter_map(TargetStatus::problem));
        for (dropped, what) in [
            (self.log_lines_dropped, "log lines"),
            (self.journal_events_dropped, "events of the journal"),
        ] {
            if dropped > 0 {
                problems.push(format!("{dropped} {what} were dropped."));
            }
        }
        problems
    }

    fn write_hosts(&self, out: &mut String, hosts: &[HostHealth], now: SystemTime) -> fmt::Result {
        open_table(
            out,
            "Hosts",
            &[
                "Host",
                "Type",
                "State",
                "Answered",
                "Due",
                "Addresses",
                "Last change",
            ],
        )?;
        let instant = Instant::now().into_std();
        for host in hosts {
            let changed = self.last_change(host.host.as_str());
            let changed = changed.map_or_else(|| "–".to_owned(), |entry| when(&entry.at, now));
            let asked = host.families.iter();
            for family in asked.filter(|family| family.state != QuestionStatus::NotAsked) {
                let (answered, due) = ages(family, instant);
                let addresses = host
                    .addresses
                    .iter()
                    .filter(|address| is_of(family, **address));
                let addresses = addresses.map(|address| {
                    let lingers = !family.addresses.contains(address);
                    format!("{address}{}", if lingers { " (lingers)" } else { "" })
                });
                let addresses: Vec<_> = addresses.collect();
                writeln!(
                    out,
                    "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{answered}</td><td>{due}</td>\
                     <td>{}</td><td>{changed}</td></tr>",
                    escaped(host.host.as_str()),
                    family.family,
                    family.state.as_str(),
                    match addresses.is_empty() {
                        true => "–".to_owned(),
                        false => addresses.join("<br>"),
                    },
                )?;
            }
        }
        for network in self.list.snapshot().networks() {
            writeln!(
                out,
                "<tr><th scope=\"row\">{network}</th><td>–</td><td>static</td><td>–</td><td>–</td>\
                 <td>{network}</td><td>–</td></tr>"
            )?;
        }
        close_table(out);
        Ok(())
    }

    fn write_verdicts(&self, out: &mut String) -> fmt::Result {
        open_table(out, "Verdicts since the start", &["Verdict", "Number"])?;
        for (verdict, number) in self.counts.all() {
            writeln!(
                out,
                "<tr><th scope=\"row\">{verdict}</th><td>{number}</td></tr>"
            )?;
        }
        close_table(out);
        Ok(())
    }

    fn write_refusals(&self, out: &mut String, now: SystemTime) -> fmt::Result {
        if self.events.is_none() {
            out.push_str(
                "<h2>Last refusals</h2>\n<p>Start <code>serve</code> with <code>--journal</code> to see them \
                 here.</p>\n",
            );
            return Ok(());
        }
        open_table(
            out,
            "Last refusals",
            &["Peer", "Reason", "Times", "Last", "Hint"],
        )?;
        let refused = self.entries().rev().filter_map(|entry| match &entry.event {
            Event::Refused {
                peer: Some(peer),
                reason,
                count,
                last,
                ..
            } => Some((*peer, reason, count, last)),
            _ => None,
        });
        for (peer, reason, count, last) in refused.take(MAX_REFUSALS) {
            let (class, hint) = self.hint(peer, reason);
            writeln!(
                out,
                "<tr{class}><th scope=\"row\">{peer}</th><td>{}</td><td>{count}</td><td>{}</td><td>{}</td></tr>",
                escaped(reason),
                when(last, now),
                escaped(&hint),
            )?;
        }
        close_table(out);
        Ok(())
    }

    /// Returns the class attribute of the row, and the probable cause of the refusal.
    fn hint(&self, peer: IpAddr, reason: &str) -> (&'static str, String) {
        if let Some(allowed) = self.list.verdict(peer).allowed() {
            let by = allowed
                .host()
                .map(|host| format!(" by {host}"))
                .unwrap_or_default();
            return (
                " class=\"problem\"",
                format!("listed now{by}: it was refused before"),
            );
        }
        let hint = match reason {
            "not-listed" if is_private(peer) => {
                "an address of your own network: a proxy that is not trusted?"
            }
            "not-listed" => "no server of these hosts",
            "wrong-environment" => "a server of another environment of the provider",
            "unresolved" => "undecided: lookups had not been answered",
            "no-peer" => "the connection has no address: see the log",
            _ => "the trusted proxy does not name the client: check its configuration",
        };
        ("", hint.to_owned())
    }

    fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.events.iter().flatten()
    }

    fn last_change(&self, name: &str) -> Option<&Entry> {
        self.entries().rev().find(|entry| match &entry.event {
            Event::Added { host, .. }
            | Event::Left { host, .. }
            | Event::Returned { host, .. }
            | Event::Removed { host, .. } => host == name,
            _ => false,
        })
    }
}

fn write_links(out: &mut String, hosts: &[HostHealth]) -> fmt::Result {
    for (environment, page) in [
        (Environment::Production, "https://vipps.statuspage.io"),
        (Environment::Test, "https://vipps-test.statuspage.io"),
    ] {
        let mut names = environment.hosts();
        if names.any(|name| hosts.iter().any(|host| host.host == name)) {
            writeln!(
                out,
                "<p>Status of the provider: <a href=\"{page}\">{page}</a></p>"
            )?;
        }
    }
    Ok(())
}

fn open_table(out: &mut String, title: &str, columns: &[&str]) -> fmt::Result {
    // On narrow screens, the table can be scrolled, also with the keyboard.
    write!(
        out,
        "<h2>{title}</h2>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{title}\">\n\
         <table>\n<thead><tr>"
    )?;
    for column in columns {
        write!(out, "<th scope=\"col\">{column}</th>")?;
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    Ok(())
}

fn close_table(out: &mut String) {
    out.push_str("</tbody>\n</table>\n</div>\n");
}

/// Returns the age of the answer, and the time until the end of its TTL.
fn ages(family: &FamilyHealth, now: std::time::Instant) -> (String, String) {
    let Some(at) = family.answered_at else {
        return ("–".to_owned(), "–".to_owned());
    };
    let age = now.saturating_duration_since(at);
    let left = family.ttl.map(|ttl| ttl.saturating_sub(age));
    let due = left.map_or_else(|| "–".to_owned(), |left| format!("in {}", span(left)));
    (format!("{} ago", span(age)), due)
}

fn is_of(family: &FamilyHealth, address: IpAddr) -> bool {
    callback_source::Family::from_ip(address) == family.family
}

fn is_private(peer: IpAddr) -> bool {
    match peer.to_canonical() {
        IpAddr::V4(peer) => peer.is_private() || peer.is_loopback() || peer.is_link_local(),
        IpAddr::V6(peer) => {
            peer.is_loopback() || peer.is_unique_local() || peer.is_unicast_link_local()
        }
    }
}

fn age(entry: &Entry, now: SystemTime) -> Option<Duration> {
    Some(now.duration_since(entry.time()?).unwrap_or_default())
}

/// Formats a time of the journal, with its age.
fn when(at: &str, now: SystemTime) -> String {
    let Ok(time) = humantime::parse_rfc3339(at) else {
        return "–".to_owned();
    };
    let age = now.duration_since(time).unwrap_or_default();
    format!("{} UTC ({} ago)", utc(time), span(age))
}

fn utc(at: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(at).to_string();
    text.replace('T', " ").trim_end_matches('Z').to_owned()
}

/// Formats a duration in its two largest units.
fn span(time: Duration) -> String {
    let text = humantime::format_duration(Duration::from_secs(time.as_secs())).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            char => escaped.push(char),
        }
    }
    escaped
}

/// Header that makes a browser load the page again.
pub(super) const REFRESH: (&str, &str) = ("refresh", "30");

/// Content-Security-Policy of the page. Nothing is loaded, and no script runs.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; \
                                 form-action 'none'; frame-ancestors 'none'";

const HEAD: &str = "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
                    <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
                    <link rel=\"icon\" href=\"data:,\">\n";

const STYLE: &str = "<style>
:root { color-scheme: light dark; --text: #1b1b1b; --back: #fff; --line: #bbb; --well: #0a5c2b; --bad: #a4161a; --link: #0a4ea3 }
@media (prefers-color-scheme: dark) {
  :root { --text: #e8e8e8; --back: #16181a; --line: #555; --well: #7ddf9f; --bad: #ff9a95; --link: #8fc1ff }
}
body { font: 1rem/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); margin: 1rem auto; max-width: 70rem; padding: 0 1rem }
h1.well { color: var(--well) } .problem, .problem th, .problem td { color: var(--bad) } a { color: var(--link) }
.scroll { overflow-x: auto } .scroll:focus-visible { outline: 2px solid var(--link) }
table { border-collapse: collapse; min-width: 100% } th, td { white-space: nowrap; text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line) }
tbody th { font-weight: normal }
</style>\n";

const MAX_REFUSALS: usize = 20;
const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    fn page(list: &AllowList, events: Option<Vec<Entry>>) -> String {
        let counts = VerdictCounts::default();
        let page = Page {
            list,
            counts: &counts,
            report_only: false,
            refreshes: true,
            uptime: Duration::from_secs(90_061),
            log_lines_dropped: 0,
            journal_events_dropped: 0,
            targets: Vec::new(),
            events,
        };
        page.html()
    }

    #[test]
    fn the_first_line_says_whether_all_is_well() {
        let list = AllowList::fixed(["192.0.2.1".parse().unwrap()]);
        let html = page(&list, None);
        assert!(
            html.contains("<h1 class=\"well\">All is well</h1>"),
            "{html}"
        );
        assert!(html.contains("after 1day 1h of operation"), "{html}");
        let html = page(&AllowList::fixed([]), None);
        assert!(
            html.contains("<h1 class=\"problem\">One problem</h1>"),
            "{html}"
        );
    }

    #[test]
    fn a_refused_server_of_the_provider_is_a_problem_and_its_refusal_is_marked() {
        let list = AllowList::fixed(["192.0.2.1".parse().unwrap()]);
        let at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        let refused = Event::Refused {
            peer: Some(peer),
            reason: "not-listed<".to_owned(),
            count: 3,
            first: at.clone(),
            last: at.clone(),
        };
        let listed = Event::RefusedThenListed {
            peer: Some(peer),
            host: "a.example".to_owned(),
            refusals: 3,
            last_refused: at.clone(),
        };
        let entries = [refused, listed]
            .into_iter()
            .zip(1..)
            .map(|(event, id)| Entry {
                id,
                at: at.clone(),
                event,
            });
        let html = page(&list, Some(entries.collect()));
        assert!(
            html.contains("192.0.2.1, a server of a.example, was refused"),
            "{html}"
        );
        assert!(
            html.contains("<tr class=\"problem\"><th scope=\"row\">192.0.2.1</th>"),
            "{html}"
        );
        assert!(html.contains("<td>not-listed&lt;</td><td>3</td>"), "{html}");
    }
}
