//! Refusals.

use http::{HeaderValue, Response, Version, header, request::Parts};

use super::acceptance;
use crate::{RejectionResponse, response::with_reason};

/// The response to a refused request.
pub(super) fn refuse<B, E: Clone + Send + Sync + 'static>(
    response: &impl RejectionResponse<B, E>,
    rejection: &E,
    parts: &Parts,
) -> Response<B> {
    // A signature check outside may have marked the request as accepted.
    acceptance::refused(&parts.extensions);
    let mut response = with_reason(response.response(rejection), rejection.clone());
    if leaves_unread_body(parts) {
        // hyper closes a connection whose body is not read. Without notice, a proxy may send a genuine callback
        // into it, and cannot send that again.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

/// Returns `true` if a body precedes the next request of the connection.
fn leaves_unread_body(parts: &Parts) -> bool {
    if parts.version > Version::HTTP_11 {
        return false;
    }
    match parts.headers.get(header::CONTENT_LENGTH) {
        Some(length) if length != "0" => true,
        _ => parts.headers.contains_key(header::TRANSFER_ENCODING),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Request};

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
            let (parts, ()) = request.into_parts();
            let response = refuse(&|_: &()| Response::new(()), &(), &parts);
            let close = response.headers().get(header::CONNECTION);
            assert_eq!(close.is_some(), ends, "{sent:?} {version:?}");
        }
    }
}
