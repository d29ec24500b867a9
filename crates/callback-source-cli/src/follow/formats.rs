//! Formats of file targets, with one small writer for each format.

use super::{
    apache::RewriteMap,
    caddy::Caddy,
    content::Format,
    json::Json,
    kubernetes::NetworkPolicy,
    nginx::{Allow, Geo},
    plain::Plain,
    traefik::Traefik,
};
use crate::args::FileFormat;

/// Returns the writer of a format.
pub(super) fn writer(format: FileFormat) -> &'static dyn Format {
    match format {
        FileFormat::Plain => &Plain,
        FileFormat::Json => &Json,
        FileFormat::NginxGeo => &Geo,
        FileFormat::NginxAllow => &Allow,
        FileFormat::ApacheRewriteMap => &RewriteMap,
        FileFormat::Caddy => &Caddy,
        FileFormat::Traefik => &Traefik,
        FileFormat::KubernetesNetworkPolicy => &NetworkPolicy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::follow::{
        content::{Content, Times, is_replaceable, members},
        testing::nets,
    };

    const ALL: [FileFormat; 8] = [
        FileFormat::Plain,
        FileFormat::Json,
        FileFormat::NginxGeo,
        FileFormat::NginxAllow,
        FileFormat::ApacheRewriteMap,
        FileFormat::Caddy,
        FileFormat::Traefik,
        FileFormat::KubernetesNetworkPolicy,
    ];

    fn content<'a>(members: impl IntoIterator<Item = &'a str>) -> Content {
        Content {
            members: nets(members),
            hosts: vec!["a.test".to_owned(), "b.test".to_owned()],
            times: Times {
                made_at: "2026-11-26T22:10:05Z".to_owned(),
                good_until: Some("2026-11-27T22:10:05Z".to_owned()),
                kept_until: None,
            },
        }
    }

    fn text(format: FileFormat) -> String {
        let members = ["20.0.0.1", "2001:db8::1", "20.1.0.0/16"];
        // A network of several addresses cannot be a key of an Apache map.
        let count = if format == FileFormat::ApacheRewriteMap {
            2
        } else {
            3
        };
        writer(format).write(&content(members.into_iter().take(count)))
    }

    #[test]
    fn each_format_keeps_members_and_times() {
        for format in ALL {
            let writer = writer(format);
            let members: &[_] = match format {
                FileFormat::ApacheRewriteMap => &["20.0.0.1", "2001:db8::1"],
                _ => &["20.0.0.1", "2001:db8::1", "20.1.0.0/16"],
            };
            for members in [&[][..], members] {
                let mut content = content(members.iter().copied());
                let text = writer.write(&content);
                assert_eq!(self::members(&text), content.members, "{text}");
                assert_eq!(Times::in_text(&text), Some(content.times.clone()), "{text}");
                assert!(is_replaceable(&text) && text.ends_with('\n'), "{text}");
                content.times.good_until = None;
                content.times.kept_until = Some("2026-11-28T22:10:05Z".to_owned());
                let text = writer.write(&content);
                assert_eq!(self::members(&text), content.members, "{text}");
                assert_eq!(Times::in_text(&text), Some(content.times), "{text}");
            }
        }
    }

    #[test]
    fn a_file_begins_with_its_hosts_and_times() {
        for format in ALL {
            let text = text(format);
            let lines: Vec<_> = text.lines().collect();
            if format == FileFormat::Json {
                assert!(
                    text.contains("\"made_by\": \"Made by callback-source\""),
                    "{text}"
                );
                continue;
            }
            assert_eq!(lines[0], "# Made by callback-source from: a.test, b.test");
            assert_eq!(lines[1], "# Made at: 2026-11-26T22:10:05Z");
            assert_eq!(
                lines[2],
                "# Good until: 2026-11-27T22:10:05Z, and renewed before"
            );
        }
    }

    #[test]
    fn each_format_is_written_as_its_server_reads_it() {
        let body = |format| {
            let text = text(format);
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines.map(|line| line.to_owned() + "\n").collect::<String>()
        };
        assert_eq!(
            body(FileFormat::Plain),
            "20.0.0.1\n20.1.0.0/16\n2001:db8::1\n"
        );
        assert_eq!(
            body(FileFormat::NginxGeo),
            "20.0.0.1 1;\n20.1.0.0/16 1;\n2001:db8::1 1;\n"
        );
        assert_eq!(
            body(FileFormat::NginxAllow),
            "allow 20.0.0.1;\nallow 20.1.0.0/16;\nallow 2001:db8::1;\ndeny all;\n"
        );
        assert_eq!(
            body(FileFormat::ApacheRewriteMap),
            "20.0.0.1 allow\n2001:db8::1 allow\n"
        );
        assert_eq!(
            body(FileFormat::Caddy),
            "@callback_source remote_ip 20.0.0.1 20.1.0.0/16 2001:db8::1\n"
        );
        assert_eq!(
            body(FileFormat::Traefik),
            "http:\n  middlewares:\n    callback-source:\n      ipAllowList:\n        sourceRange:\n          \
             - \"20.0.0.1/32\"\n          - \"20.1.0.0/16\"\n          - \"2001:db8::1/128\"\n"
        );
        let policy = body(FileFormat::KubernetesNetworkPolicy);
        assert!(
            policy.contains("        - ipBlock:\n            cidr: 2001:db8::1/128\n"),
            "{policy}"
        );
    }

    #[test]
    fn an_empty_set_admits_no_address_in_any_format() {
        let empty = |format| writer(format).write(&content([]));
        assert!(empty(FileFormat::NginxAllow).ends_with("\ndeny all;\n"));
        assert!(
            empty(FileFormat::Caddy).ends_with("\n@callback_source remote_ip 255.255.255.255\n")
        );
        assert!(empty(FileFormat::Traefik).ends_with("- \"255.255.255.255/32\"\n"));
        assert!(empty(FileFormat::KubernetesNetworkPolicy).ends_with("\n  ingress: []\n"));
    }

    #[test]
    fn a_file_of_another_program_is_not_replaced() {
        for (text, replaceable) in [
            ("", true),
            ("\n# Callers\n", true),
            ("20.0.0.1\n20.1.0.0/16\n", true),
            ("user www-data;\n", false),
            ("20.0.0.1 allow\n", false),
            ("root:x:0:0:root:/root:/bin/sh\n", false),
        ] {
            assert_eq!(is_replaceable(text), replaceable, "{text:?}");
        }
    }

    #[test]
    fn a_host_name_is_not_read_as_an_address() {
        let text = "# 20.0.0.9\n{\"made_from\": [\"x1.2.3.4x.test\"]}\n20.0.0.1 1;";
        assert_eq!(members(text), nets(["20.0.0.1"]));
    }
}
