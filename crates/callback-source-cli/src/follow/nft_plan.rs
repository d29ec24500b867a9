//! Difference between a set and the goal.

use std::{collections::BTreeSet, time::Instant};

use callback_source::Family;
use serde_json::Value;

use super::{
    goal::{Carried, Goal, Plain, TimeOut},
    nft_script::Written,
    nft_state::{Element, SetState, Span},
    target::{Change, TargetError},
};

/// Elements to write and to remove.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    pub(super) write: Vec<Written>,
    pub(super) remove: Vec<Value>,
    /// Elements that are removed first, because a member of the goal overlaps them.
    pub(super) remove_first: Vec<Value>,
    pub(super) change: Change,
    /// A problem that does not prevent the writes of other elements.
    pub(super) problem: Option<TargetError>,
}

impl Plan {
    /// Computes the difference between a set and the goal at a given time.
    ///
    /// Elements of other programs are never changed. A member that such an element already admits is left out.
    pub(super) fn new(
        state: &SetState,
        goal: &Goal,
        carried: &mut Carried,
        family: Family,
        now: Instant,
    ) -> Self {
        let mut plan = Self::default();
        let ours = || state.elements.iter().filter(|element| element.is_ours);
        let others = || state.elements.iter().filter(|element| !element.is_ours);
        let found: BTreeSet<_> = ours().filter_map(Element::network).collect();
        let kept = carried.keep(&found, goal, now, None);
        let mut wanted = kept.clone();
        let mut spans = Vec::new();
        for (network, until) in goal.members() {
            if Family::from_ip(network.addr()) != family {
                continue;
            }
            let Some(time_out) = TimeOut::new(*until, now) else {
                continue;
            };
            let span = Span::from(*network);
            let of_others = others().filter_map(|element| element.span);
            if let Some(other) = of_others.into_iter().find(|other| other.overlaps(span)) {
                if !other.contains(span) {
                    let problem = format!("an element of another program is part of `{network}`");
                    let hint = "remove that element, so that the network can be added";
                    plan.problem = Some(TargetError::new(problem).with_hint(hint));
                }
                continue;
            }
            spans.push(span);
            wanted.insert(*network);
            let current = state.find(*network);
            let is_current = current
                .and_then(|element| element.expires)
                .is_some_and(|expires| !time_out.differs_from(expires));
            if !is_current {
                plan.write.push(Written {
                    network: *network,
                    seconds: time_out.seconds,
                    current: current.map(|element| element.value.clone()),
                });
            }
        }
        for element in ours() {
            let network = element.network();
            let is_wanted = network.is_some_and(|network| wanted.contains(&network));
            let is_in_the_way = element.span.is_some_and(|found| {
                let mut spans = spans.iter();
                spans.any(|span| *span != found && span.overlaps(found))
            });
            // A permanent element from an earlier process never expires, so it is removed even while a host is
            // unresolved.
            let is_carried = network.is_some_and(|network| kept.contains(&network));
            let is_endless = is_carried && element.expires.is_none();
            if is_in_the_way {
                plan.remove_first.push(element.value.clone());
            } else if !is_wanted || is_endless {
                plan.remove.push(element.value.clone());
            }
        }
        let permanent = state.permanent();
        if !permanent.is_empty() {
            let elements: Vec<_> = permanent.iter().map(Value::to_string).collect();
            let elements = elements.join(", ");
            let problem = format!("elements without a timeout were removed: {elements}");
            let hint =
                "check which program has changed them; the follower never writes such elements";
            plan.problem = Some(TargetError::new(problem).with_hint(hint));
        }
        plan.change = Change {
            added: wanted.difference(&found).copied().map(Plain).collect(),
            removed: found.difference(&wanted).copied().map(Plain).collect(),
            members: wanted.len(),
            rewritten: false,
        };
        plan
    }

