//! Responses to refused requests.

use http::{HeaderValue, Response, Version, header, request::Parts};

use super::acceptance;
use crate::{RejectionResponse, response::with_reason};

/// Builds the response to a refused request, with the reason in its extensions.
pub(super) fn refuse<B, E: Clone + Send + Sync + 'static>(
    response: &impl RejectionResponse<B, E>,
    rejection: E,
    mut parts: Parts,
) -> Response<B> {
    // An outer signature check may have marked the request as accepted.
    acceptance::refused(&parts.extensions);
    let mut response = response.response(&rejection);
    if leaves_unread_body(&parts) {
        close_connection(&mut response);
    }
    if response.extensions().is_empty() {
        // Reuses the request's map of extensions. A new map takes two allocations, which add up in a flood.
        parts.extensions.clear();
        *response.extensions_mut() = parts.extensions;
    }
    with_reason(response, rejection)
}

/// Adds the header `Connection: close` to a response.
///
/// hyper may close a connection if the body of a request was not read. Without this header, a proxy may send a genuine
/// callback over the closing connection. The callback is then lost, because the proxy cannot send it again.
pub(super) fn close_connection<B>(response: &mut Response<B>) {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
}

/// Returns `true` if an unread body of this request would precede the next request of the connection.
pub(super) fn leaves_unread_body(parts: &Parts) -> bool {
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
    fn a_refusal_closes_the_connection_if_a_body_is_left_unread() {
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
            let response = refuse(&|_: &()| Response::new(()), (), parts);
            let close = response.headers().get(header::CONNECTION);
            assert_eq!(close.is_some(), ends, "{sent:?} {version:?}");
        }
    }

    #[test]
    fn a_refusal_has_its_reason_and_nothing_of_the_request() {
        #[derive(Clone, Copy, Debug, PartialEq)]
        struct Reason(u8);

        let refused = |build: fn(&Reason) -> Response<()>| {
            let mut request = Request::new(());
            request.extensions_mut().insert("of the request");
            let (parts, ()) = request.into_parts();
            refuse(&build, Reason(7), parts)
        };
        let response = refused(|_| Response::new(()));
        assert_eq!(response.extensions().get(), Some(&Reason(7)));
        assert_eq!(response.extensions().len(), 1);
        let response = refused(|_| {
            let mut response = Response::new(());
            response.extensions_mut().insert(42_u8);
            response
        });
        assert_eq!(response.extensions().get(), Some(&Reason(7)));
        assert_eq!(response.extensions().get(), Some(&42_u8));
        assert_eq!(response.extensions().len(), 2);
    }
}
