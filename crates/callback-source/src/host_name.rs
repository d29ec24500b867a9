//! A host name that is fit to be asked for.

use std::{fmt, str::FromStr};

use smol_str::SmolStr;

/// A fully qualified host name of a callback server, such as `callback-1.vipps.no`.
///
/// Kept in lower case and without the trailing dot; it is always asked for as an absolute name, so
/// no search list can turn it into something else. Cloning allocates nothing.
///
/// ```
/// use callback_source::HostName;
///
/// let host: HostName = "Callback-1.Vipps.NO.".parse()?;
/// assert_eq!(host.as_str(), "callback-1.vipps.no");
/// assert!("192.0.2.1".parse::<HostName>().is_err());
/// # Ok::<_, callback_source::HostNameError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(SmolStr);

impl HostName {
    /// The name in lower case, without the trailing dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether two names stand in one zone, so that what becomes of one says something about the
    /// other: they share the parent domain, and it is not a public suffix.
    pub(crate) fn is_of_same_zone(&self, other: &Self) -> bool {
        let zone = self.zone();
        zone.is_some() && zone == other.zone()
    }

    /// The parent domain, unless everyone can register names in it: a top-level domain, or a generic
    /// second level of a country such as `co.uk`.
    fn zone(&self) -> Option<&str> {
        let (_, parent) = self.0.split_once('.')?;
        let (second, top) = parent.split_once('.')?;
        let public = top.len() == 2 && PUBLIC_SECOND_LEVELS.contains(&second);
        (!public).then_some(parent)
    }
}

impl FromStr for HostName {
    type Err = HostNameError;

    /// Parses a name by the rules for host names (RFC 952, RFC 1123 section 2.1; underscores are
    /// let through, since they occur in practice).
    ///
    /// # Errors
    ///
    /// A name that is empty, too long, not ASCII, an IP address, of a single label, or below
    /// `localhost`.
    fn from_str(text: &str) -> Result<Self, HostNameError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        match problem(name) {
            None => Ok(Self(name.to_ascii_lowercase().into())),
            Some(problem) => Err(HostNameError {
                name: text.chars().take(MAX_SHOWN).collect(),
                problem,
            }),
        }
    }
}

impl TryFrom<&str> for HostName {
    type Error = HostNameError;

    fn try_from(text: &str) -> Result<Self, HostNameError> {
        text.parse()
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// A text that is no [`HostName`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no host name: {problem}", name.escape_default())]
pub struct HostNameError {
    name: String,
    problem: &'static str,
}

fn problem(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("it is empty");
    }
    if !name.is_ascii() {
        return Some("it is not ASCII; write it in its `xn--` form");
    }
    if name.len() > MAX_NAME {
        return Some("it is longer than 253 characters");
    }
    if name.contains(':') || name.parse::<std::net::Ipv4Addr>().is_ok() {
        return Some("it is an address; give addresses as a static network");
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Some("it has an empty label");
        }
        if label.len() > MAX_LABEL {
            return Some("it has a label longer than 63 characters");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Some("it has a label that starts or ends with a hyphen");
        }
        if !label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        {
            return Some("it has a character other than letters, digits, `-` and `_`");
        }
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    if last.eq_ignore_ascii_case("localhost") {
        return Some("`localhost` is not looked up in DNS (RFC 6761)");
    }
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some("its last label is a number, as in an address");
    }
    if !name.contains('.') {
        return Some("it has one label only, and names are not completed by a search list");
    }
    None
}

/// The labels below which countries register names. The public suffix list has thousands of entries
/// and changes each week; what is missing here matters only to a list with two providers whose hosts
/// stand directly below the same suffix.
const PUBLIC_SECOND_LEVELS: [&str; 42] = [
    "ac", "ad", "art", "asn", "biz", "co", "com", "coop", "ed", "edu", "fin", "firm", "gen", "go",
    "gob", "gouv", "gov", "govt", "gr", "gv", "id", "in", "ind", "inf", "info", "int", "ltd", "me",
    "mil", "name", "ne", "net", "nic", "nom", "or", "org", "plc", "pp", "pro", "res", "sch", "web",
];

const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;
const MAX_SHOWN: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_name_in_any_case_with_or_without_the_final_dot() {
        for text in [
            "callback-1.vipps.no",
            "CALLBACK-1.vipps.NO",
            "callback-1.vipps.no.",
        ] {
            assert_eq!(
                text.parse::<HostName>().unwrap().as_str(),
                "callback-1.vipps.no"
            );
        }
        assert!("_a.b_c.example".parse::<HostName>().is_ok());
        assert!("xn--bcher-kva.example".parse::<HostName>().is_ok());
    }

    #[test]
    fn refuses_what_cannot_be_a_callback_server_and_says_why() {
        let long_label = format!("{}.no", "a".repeat(64));
        let long_name = format!("{}no", "abcdefg.".repeat(32));
        let cases = [
            ("", "empty"),
            (".", "empty"),
            ("callback-1..no", "empty label"),
            ("callback-1.vipps.no..", "empty label"),
            ("192.0.2.1", "address"),
            ("::1", "address"),
            ("1.2.3.4.5", "number"),
            ("callback-1", "one label"),
            ("localhost", "localhost"),
            ("a.LOCALHOST.", "localhost"),
            ("-a.no", "hyphen"),
            ("a-.no", "hyphen"),
            ("a b.no", "character"),
            ("a\n.no", "character"),
            ("*.vipps.no", "character"),
            ("https://vipps.no", "address"),
            ("bücher.example", "xn--"),
            (&long_label, "63"),
            (&long_name, "253"),
        ];
        for (text, reason) in cases {
            let error = text.parse::<HostName>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn accepts_the_longest_label_and_name() {
        assert!(format!("{}.no", "a".repeat(63)).parse::<HostName>().is_ok());
        let name = format!("{}abcde", "abcdefg.".repeat(31));
        assert_eq!(name.len(), 253);
        assert!(name.parse::<HostName>().is_ok());
    }

    #[test]
    fn an_error_is_short_and_holds_no_control_characters() {
        let error = format!("a\u{1b}[31m{}", "x".repeat(1000))
            .parse::<HostName>()
            .unwrap_err();
        let text = error.to_string();
        assert!(text.len() < 250 && !text.contains('\u{1b}'), "{text}");
    }
}
