//! The headers that carry a verdict to an upstream that is not Rust.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::Verdict;

/// Removes tags that the client sent, in every spelling that an upstream may take for one: some
/// servers fold `_` into `-`.
pub(super) fn scrub(headers: &mut HeaderMap) {
    // One at a time, since next to no request has one.
    while let Some(forged) = headers.keys().find(|name| is_tag(name.as_str())).cloned() {
        headers.remove(forged);
    }
}

/// Sets the tags of a verdict.
pub(super) fn set(headers: &mut HeaderMap, verdict: &Verdict) {
    // A proxy behind takes off what `Connection` names (RFC 9110 section 7.6.1): the client must not have
    // the tags taken off.
    let names_a_tag = |line: &HeaderValue| {
        let names = line
            .as_bytes()
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii);
        names
            .map(|name| String::from_utf8_lossy(name).to_lowercase())
            .any(|name| is_tag(&name))
    };
    if headers.get_all(header::CONNECTION).iter().any(names_a_tag) {
        headers.remove(header::CONNECTION);
    }
    match verdict {
        Verdict::Allow(allowed) => {
            headers.insert(SOURCE, HeaderValue::from_static("allow"));
            let host = allowed
                .host()
                .and_then(|host| HeaderValue::from_str(host.as_str()).ok());
            if let Some(host) = host {
                headers.insert(HOST, host);
            }
        }
        Verdict::Reject(rejection) => {
            headers.insert(SOURCE, HeaderValue::from_static("reject"));
            headers.insert(REASON, HeaderValue::from_static(rejection.kind().as_str()));
        }
    }
}

fn is_tag(name: &str) -> bool {
    let is = |tag: &str| {
        let folded = name
            .bytes()
            .map(|byte| if byte == b'_' { b'-' } else { byte });
        folded.eq(tag.bytes())
    };
    // By length first: this looks at every header of every request.
    match name.len() {
        15 => is("x-callback-host"),
        17 => is("x-callback-source") || is("x-callback-reason"),
        _ => false,
    }
}

const SOURCE: HeaderName = HeaderName::from_static("x-callback-source");
const HOST: HeaderName = HeaderName::from_static("x-callback-host");
const REASON: HeaderName = HeaderName::from_static("x-callback-reason");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_have_the_tags_taken_off_behind_the_layer() {
        let rejection = crate::Rejection::new(crate::RejectionKind::NotListed, None);
        let verdict = Verdict::Reject(rejection);
        for (line, stays) in [
            ("x-callback-source", false),
            ("close,\tX_Callback-Reason , te", false),
            ("keep-alive", true),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.append(header::CONNECTION, HeaderValue::from_str(line).unwrap());
            set(&mut headers, &verdict);
            assert_eq!(headers.contains_key(header::CONNECTION), stays, "{line}");
            assert_eq!(headers["x-callback-source"], "reject");
        }
    }

    #[test]
    fn no_spelling_of_a_tag_survives() {
        let mut headers = HeaderMap::new();
        for name in [
            "x-callback-source",
            "X-Callback-Source",
            "x_callback_source",
            "x-callback_source",
            "X_Callback-HOST",
            "x-callback-reason",
            "x_callback_reason",
        ] {
            headers.append(
                name.parse::<HeaderName>().unwrap(),
                HeaderValue::from_static("allow"),
            );
        }
        for name in [
            "x-callback-sources",
            "callback-source",
            "host",
            "x-callback",
        ] {
            headers.insert(
                name.parse::<HeaderName>().unwrap(),
                HeaderValue::from_static("kept"),
            );
        }
        scrub(&mut headers);
        assert_eq!(headers.len(), 4);
        assert!(headers.values().all(|value| value == "kept"));
    }
}
