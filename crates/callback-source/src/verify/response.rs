//! What a refused sender gets.

use std::time::Duration;

use http::{Extensions, HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};

use crate::Rejection;

/// Makes the response to a refused request.
///
/// It never sees the request, so that it cannot repeat any of it. A closure will do:
///
/// ```
/// use callback_source::{AllowList, Rejection};
/// use callback_source::verify::{SocketAddrPeer, VerifySourceLayer};
/// use http::Response;
///
/// let layer = VerifySourceLayer::rejecting(AllowList::fixed([]), SocketAddrPeer).with_response(
///     |rejection: &Rejection| {
///         let mut response = Response::new(format!(r#"{{"error":"{}"}}"#, rejection.kind().as_str()));
///         *response.status_mut() = rejection.status();
///         response
///     },
/// );
/// ```
///
/// `E` is the reason: a [`Rejection`], or that of a layer of the module `signature`.
///
/// Do not answer 2xx: the sender would believe that the callback was delivered.
pub trait RejectionResponse<B, E = Rejection> {
    /// The response to a request that was refused for this reason.
    fn response(&self, rejection: &E) -> Response<B>;
}

impl<F, B, E> RejectionResponse<B, E> for F
where
    F: Fn(&E) -> Response<B>,
{
    fn response(&self, rejection: &E) -> Response<B> {
        self(rejection)
    }
}

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
    #[cfg(feature = "signature")]
    crate::signature::refused(extensions);
    #[cfg(not(feature = "signature"))]
    let _ = extensions;
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

/// The default: the rejection's [status](Rejection::status), a sentence of plain text, and
/// `Retry-After` where a retry can end otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainText;

impl<B> RejectionResponse<B> for PlainText
where
    B: From<&'static str>,
{
    fn response(&self, rejection: &Rejection) -> Response<B> {
        let text = rejection.kind().description();
        plain_text(rejection.status(), text, rejection.retry_after())
    }
}

pub(crate) fn plain_text<B: From<&'static str>>(
    status: StatusCode,
    text: &'static str,
    retry_after: Option<Duration>,
) -> Response<B> {
    let mut response = Response::new(B::from(text));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    if let Some(pause) = retry_after {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, pause.as_secs().into());
    }
    response
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
