//! Host names that can be looked up.

use std::{borrow::Cow, fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use smol_str::SmolStr;

/// Fully qualified host name of a callback server, such as `callback-1.vipps.no`.
///
/// The name is stored in lower case, without the trailing dot. It is looked up as an absolute name, so
/// search lists do not apply. Cloning does not allocate.
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
    /// Returns the name in lower case, without the trailing dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns true if both names have the same parent domain and that domain is not a public suffix. An answer about
    /// one name then shows that the DNS servers of the other name work.
    pub(crate) fn is_of_same_zone(&self, other: &Self) -> bool {
        let zone = self.zone();
        zone.is_some() && zone == other.zone()
    }

    /// Returns the parent domain. `None` if the parent domain is a public suffix: a top-level domain, or a country's
    /// generic second level such as `co.uk`.
    fn zone(&self) -> Option<&str> {
        let (_, parent) = self.0.split_once('.')?;
        let (second, top) = parent.split_once('.')?;
        let public = top.len() == 2 && PUBLIC_SECOND_LEVELS.contains(&second);
        (!public).then_some(parent)
    }
}

impl FromStr for HostName {
    type Err = HostNameError;

    /// Parses a host name (RFC 952, RFC 1123 section 2.1). Underscores are accepted, since some existing names
    /// contain them.
    ///
    /// # Errors
    ///
    /// Returns an error for a name that is empty, too long, not ASCII, an IP address, a single label, or below
    /// `localhost`. Also returns an error for a name with an invalid label.
    fn from_str(text: &str) -> Result<Self, HostNameError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        match problem(name) {
            None => Ok(Self(name.to_ascii_lowercase().into())),
            Some(problem) => Err(HostNameError {
                name: text.chars().take(MAX_SHOWN).collect(),
                address: Parts::of(text).address(),
                problem: mistaken(text).unwrap_or(Cow::Borrowed(problem)),
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

/// Error for an invalid host name.
///
/// ```
/// use callback_source::HostName;
///
/// let error = "https://callback-1.vipps.no/".parse::<HostName>().unwrap_err();
/// assert!(error.to_string().ends_with("give only the host name `callback-1.vipps.no`"));
///
/// let error = "192.0.2.1".parse::<HostName>().unwrap_err();
/// assert_eq!(error.address(), Some("192.0.2.1/32".parse().unwrap()));
/// ```
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid host name `{}`: {problem}", name.escape_default())]
pub struct HostNameError {
    name: String,
    address: Option<IpNet>,
    problem: Cow<'static, str>,
}

crate::debug::debug_by_message!(HostNameError);

impl HostNameError {
    /// Returns the address or network that was given instead of a name. The returned network can be
    /// [added](crate::AllowListBuilder::net) as a static network.
    ///
    /// With this method, a configuration can contain names, addresses and networks in one list:
    ///
    /// ```
    /// use callback_source::{AllowList, AllowListBuilder, HostName};
    ///
    /// fn add(builder: AllowListBuilder, source: &str) -> Result<AllowListBuilder, Box<dyn std::error::Error>> {
    ///     match source.parse::<HostName>() {
    ///         Ok(host) => Ok(builder.host(host)),
    ///         Err(error) => match error.address() {
    ///             Some(network) => Ok(builder.net(network)?),
    ///             None => Err(error.into()),
    ///         },
    ///     }
    /// }
    ///
    /// let builder = add(AllowList::builder(), "out.adyen.com")?;
    /// let builder = add(builder, "212.93.32.0/19")?;
    /// assert!(add(builder, "*.vipps.no").is_err());
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn address(&self) -> Option<IpNet> {
        self.address
    }
}

/// Describes a common mistake in a text, such as a URL, and shows the host name that the text contains.
fn mistaken(text: &str) -> Option<Cow<'static, str>> {
    let parts = Parts::of(text);
    if let Some(address) = parts.address() {
        let of_url = if parts.is_url { "the URL of " } else { "" };
        let address = shown(address);
        return Some(Cow::Owned(format!(
            "it is {of_url}an address; give `{address}` as a static network, with `AllowListBuilder::net`"
        )));
    }
    let what = if text.contains([',', ';']) {
        return Some(Cow::Borrowed(
            "it is a list; give each host name separately",
        ));
    } else if parts.is_url {
        "it is a URL"
    } else if parts.host.starts_with("*.") {
        return Some(Cow::Borrowed(
            "it has a wildcard, and wildcards cannot be looked up; give each host name",
        ));
    } else if parts.has_user {
        "it has a user name"
    } else if parts.has_path {
        "it has a path"
    } else if parts.has_port {
        "it is a name with a port"
    } else if text.trim() != text && !parts.host.is_empty() {
        "it has white space around it"
    } else {
        return None;
    };
    let mut problem = format!("{what}; give only the host name");
    if let Ok(host) = parts.host.parse::<HostName>() {
        problem.push_str(&format!(" `{host}`"));
    }
    Some(Cow::Owned(problem))
}

/// Formats a network. A single address is written without its prefix length.
fn shown(network: IpNet) -> String {
    match network.prefix_len() == network.max_prefix_len() {
        true => network.addr().to_string(),
        false => network.to_string(),
    }
}

/// Parts of a text that is not a host name, such as a URL.
struct Parts<'a> {
    is_url: bool,
    has_user: bool,
    has_port: bool,
    has_path: bool,
    host: &'a str,
    /// Host and path. The path may be the prefix length of a network.
    host_and_path: &'a str,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Self {
        let text = text.trim();
        let (scheme, rest) = match text.split_once("//") {
            Some((scheme, rest)) if scheme.is_empty() || scheme.ends_with(':') => {
                (Some(scheme), rest)
            }
            _ => (None, text),
        };
        let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (user, host_and_port) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let (host, port) = match host_and_port.rsplit_once(':') {
            // A text with several colons is treated as an IPv6 address, which has a port only after `]`.
            Some((host, port))
                if port.bytes().all(|byte| byte.is_ascii_digit())
                    && (!host.contains(':') || host.ends_with(']')) =>
            {
                (host, Some(port))
            }
            _ => (host_and_port, None),
        };
        Self {
            is_url: scheme.is_some(),
            has_user: user.is_some(),
            has_port: port.is_some(),
            has_path: !path.is_empty(),
            host,
            host_and_path: if scheme.is_none() { rest } else { host },
        }
    }

    fn address(&self) -> Option<IpNet> {
        if let Ok(network) = self.host_and_path.parse::<IpNet>() {
            return Some(network);
        }
        let host = self
            .host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = host.unwrap_or(self.host);
        let host = host.strip_suffix('.').unwrap_or(host);
        let host = host.split_once('%').map_or(host, |(host, _)| host);
        host.parse::<IpAddr>().ok().map(IpNet::from)
    }
}

fn problem(name: &str) -> Option<&'static str> {
    if name.trim().is_empty() {
        return Some("it is empty");
    }
    if !name.is_ascii() {
        return Some("it is not ASCII; write it in its `xn--` form");
    }
    if name.len() > MAX_NAME {
        return Some("it is longer than 253 characters");
    }
    if name.parse::<std::net::Ipv4Addr>().is_ok() {
        return Some("it is an address");
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
        return Some("it has only one label, and search lists are not used; give the full name");
    }
    None
}