    pub(super) fn is_empty(&self) -> bool {
        self.write.is_empty() && self.remove.is_empty() && self.remove_first.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::follow::{
        nft_state::parse,
        testing::{goal, net, now},
    };

    fn state(elements: &str) -> SetState {
        let text = format!(
            r#"{{"nftables": [{{"set": {{"name": "s", "type": "ipv4_addr", "flags": ["interval", "timeout"],
                "elem": [{elements}]}}}}]}}"#
        );
        let mut sets = parse(text.as_bytes()).unwrap();
        sets.remove("s").unwrap()
    }

    fn ours(address: &str, expires: u64) -> String {
        format!(
            r#"{{"elem": {{"val": "{address}", "timeout": 100000, "expires": {expires},
                "comment": "callback-source"}}}}"#
        )
    }

    fn plan(elements: &[String], members: &[(&str, u64)]) -> Plan {
        let now = now();
        let goal = goal(members, true, now);
        let state = state(&elements.join(","));
        Plan::new(&state, &goal, &mut Carried::default(), Family::V4, now)
    }

    fn written(plan: &Plan) -> Vec<(String, u64)> {
        let written = plan.write.iter();
        written
            .map(|written| (written.network.to_string(), written.seconds))
            .collect()
    }

    #[test]
    fn an_element_is_written_renewed_or_removed_only_if_it_differs() {
        let current = [
            ours("192.0.2.1", 99),
            ours("192.0.2.2", 30),
            ours("192.0.2.3", 9),
        ];
        let members = [
            ("192.0.2.1", 99_500),
            ("192.0.2.2", 90_100),
            ("192.0.2.4", 1),
        ];
        let plan = plan(&current, &members);
        assert_eq!(
            written(&plan),
            [
                ("192.0.2.2/32".to_owned(), 91),
                ("192.0.2.4/32".to_owned(), 1)
            ]
        );
        assert!(plan.write[0].current.is_some() && plan.write[1].current.is_none());
        assert_eq!(plan.remove, [Value::from("192.0.2.3")]);
        assert_eq!(plan.change.added, [Plain(net("192.0.2.4"))]);
        assert_eq!(plan.change.removed, [Plain(net("192.0.2.3"))]);
        assert!(plan.problem.is_none() && plan.remove_first.is_empty());
        let plan = self::plan(&current[..1], &members[..1]);
        assert!(plan.is_empty() && plan.change.is_none());
    }

    #[test]
    fn an_element_that_would_outlive_its_window_is_shortened() {
        let plan = plan(&[ours("192.0.2.1", 86_400)], &[("192.0.2.1", 3_600_000)]);
        assert_eq!(written(&plan), [("192.0.2.1/32".to_owned(), 3_600)]);
        assert!(plan.change.is_none());
    }

    #[test]
    fn elements_of_others_are_left_alone() {
        let others = [
            r#""192.0.2.1""#.to_owned(),
            r#"{"elem": {"val": "192.0.2.2", "timeout": 9, "expires": 5}}"#.to_owned(),
            r#"{"elem": {"val": "192.0.2.3", "comment": "callback-source by hand"}}"#.to_owned(),
            r#"{"prefix": {"addr": "10.0.0.0", "len": 8}}"#.to_owned(),
            r#"{"concat": ["192.0.2.7", 443]}"#.to_owned(),
        ];
        let members = [
            ("192.0.2.1", 9_000),
            ("192.0.2.2", 9_000),
            ("10.1.0.0/16", 9_000),
        ];
        for members in [&members[..], &[]] {
            let plan = plan(&others, members);
            assert!(plan.is_empty(), "{plan:?}");
            assert!(plan.problem.is_none());
        }
        let plan = plan(&others, &[("192.0.2.0/24", 9_000), ("192.0.3.1", 9_000)]);
        assert_eq!(written(&plan), [("192.0.3.1/32".to_owned(), 9)]);
        assert!(plan.problem.unwrap().problem.contains("192.0.2.0/24"));
    }

    #[test]
    fn an_element_of_ours_without_an_end_is_replaced_or_removed_and_an_error() {
        let permanent = |address: &str| {
            format!(r#"{{"elem": {{"val": "{address}", "comment": "callback-source"}}}}"#)
        };
        let current = [permanent("192.0.2.1"), permanent("192.0.2.2")];
        let plan = plan(&current, &[("192.0.2.1", 9_000)]);
        assert_eq!(written(&plan), [("192.0.2.1/32".to_owned(), 9)]);
        assert!(plan.write[0].current.is_some());
        assert_eq!(plan.remove, [Value::from("192.0.2.2")]);
        assert!(plan.problem.unwrap().problem.contains("192.0.2.2"));

        // The permanent element is removed even while a host is unresolved.
        let now = now();
        let goal = goal(&[], false, now);
        let state = state(&permanent("192.0.2.2"));
        let plan = Plan::new(&state, &goal, &mut Carried::default(), Family::V4, now);
        assert_eq!(plan.remove, [Value::from("192.0.2.2")]);
    }

    #[test]
    fn an_undecided_set_only_adds_elements_and_those_from_before_run_out() {
        let now = now();
        let goal = goal(&[("192.0.2.1", 9_000)], false, now);
        let state = state(&[ours("192.0.2.2", 5)].join(","));
        let plan = Plan::new(&state, &goal, &mut Carried::default(), Family::V4, now);
        assert_eq!(written(&plan), [("192.0.2.1/32".to_owned(), 9)]);
        assert!(plan.remove.is_empty());
        assert_eq!(plan.change.members, 2);
    }

    #[test]
    fn a_network_takes_the_place_of_its_addresses() {
        let current = [ours("192.0.2.1", 9), ours("192.0.3.1", 9)];
        let plan = plan(&current, &[("192.0.2.0/24", 9_000)]);
        assert_eq!(plan.remove_first, [Value::from("192.0.2.1")]);
        assert_eq!(plan.remove, [Value::from("192.0.3.1")]);
        assert_eq!(written(&plan), [("192.0.2.0/24".to_owned(), 9)]);
    }
}
