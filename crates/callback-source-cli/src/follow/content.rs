//! Content of file targets, and the trait of their formats.

use std::{collections::BTreeSet, fmt::Write};

use ipnet::IpNet;

use super::goal::network;

/// Writer of a format.
pub(super) trait Format: Send + Sync {
    /// The whole text of a file.
    fn write(&self, content: &Content) -> String;

    /// Returns the reason why the format cannot express a network.
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
    /// `None` if there are only static networks.
    pub(super) good_until: Option<String>,
}

impl Times {
    /// The times in the header of a file.
    pub(super) fn in_text(text: &str) -> Option<Self> {
        let mut times = words(text).filter(|word| humantime::parse_rfc3339(word).is_ok());
        Some(Self {
            made_at: times.next()?.to_owned(),
            good_until: times.next().map(str::to_owned),
        })
    }
}

impl Content {
    /// The header as comments that begin with `#`.
    pub(super) fn header(&self) -> String {
        let hosts = match self.hosts.is_empty() {
            true => "no host".to_owned(),
            false => self.hosts.join(", "),
        };
        let mut text = format!("# {MADE_BY} from: {hosts}\n");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# Made at: {}", self.times.made_at);
        if let Some(good_until) = &self.times.good_until {
            let _ = writeln!(text, "# Good until: {good_until}, and renewed before");
        }
        text
    }

    /// The members with their prefix lengths, one line each.
    pub(super) fn lines(&self, line: impl Fn(IpNet) -> String) -> String {
        self.members
            .iter()
            .map(|network| line(*network) + "\n")
            .collect()
    }
}

/// Addresses and networks in a text of any format.
///
/// Comments are skipped: they contain host names and times only, but another program may have written more.
pub(super) fn members(text: &str) -> BTreeSet<IpNet> {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let found = lines.flat_map(words).filter_map(network);
    found.filter(|network| *network != nothing()).collect()
}

/// Returns whether a file may be replaced: it is one of ours, it has no content, or it is a plain list.
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

/// An address that no packet comes from, for formats without an empty list.
fn nothing() -> IpNet {
    IpNet::from(std::net::IpAddr::from([255, 255, 255, 255]))
}

/// The members, or [`nothing`].
pub(super) fn at_least_nothing(members: &BTreeSet<IpNet>) -> BTreeSet<IpNet> {
    match members.is_empty() {
        true => [nothing()].into(),
        false => members.clone(),
    }
}

pub(super) const MADE_BY: &str = "Made by callback-source";