/// Generic second levels of countries, below which different owners register names. The public suffix list is complete,
/// but it has thousands of entries and changes every week. A suffix that is missing here matters only if an allow list
/// contains hosts of two providers directly below that suffix.
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
    fn refuses_invalid_names_with_the_reason() {
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
            ("*.vipps.no", "wildcard"),
            ("a:b.no", "character"),
            (" ", "empty"),
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
    fn an_error_names_the_host_name_in_a_url_or_path() {
        let given = [
            ("https://callback-1.vipps.no/", "it is a URL"),
            ("https://user@callback-1.vipps.no:443/a?b#c", "it is a URL"),
            ("HTTP://CALLBACK-1.vipps.no.", "it is a URL"),
            ("//callback-1.vipps.no", "it is a URL"),
            ("callback-1.vipps.no:443", "it is a name with a port"),
            ("callback-1.vipps.no.:443", "it is a name with a port"),
            ("callback-1.vipps.no:", "it is a name with a port"),
            ("user@callback-1.vipps.no", "it has a user name"),
            ("callback-1.vipps.no/", "it has a path"),
            ("callback-1.vipps.no/path", "it has a path"),
            ("callback-1.vipps.no?a=b", "it has a path"),
            (" callback-1.vipps.no", "it has white space around it"),
            ("callback-1.vipps.no\n", "it has white space around it"),
        ];
        for (text, what) in given {
            let error = text.parse::<HostName>().unwrap_err();
            let expected = format!("{what}; give only the host name `callback-1.vipps.no`");
            assert!(error.to_string().ends_with(&expected), "{text:?}: {error}");
            assert_eq!(error.address(), None);
        }
        let error = "https://localhost/".parse::<HostName>().unwrap_err();
        let text = "invalid host name `https://localhost/`: it is a URL; give only the host name";
        assert_eq!(error.to_string(), text);
        let error = "a.example,b.example".parse::<HostName>().unwrap_err();
        assert!(error.to_string().contains("give each host name separately"));
    }

    #[test]
    fn recognizes_an_address_in_each_form() {
        let given = [
            ("192.0.2.1", "192.0.2.1/32"),
            ("192.0.2.1.", "192.0.2.1/32"),
            ("192.0.2.1:443", "192.0.2.1/32"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("[2001:db8::1]", "2001:db8::1/128"),
            ("[2001:db8::1]:443", "2001:db8::1/128"),
            ("fe80::1%eth0", "fe80::1/128"),
            ("https://192.0.2.1/path", "192.0.2.1/32"),
            ("http://[2001:db8::1]:80", "2001:db8::1/128"),
            (" 192.0.2.1 ", "192.0.2.1/32"),
        ];
        for (text, address) in given {
            let error = text.parse::<HostName>().unwrap_err();
            assert_eq!(error.address(), Some(address.parse().unwrap()), "{text}");
            let shown = shown(address.parse().unwrap());
            let hint = format!("an address; give `{shown}` as a static network");
            assert!(error.to_string().contains(&hint), "{text:?}: {error}");
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
    fn an_error_is_short_and_has_no_control_characters() {
        let error = format!("a\u{1b}[31m{}", "x".repeat(1000))
            .parse::<HostName>()
            .unwrap_err();
        let text = error.to_string();
        assert!(text.len() < 250 && !text.contains('\u{1b}'), "{text}");
    }
}
