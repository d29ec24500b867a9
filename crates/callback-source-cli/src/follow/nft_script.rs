//! Commands for `nft -j`.

use ipnet::IpNet;
use serde_json::{Value, json};

use super::nft_state::{COMMENT, SetName};

/// Commands of one transaction.
#[derive(Clone, Debug, Default)]
pub(super) struct Script(Vec<Value>);

impl Script {
    /// Lists the table of a set. nft 1.0.6 does not handle several list commands in one script correctly.
    pub(super) fn list(self, set: &SetName) -> Self {
        let table = json!({ "family": "inet", "name": set.table });
        self.with(json!({ "list": { "table": table } }))
    }

    /// Creates a set and its table, unless they exist.
    pub(super) fn make(self, set: &SetName, intervals: bool) -> Self {
        let flags: &[&str] = match intervals {
            true => &["interval", "timeout"],
            false => &["timeout"],
        };
        let table = json!({ "family": "inet", "name": set.table });
        let mut new = json!({ "type": set.element_type(), "flags": flags });
        set.name_in(&mut new);
        self.with(json!({ "add": { "table": table } }))
            .with(json!({ "add": { "set": new } }))
    }

    /// Removes elements. Each element is added first, because the deletion of an element that has just expired would
    /// be an error.
    pub(super) fn remove(self, set: &SetName, values: &[Value]) -> Self {
        let dying = values.iter().map(|value| element(value, 1));
        self.elements("add", set, dying.collect())
            .elements("delete", set, values.to_vec())
    }

    /// Removes some elements and writes others. Existing elements are deleted and added again, because adding alone
    /// does not renew them.
    pub(super) fn replace(self, set: &SetName, removed: &[Value], written: &[Written]) -> Self {
        let current = |written: &Written| Some((written.current.clone()?, written.seconds));
        let renewed: Vec<_> = written.iter().filter_map(current).collect();
        let first = removed.iter().map(|value| element(value, 1)).chain(
            renewed
                .iter()
                .map(|(value, seconds)| element(value, *seconds)),
        );
        let renewed = renewed.iter().map(|(value, _)| value.clone());
        let deleted = removed.iter().cloned().chain(renewed);
        let added = written
            .iter()
            .map(|written| element(&value(written.network), written.seconds));
        self.elements("add", set, first.collect())
            .elements("delete", set, deleted.collect())
            .elements("add", set, added.collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn text(&self) -> String {
        json!({ "nftables": self.0 }).to_string()
    }

    fn elements(self, command: &str, set: &SetName, elements: Vec<Value>) -> Self {
        if elements.is_empty() {
            return self;
        }
        let mut list = json!({ "elem": elements });
        set.name_in(&mut list);
        self.with(json!({ command: { "element": list } }))
    }

    fn with(mut self, command: Value) -> Self {
        self.0.push(command);
        self
    }
}

/// Element to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) network: IpNet,
    pub(super) seconds: u64,
    /// Existing element for the network as nft's JSON; `None` if the set has no such element.
    pub(super) current: Option<Value>,
}

impl SetName {
    fn name_in(&self, object: &mut Value) {
        object["family"] = "inet".into();
        object["table"] = self.table.clone().into();
        object["name"] = self.set.clone().into();
    }
}

/// Element of the follower as nft's JSON. The timeout is a whole number of seconds, and never zero.
fn element(value: &Value, seconds: u64) -> Value {
    json!({ "elem": { "val": value, "timeout": seconds.max(1), "comment": COMMENT } })
}

fn value(network: IpNet) -> Value {
    match network.prefix_len() == network.max_prefix_len() {
        true => network.addr().to_string().into(),
        false => {
            json!({ "prefix": { "addr": network.network().to_string(), "len": network.prefix_len() } })
        }
    }
}
