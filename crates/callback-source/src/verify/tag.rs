//! The headers that pass a verdict to an upstream that is not written in Rust.

use std::iter;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::Verdict;

/// Removes tags that the client sent, in every spelling that an upstream may read as a tag. Some servers fold `_` into
/// `-`. CGI, PHP and lighttpd fold every byte that is not a letter or digit into `_`.
pub(super) fn scrub(headers: &mut HeaderMap) {
    // Removes one tag per search, since hardly any request has a tag.
    while let Some(forged) = headers
        .keys()
        .find(|name| is_tag_header(name.as_str()))
        .cloned()
    {
        headers.remove(forged);
    }
}

/// Sets the tags of a verdict.
pub(super) fn set(headers: &mut HeaderMap, verdict: &Verdict) {
    // A proxy behind the layer removes the headers that `Connection` names (RFC 9110 section 7.6.1). By naming a tag in
    // `Connection`, a client could make that proxy remove the tag.
    let names_a_tag = |line: &HeaderValue| {
        let names = line
            .as_bytes()
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii);
        names
            .map(|name| String::from_utf8_lossy(name).to_lowercase())
            .any(|name| is_tag_header(&name))
    };
    if headers.get_all(header::CONNECTION).iter().any(names_a_tag) {
        headers.remove(header::CONNECTION);
    }
    for (name, value) in tag_headers(verdict) {
        headers.insert(name, value);
    }
}

/// Returns the headers that contain a verdict: `x-callback-source` with `allow` or `reject`, and the host (if any) or
/// the reason.
///
/// [`with_tag_headers`](super::VerifySourceLayer::with_tag_headers) sets these headers on requests. An endpoint that
/// checks requests for another server, as in forward authentication, sets them on its response.
///
/// # Examples
///
/// ```
/// use callback_source::{Rejection, RejectionKind, Verdict, verify::tag_headers};
///
/// let verdict = Verdict::Reject(Rejection::new(RejectionKind::NotListed, None));
/// let headers: http::HeaderMap = tag_headers(&verdict).collect();
/// assert_eq!(headers["x-callback-source"], "reject");
/// assert_eq!(headers["x-callback-reason"], "not-listed");
/// ```
pub fn tag_headers(verdict: &Verdict) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
    let (source, detail) = match verdict {
        Verdict::Allow(allowed) => {
            let host = allowed.host().map(|host| host.as_str());
            let host = host.and_then(|host| HeaderValue::from_str(host).ok());
            ("allow", host.map(|host| (HOST, host)))
        }
        Verdict::Reject(rejection) => {
            let reason = HeaderValue::from_static(rejection.kind().as_str());
            ("reject", Some((REASON, reason)))
        }
    };
    iter::once((SOURCE, HeaderValue::from_static(source))).chain(detail)
}

/// Returns `true` for the lower-case name of a tag, in every spelling that an upstream may read as a tag. CGI, PHP and
/// lighttpd fold every byte that is not a letter or digit into `_`.
///
/// [`VerifySource`](super::VerifySource) removes such headers from requests. An endpoint that checks requests for
/// another server must make that server remove them.
///
/// # Examples
///
/// ```
/// use callback_source::verify::is_tag_header;
///
/// assert!(is_tag_header("x-callback-source"));
/// assert!(is_tag_header("x_callback.source"));
/// assert!(!is_tag_header("x-callback-sources"));
/// ```
// Only the comparison of lengths is inlined, since it runs for every header of every request.
#[inline]
#[must_use]
pub fn is_tag_header(name: &str) -> bool {
    matches!(name.len(), LENGTH_OF_SOURCE | LENGTH_OF_HOST) && is_spelling_of_tag(name)
}

#[cold]
fn is_spelling_of_tag(name: &str) -> bool {
    let fold = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => byte,
        false => b'-',
    };
    let folded = name.bytes().map(fold);
    TAG_HEADERS
        .iter()
        .any(|tag| folded.clone().eq(tag.as_str().bytes()))
}

/// Names of the headers of a tag: the verdict, the host of an admitted peer, and the reason of a rejection.
///
/// A gateway that receives the tag apart from the request, such as Envoy, must remove all of these headers from the
/// request before it adds those of [`tag_headers`]:
///
/// ```
/// use callback_source::verify::{TAG_HEADERS, is_tag_header};
///
/// assert!(TAG_HEADERS.iter().all(|name| is_tag_header(name.as_str())));
/// ```
pub const TAG_HEADERS: [HeaderName; 3] = [SOURCE, HOST, REASON];

const SOURCE: HeaderName = HeaderName::from_static("x-callback-source");
const HOST: HeaderName = HeaderName::from_static("x-callback-host");
const REASON: HeaderName = HeaderName::from_static("x-callback-reason");

/// Length of `x-callback-source`, which is also the length of `x-callback-reason`.
const LENGTH_OF_SOURCE: usize = "x-callback-source".len();
const LENGTH_OF_HOST: usize = "x-callback-host".len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_have_the_tags_removed_behind_the_layer() {
        let rejection = crate::Rejection::new(crate::RejectionKind::NotListed, None);
        let verdict = Verdict::Reject(rejection);
        for (line, stays) in [
            ("x-callback-source", false),
            ("close,\tX_Callback-Reason , te", false),
            ("x.callback~source", false),
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
    fn a_tag_is_removed_with_any_byte_that_an_upstream_may_fold() {
        let separators = "!#$%&'*+-.^_`|~";
        for tag in [SOURCE, HOST, REASON] {
            for separator in separators.chars() {
                for other in separators.chars() {
                    let mut pieces = tag.as_str().splitn(3, '-');
                    let [a, b, c] = [(); 3].map(|()| pieces.next().unwrap());
                    for (name, is_tag) in [
                        (format!("{a}{separator}{b}{other}{c}"), true),
                        (format!("{a}{separator}{b}{other}{c}").to_uppercase(), true),
                        (format!("{a}{separator}{other}{b}{c}"), false),
                        (format!("{a}{separator}{b}{other}{c}{separator}"), false),
                        (format!("{separator}{a}{separator}{b}{other}{c}"), false),
                    ] {
                        let mut headers = HeaderMap::new();
                        let name: HeaderName = name.parse().unwrap();
                        headers.append(&name, HeaderValue::from_static("allow"));
                        headers.append(&name, HeaderValue::from_static("allow"));
                        scrub(&mut headers);
                        assert_eq!(headers.is_empty(), is_tag, "{name}");
                    }
                }
            }
        }
        let all = (0..=u8::MAX).filter(|byte| HeaderName::from_bytes(&[*byte]).is_ok());
        let others = all.filter(|byte| !byte.is_ascii_alphanumeric());
        assert_eq!(String::from_utf8(others.collect()).unwrap(), separators);
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
