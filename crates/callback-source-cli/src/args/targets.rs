//! Targets of `follow` and of `serve --follow`.

use std::{fmt, path::PathBuf};

/// A copy of the set, outside this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The sets `SET` and `SET6` of a table of the family `inet`.
    Nftables {
        table: String,
        set: String,
    },
    /// An ACL of a running HAProxy, by the path of its file.
    #[cfg(unix)]
    Haproxy {
        socket: PathBuf,
        acl: PathBuf,
    },
    File {
        format: FileFormat,
        path: PathBuf,
    },
}

/// Format of a file target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileFormat {
    Plain,
    Json,
    NginxGeo,
    NginxAllow,
    ApacheRewriteMap,
    Caddy,
    Traefik,
    KubernetesNetworkPolicy,
}

impl FileFormat {
    const ALL: [Self; 8] = [
        Self::Plain,
        Self::Json,
        Self::NginxGeo,
        Self::NginxAllow,
        Self::ApacheRewriteMap,
        Self::Caddy,
        Self::Traefik,
        Self::KubernetesNetworkPolicy,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Json => "json",
            Self::NginxGeo => "nginx-geo",
            Self::NginxAllow => "nginx-allow",
            Self::ApacheRewriteMap => "apache-rewritemap",
            Self::Caddy => "caddy",
            Self::Traefik => "traefik",
            Self::KubernetesNetworkPolicy => "kubernetes-networkpolicy",
        }
    }
}

/// Parses a target.
pub(super) fn target(text: &str) -> Result<Target, String> {
    match text.split_once(':') {
        Some(("nftables", set)) => nftables(set).map_err(str::to_owned),
        #[cfg(unix)]
        Some(("haproxy", rest)) => match rest.split_once(':') {
            Some((socket, acl)) if socket.starts_with('/') && acl.starts_with('/') => {
                Ok(Target::Haproxy {
                    socket: socket.into(),
                    acl: acl.into(),
                })
            }
            _ => Err(
                "give the paths of the runtime socket and of the ACL's file, such as \
                 `haproxy:/run/haproxy/admin.sock:/etc/haproxy/callers.acl`"
                    .to_owned(),
            ),
        },
        Some(("file", rest)) => file(rest),
        _ => Err(
            "give a target such as `nftables:inet/TABLE/SET`, `haproxy:SOCKET:ACL` or \
             `file:FORMAT:PATH`"
                .to_owned(),
        ),
    }
}

fn nftables(text: &str) -> Result<Target, &'static str> {
    let parts: Vec<_> = text.split('/').collect();
    match parts[..] {
        ["inet", table, set] if is_identifier(table) && is_identifier(set) => {
            Ok(Target::Nftables {
                table: table.to_owned(),
                set: set.to_owned(),
            })
        }
        _ => Err("give a table of the family `inet` and a set, such as \
             `nftables:inet/callback_source/callers`"),
    }
}

/// An identifier of nft that needs no quotes.
fn is_identifier(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let is_first = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    text.len() <= MAX_IDENTIFIER
        && text.as_bytes().first().is_some_and(is_first)
        && text.bytes().all(is_inner)
}

fn file(text: &str) -> Result<Target, String> {
    let (name, path) = text
        .split_once(':')
        .ok_or("give a format and a path, such as `file:plain:/var/lib/callback-source/callers`")?;
    let format = FileFormat::ALL
        .into_iter()
        .find(|format| format.name() == name)
        .ok_or_else(|| {
            let known: Vec<_> = FileFormat::ALL
                .iter()
                .map(|format| format!("`{}`", format.name()))
                .collect();
            format!(
                "unknown format `{name}`; expected one of {}",
                known.join(", ")
            )
        })?;
    let path = PathBuf::from(path);
    if path.file_name().is_none() || text.ends_with('/') {
        return Err("give the path of a file".to_owned());
    }
    Ok(Target::File { format, path })
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nftables { table, set } => write!(f, "nftables:inet/{table}/{set}"),
            #[cfg(unix)]
            Self::Haproxy { socket, acl } => {
                write!(f, "haproxy:{}:{}", socket.display(), acl.display())
            }
            Self::File { format, path } => write!(f, "file:{}:{}", format.name(), path.display()),
        }
    }
}

/// Older kernels have names of at most 31 characters, and `SET6` has one more.
const MAX_IDENTIFIER: usize = 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_shown_as_it_was_given() {
        for text in [
            "nftables:inet/callback_source/callers",
            "nftables:inet/a-b.c/_d1",
            "haproxy:/run/haproxy/admin.sock:/etc/haproxy/callers.acl",
            "file:plain:callers",
            "file:nginx-geo:/etc/nginx/a:b",
        ] {
            assert_eq!(target(text).unwrap().to_string(), text);
        }
        for format in FileFormat::ALL {
            let text = format!("file:{}:/tmp/a", format.name());
            assert_eq!(target(&text).unwrap().to_string(), text);
        }
    }

    /// Names become part of a ruleset.
    #[test]
    fn a_target_that_could_mean_anything_else_is_an_error() {
        for text in [
            "",
            "callers",
            "nftables:callers",
            "nftables:ip/filter/callers",
            "nftables:inet/filter",
            "nftables:inet/filter/",
            "nftables:inet/filter/1a",
            "nftables:inet/filter/a;flush ruleset",
            "nftables:inet/filter/a b",
            "nftables:inet/filter/a/b",
            "nftables:inet/fil\"ter/a",
            "nftables:inet/filter/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "haproxy:/run/a.sock",
            "haproxy:/run/a.sock:#1",
            "file:/tmp/a",
            "file:yaml:/tmp/a",
            "file:plain:",
            "file:plain:/",
            "file:plain:/tmp/",
            "file:plain:..",
        ] {
            assert!(target(text).is_err(), "{text}");
        }
    }
}
