//! `kubernetes-networkpolicy`: a NetworkPolicy for `kubectl apply`.

use super::content::{Content, Format};

pub(super) struct NetworkPolicy;

impl Format for NetworkPolicy {
    fn write(&self, content: &Content) -> String {
        let mut text = content.header() + BEGIN;
        if content.members.is_empty() {
            // A missing list would have the same meaning, but a reader could think that it means "everything".
            text.push_str("  ingress: []\n");
            return text;
        }
        text.push_str("  ingress:\n    - from:\n");
        for network in &content.members {
            text.push_str(&format!(
                "        - ipBlock:\n            cidr: {network}\n"
            ));
        }
        text
    }
}

const BEGIN: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: callback-source
spec:
  podSelector:
    matchLabels:
      callback-source: receiver
  policyTypes:
    - Ingress
";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::follow::{content::Times, testing::nets};

    /// Fields that the policy may have, each with `true` if the test requires it. The fields are from the Kubernetes
    /// API reference of `networking.k8s.io/v1`
    /// (kubernetes.io/docs/reference/kubernetes-api/policy-resources/network-policy-v1). A rule without `from`, or with
    /// an empty `from`, admits every source.
    const SCHEMA: [(&str, bool); 17] = [
        ("apiVersion", true),
        ("kind", true),
        ("metadata", true),
        ("metadata.name", true),
        ("spec", true),
        ("spec.podSelector", true),
        ("spec.podSelector.matchLabels", false),
        ("spec.podSelector.matchLabels.callback-source", false),
        ("spec.policyTypes", false),
        ("spec.policyTypes[]", false),
        ("spec.ingress", false),
        ("spec.ingress[]", false),
        ("spec.ingress[].from", true),
        ("spec.ingress[].from[]", false),
        ("spec.ingress[].from[].ipBlock", true),
        ("spec.ingress[].from[].ipBlock.cidr", true),
        ("spec.ingress[].from[].ipBlock.except", false),
    ];

    /// Returns the paths of the fields and list elements in a text with one field or element per line.
    fn paths(text: &str) -> BTreeSet<String> {
        let mut above: Vec<(usize, String)> = Vec::new();
        let mut paths = BTreeSet::new();
        let mut enter = |indent: usize, name: &str| {
            above.retain(|(depth, _)| *depth < indent);
            let path = match (above.last(), name) {
                (None, _) => name.to_owned(),
                (Some((_, parent)), "[]") => format!("{parent}[]"),
                (Some((_, parent)), _) => format!("{parent}.{name}"),
            };
            paths.insert(path.clone());
            above.push((indent, path));
        };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let mut rest = line.trim_start();
            let mut indent = line.len() - rest.len();
            if let Some(element) = rest.strip_prefix("- ") {
                enter(indent, "[]");
                (rest, indent) = (element, indent + 2);
            }
            if let Some((name, _)) = rest
                .split_once(": ")
                .or_else(|| rest.strip_suffix(':').map(|name| (name, "")))
            {
                enter(indent, name);
            }
        }
        paths
    }

    #[test]
    fn a_policy_has_the_form_of_the_published_schema() {
        let content = |members: &[&str]| Content {
            members: nets(members.iter().copied()),
            hosts: vec!["a.test".to_owned()],
            times: Times {
                made_at: "2026-11-26T22:10:05Z".to_owned(),
                good_until: None,
                kept_until: None,
            },
        };
        let text = NetworkPolicy.write(&content(&["20.0.0.1", "2001:db8::1", "20.1.0.0/16"]));
        let found = paths(&text);
        for path in &found {
            assert!(
                SCHEMA.iter().any(|(known, _)| known == path),
                "{path}: {text}"
            );
        }
        for (path, required) in SCHEMA {
            assert!(!required || found.contains(path), "{path}: {text}");
        }
        let values: Vec<_> = text
            .lines()
            .filter_map(|line| line.split_once("cidr: "))
            .collect();
        assert_eq!(values.len(), 3);
        for (_, cidr) in values {
            assert!(cidr.parse::<ipnet::IpNet>().is_ok(), "{cidr}");
        }

        let text = NetworkPolicy.write(&content(&[]));
        assert!(
            !paths(&text).iter().any(|path| path.contains("from")),
            "{text}"
        );
        assert!(text.ends_with("\n  ingress: []\n"), "{text}");
    }
}
