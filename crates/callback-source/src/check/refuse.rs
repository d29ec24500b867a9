//! Refusals: the response, and what a refused request leaves behind.

use http::{Extensions, HeaderMap, HeaderValue, Request, Response, Version, header};

use super::acceptance;
use crate::RejectionResponse;

/// The response to a refused request.
pub(crate) fn refuse<Q, B, E>(
    response: &impl RejectionResponse<B, E>,
    rejection: &E,
    request: &Request<Q>,
) -> Response<B> {
    refused(
        response.response(rejection),
        request.headers(),
        request.extensions(),
        request.version(),
    )
}

/// As [`refuse`], for a request that was taken apart.
#[cfg(feature = "signature")]
pub(crate) fn refuse_parts<B, E>(
    response: &impl RejectionResponse<B, E>,
    rejection: &E,
    parts: &http::request::Parts,
) -> Response<B> {
    refused(
        response.response(rejection),
        &parts.headers,
        &parts.extensions,
        parts.version,
    )
}

fn refused<B>(
    mut response: Response<B>,
    headers: &HeaderMap,
    extensions: &Extensions,
    version: Version,
) -> Response<B> {
    // A signature layer outside may have marked it as accepted.
    acceptance::refused(extensions);
    // hyper ends a connection whose body nobody reads, without a word. A proxy that is not told may send
    // a genuine callback into it, and cannot send that again.
    if leaves_a_body(headers, version) {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

/// Whether unread bytes of this request stand between the response and the next request.
fn leaves_a_body(headers: &HeaderMap, version: Version) -> bool {
    let length = headers.get(header::CONTENT_LENGTH);
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || length.is_some_and(|length| length != "0");
    has_body && version <= Version::HTTP_11
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_ends_the_connection_where_a_body_is_left_in_it() {
        let length = |length| Some((header::CONTENT_LENGTH, length));
        let chunked = Some((header::TRANSFER_ENCODING, "chunked"));
        for (sent, version, ends) in [
            (None, Version::HTTP_11, false),
            (length("0"), Version::HTTP_11, false),
            (length("2"), Version::HTTP_11, true),
            (length("2"), Version::HTTP_10, true),
            (chunked.clone(), Version::HTTP_11, true),
            (length("2"), Version::HTTP_2, false),
            (chunked, Version::HTTP_2, false),
        ] {
            let pair = sent
                .clone()
                .map(|(name, value)| (name, HeaderValue::from_static(value)));
            let mut request = Request::new(());
            *request.headers_mut() = HeaderMap::from_iter(pair);
            *request.version_mut() = version;
            let response = refuse(&|_: &()| Response::new(()), &(), &request);
            let close = response.headers().get(header::CONNECTION);
            assert_eq!(close.is_some(), ends, "{sent:?} {version:?}");
        }
    }
}
