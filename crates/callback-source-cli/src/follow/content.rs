//! Content of file targets, and the trait of their formats.

use std::{collections::BTreeSet, fmt::Write};

use ipnet::IpNet;

use super::goal::network;

/// Writer of a file format.
pub(super) trait Format: Send + Sync {
    /// Returns the whole text of a file.
    fn write(&self, content: &Content) -> String;

    /// Returns the reason why the format cannot express a network, or `None` if it can.
    fn obstacle(&self, _network: IpNet) -> Option<&'static str> {
        None
    }
}

/// Content of a file.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) members: BTreeSet<IpNet>,
    pub(super) hosts: Vec<String>,
    pub(super) times: Times,
}

/// Times in the header of a file, in UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) made_at: String,
    /// Earliest time at which the window of a member ends; `None` if no member has a window.
    pub(super) good_until: Option<String>,
    /// Time until which members from an earlier process are kept; `None` if there are no such members.
    pub(super) kept_until: Option<String>,
}

impl Times {
    /// Reads the times in the header of a file.
    pub(super) fn in_text(text: &str) -> Option<Self> {
        let time = |labels: [&str; 2]| {
            let is_labelled = |line: &&str| labels.iter().any(|label| line.contains(label));
            let mut words = words(text.lines().find(is_labelled)?);
            let time = words.find(|word| humantime::parse_rfc3339(word).is_ok())?;
            Some(time.to_owned())
        };
        Some(Self {
            made_at: time([MADE_AT, "\"made_at\""])?,
            good_until: time([GOOD_UNTIL, "\"good_until\""]),
            kept_until: time([KEPT_UNTIL, "\"kept_until\""]),
        })
    }
}

impl Content {
    /// Returns the header as comment lines that begin with `#`.
    pub(super) fn header(&self) -> String {
        let hosts = match self.hosts.is_empty() {
            true => "no host".to_owned(),
            false => self.hosts.join(", "),
        };
        let mut text = format!("# {MADE_BY} from: {hosts}\n");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{MADE_AT}{}", self.times.made_at);
        if let Some(good_until) = &self.times.good_until {
            let _ = writeln!(text, "{GOOD_UNTIL}{good_until}, and renewed before");
        }
        if let Some(kept_until) = &self.times.kept_until {
            let _ = writeln!(text, "{KEPT_UNTIL}{kept_until}");
        }
        text
    }

    /// Returns one line for each member, formatted by `line`.
    pub(super) fn lines(&self, line: impl Fn(IpNet) -> String) -> String {
        self.members
            .iter()
            .map(|network| line(*network) + "\n")
            .collect()
    }
}

/// Returns the addresses and networks in a text of any format.
///
/// Comments and [`nothing`] are skipped. The follower writes only host names and times into comments, but another
/// program may also write addresses into them.
pub(super) fn members(text: &str) -> BTreeSet<IpNet> {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let found = lines.flat_map(words).filter_map(network);
    found.filter(|network| *network != nothing()).collect()
}

/// Returns whether a file may be replaced: a follower wrote it, or it contains only addresses, networks and comments.
pub(super) fn is_replaceable(text: &str) -> bool {
    let is_address = |line: &str| network(line.trim()).is_some();
    text.contains(MADE_BY)
        || text
            .lines()
            .filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
            .all(is_address)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|char: char| char.is_whitespace() || matches!(char, '"' | ',' | ';' | '[' | ']'))
        .filter(|word| !word.is_empty())
}

/// Address from which no packet comes. It represents the empty list in formats that cannot express an empty list.
fn nothing() -> IpNet {
    IpNet::from(std::net::IpAddr::from([255, 255, 255, 255]))
}

/// Returns the members, or [`nothing`] if there are none.
pub(super) fn at_least_nothing(members: &BTreeSet<IpNet>) -> BTreeSet<IpNet> {
    match members.is_empty() {
        true => [nothing()].into(),
        false => members.clone(),
    }
}

pub(super) const MADE_BY: &str = "Made by callback-source";
const MADE_AT: &str = "# Made at: ";
const GOOD_UNTIL: &str = "# Good until: ";
const KEPT_UNTIL: &str = "# Addresses from before, while a host is not resolved, until: ";
