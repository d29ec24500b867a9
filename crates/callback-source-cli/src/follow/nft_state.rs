//! State of a set, as `nft -j` lists it.

use std::{collections::BTreeMap, net::IpAddr};

use callback_source::Family;
use ipnet::IpNet;
use serde_json::Value;

use super::{goal::network, target::TargetError};

/// Name and type of a set.
#[derive(Clone, Debug)]
pub(super) struct SetName {
    pub(super) table: String,
    pub(super) set: String,
    pub(super) family: Family,
}

/// A set with its elements.
#[derive(Clone, Debug, Default)]
pub(super) struct SetState {
    r#type: Option<String>,
    flags: Vec<String>,
    auto_merge: bool,
    pub(super) elements: Vec<Element>,
}

#[derive(Clone, Debug)]
pub(super) struct Element {
    /// Value as nft's JSON, usually an address, a prefix or a range.
    pub(super) value: Value,
    /// Addresses of the element; `None` if the value is not an address, a prefix or a range.
    pub(super) span: Option<Span>,
    /// Seconds until the element expires, rounded down; `None` if it is permanent.
    pub(super) expires: Option<u64>,
    pub(super) is_ours: bool,
}

/// Range of addresses, from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    first: IpAddr,
    last: IpAddr,
}

impl From<IpNet> for Span {
    fn from(network: IpNet) -> Self {
        Self {
            first: network.network(),
            last: network.broadcast(),
        }
    }
}

impl Span {
    pub(super) fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    pub(super) fn contains(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

impl Element {
    pub(super) fn network(&self) -> Option<IpNet> {
        value_network(&self.value)
    }
}

impl SetState {
    /// Fails if the set exists but cannot contain the follower's elements.
    pub(super) fn check(&self, name: &SetName, intervals: bool) -> Result<(), TargetError> {
        let Some(found) = &self.r#type else {
            // A set that does not exist is created later.
            return Ok(());
        };
        let needed = name.element_type();
        let has = |flag: &str| self.flags.iter().any(|found| found == flag);
        let problem = if found != needed {
            format!("has the type `{found}` in place of `{needed}`")
        } else if !has("timeout") {
            "has no flag `timeout`".to_owned()
        } else if self.auto_merge {
            "has `auto-merge`, which joins elements with different timeouts".to_owned()
        } else if intervals && !has("interval") {
            "has no flag `interval`, which a network of several addresses requires".to_owned()
        } else {
            return Ok(());
        };
        let hint =
            "remove the set, so that it is made anew, or change its definition in your ruleset";
        Err(TargetError::new(format!("the set `{}` {problem}", name.set)).with_hint(hint))
    }

    /// The follower's elements without a timeout.
    pub(super) fn permanent(&self) -> Vec<Value> {
        let elements = self.elements.iter();
        elements
            .filter(|element| element.is_ours && element.expires.is_none())
            .map(|element| element.value.clone())
            .collect()
    }

    /// Returns the element with exactly the addresses of this network.
    pub(super) fn find(&self, network: IpNet) -> Option<&Element> {
        let span = Some(Span::from(network));
        self.elements.iter().find(|element| element.span == span)
    }
}

impl SetName {
    pub(super) fn element_type(&self) -> &'static str {
        match self.family {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        }
    }
}

/// Parses the output of a list command, and returns the sets by name.
pub(super) fn parse(output: &[u8]) -> Result<BTreeMap<String, SetState>, TargetError> {
    let unknown = || TargetError::new("the output of `nft` has an unknown form");
    let output: Value = serde_json::from_slice(output).map_err(|_| unknown())?;
    let objects = output["nftables"].as_array().ok_or_else(unknown)?;
    let sets = objects.iter().filter_map(|object| object.get("set"));
    sets.map(|set| Ok((text(&set["name"]).ok_or_else(unknown)?, state(set))))
        .collect()
}

fn state(set: &Value) -> SetState {
    // nft can list a single flag as a string instead of an array.
    let flags = match &set["flags"] {
        Value::String(flag) => vec![flag.clone()],
        Value::Array(flags) => flags.iter().filter_map(text).collect(),
        _ => Vec::new(),
    };
    let elements = set["elem"].as_array().into_iter().flatten();
    SetState {
        r#type: Some(text(&set["type"]).unwrap_or_else(|| set["type"].to_string())),
        flags,
        auto_merge: set["auto-merge"].as_bool() == Some(true),
        elements: elements.map(element).collect(),
    }
}

fn element(listed: &Value) -> Element {
    // An element with neither a timeout nor a comment is listed as its bare value.
    let Some(element) = listed.get("elem") else {
        return Element {
            span: span(listed),
            value: listed.clone(),
            expires: None,
            is_ours: false,
        };
    };
    let value = element["val"].clone();
    let has_time_out = element["timeout"]
        .as_u64()
        .is_some_and(|timeout| timeout > 0);
    // nft omits `expires` when the remaining time of an element is zero.
    let expires = element["expires"]
        .as_u64()
        .or_else(|| has_time_out.then_some(0));
    Element {
        span: span(&value),
        value,
        expires,
        is_ours: element["comment"].as_str() == Some(COMMENT),
    }
}

fn span(value: &Value) -> Option<Span> {
    if let Some(network) = value_network(value) {
        return Some(network.into());
    }
    let [first, last] = &value.get("range")?.as_array()?[..] else {
        return None;
    };
    Some(Span {
        first: first.as_str()?.parse().ok()?,
        last: last.as_str()?.parse().ok()?,
    })
}

fn value_network(value: &Value) -> Option<IpNet> {
    if let Some(address) = value.as_str() {
        return network(address);
    }
    let prefix = value.get("prefix")?;
    let length = u8::try_from(prefix["len"].as_u64()?).ok()?;
    IpNet::new(prefix["addr"].as_str()?.parse().ok()?, length).ok()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// Comment of the follower's elements.
pub(super) const COMMENT: &str = "callback-source";

#[cfg(test)]
mod tests {
    use super::*;

    /// Output of nft 1.0.6.
    const LISTED: &str = r#"{"nftables": [
        {"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}},
        {"set": {"family": "inet", "name": "s", "table": "t", "type": "ipv4_addr", "handle": 1,
            "flags": ["interval", "timeout"], "elem": [
            {"elem": {"val": {"prefix": {"addr": "10.0.0.0", "len": 8}}, "comment": "x"}},
            {"elem": {"val": "192.0.2.1", "timeout": 100, "expires": 99, "comment": "callback-source"}},
            {"elem": {"val": "192.0.2.2", "timeout": 1, "expires": 0, "comment": "callback-source"}},
            {"elem": {"val": "192.0.2.3", "comment": "callback-source"}},
            {"elem": {"val": "192.0.2.4", "timeout": 50, "expires": 49}},
            {"range": ["11.0.0.1", "11.0.0.5"]},
            "192.0.2.9"]}}]}"#;

    fn name() -> SetName {
        SetName {
            table: "t".to_owned(),
            set: "s".to_owned(),
            family: Family::V4,
        }
    }

    fn only(listed: &str) -> SetState {
        let mut sets = parse(listed.as_bytes()).unwrap();
        sets.remove("s").unwrap()
    }

    #[test]
    fn elements_are_read_with_their_owners_and_ends() {
        let state = only(LISTED);
        let read: Vec<_> = state
            .elements
            .iter()
            .map(|element| (element.expires, element.is_ours))
            .collect();
        assert_eq!(
            read,
            [
                (None, false),
                (Some(99), true),
                (Some(0), true),
                (None, true),
                (Some(49), false),
                (None, false),
                (None, false),
            ]
        );
        assert_eq!(state.permanent(), [Value::from("192.0.2.3")]);
        let range = state.elements[5].span.unwrap();
        assert!(range.overlaps(network("11.0.0.4/30").unwrap().into()));
        assert!(!range.overlaps(network("11.0.0.0").unwrap().into()));
        assert!(state.check(&name(), true).is_ok());
    }

    #[test]
    fn a_set_that_cannot_hold_time_outs_is_an_error() {
        let problem = |from: &str, to: &str| {
            let state = only(&LISTED.replace(from, to));
            state.check(&name(), true).unwrap_err().to_string()
        };
        let flags = "\"flags\": [\"interval\", \"timeout\"]";
        assert!(problem("ipv4_addr", "ipv6_addr").contains("the type `ipv6_addr`"));
        assert!(problem(flags, "\"flags\": \"interval\"").contains("no flag `timeout`"));
        assert!(problem(flags, "\"flags\": [\"timeout\"]").contains("no flag `interval`"));
        let merging = format!("{flags}, \"auto-merge\": true");
        assert!(problem(flags, &merging).contains("auto-merge"));
    }

    #[test]
    fn an_unknown_output_is_an_error() {
        for output in ["", "[]", "{}", r#"{"nftables": [{"set": {}}]}"#] {
            assert!(parse(output.as_bytes()).is_err(), "{output}");
        }
    }
}
