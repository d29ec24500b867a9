//! Responses to refused requests.

use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};

use crate::Rejection;
#[cfg(feature = "signature")]
use crate::{CallbackRejection, MessageRejection};

/// Builder of the response to a refused request.
///
/// The builder sees only the reason for the refusal, so that the client's address is the only part of the request that
/// the response can repeat. A closure can be a builder:
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
/// `E` is the reason: a [`Rejection`], or the rejection type of a layer in the modules `signature` and `require`. The
/// layer adds the reason to the extensions of the response.
///
/// Never respond with 2xx: the sender would treat the callback as delivered.
pub trait RejectionResponse<B, E = Rejection> {
    /// Builds the response to a request that was refused for this reason.
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

/// The default response: the rejection's [status](Rejection::status), its [text](Rejection::body_text), and
/// `Retry-After` if a retry can succeed.
///
/// ```
/// use callback_source::{PlainText, Rejection, RejectionKind, RejectionResponse};
/// use http::Response;
///
/// let rejection = Rejection::new(RejectionKind::Unresolved, None);
/// let response: Response<&str> = PlainText.response(&rejection);
/// assert_eq!(response.status(), 503);
/// assert_eq!(response.headers()["retry-after"], "5");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainText;

impl<B> RejectionResponse<B> for PlainText
where
    B: From<&'static str>,
{
    fn response(&self, rejection: &Rejection) -> Response<B> {
        plain_text(
            rejection.status(),
            rejection.body_text(),
            rejection.retry_after(),
        )
    }
}

#[cfg(feature = "signature")]
impl<B> RejectionResponse<B, MessageRejection> for PlainText
where
    B: From<&'static str>,
{
    fn response(&self, rejection: &MessageRejection) -> Response<B> {
        let text = rejection.body_text();
        let mut response = plain_text(rejection.status(), text, rejection.retry_after());
        if rejection.status() == StatusCode::UNAUTHORIZED {
            // RFC 9110 section 15.5.2 requires a challenge in each 401 response. Tokens have no authentication scheme,
            // so the challenge is that of webhooks.
            let challenge = HeaderValue::from_static("HMAC-SHA256");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

#[cfg(feature = "signature")]
impl<B> RejectionResponse<B, CallbackRejection> for PlainText
where
    B: From<&'static str>,
{
    fn response(&self, rejection: &CallbackRejection) -> Response<B> {
        match rejection {
            CallbackRejection::Source(rejection) => self.response(rejection),
            CallbackRejection::Message(rejection) => self.response(rejection),
            CallbackRejection::NoLayer => {
                plain_text(rejection.status(), rejection.body_text(), None)
            }
        }
    }
}

fn plain_text<B: From<&'static str>>(
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

/// Adds the reason to the extensions of the response, so that an outer layer for traces or metrics can distinguish
/// one 403 from another.
pub(crate) fn with_reason<B, E>(mut response: Response<B>, rejection: E) -> Response<B>
where
    E: Clone + Send + Sync + 'static,
{
    response.extensions_mut().insert(rejection);
    response
}

#[cfg(feature = "axum")]
mod axum {
    use axum::response::{IntoResponse, Response};

    use super::{PlainText, RejectionResponse, with_reason};
    use crate::Rejection;
    #[cfg(feature = "signature")]
    use crate::{CallbackRejection, MessageRejection};

    /// Responds as [`PlainText`] does, with the rejection in the extensions of the response.
    impl IntoResponse for Rejection {
        fn into_response(self) -> Response {
            with_reason(PlainText.response(&self), self)
        }
    }

    /// Responds as [`PlainText`] does, with the rejection in the extensions of the response.
    #[cfg(feature = "signature")]
    impl IntoResponse for MessageRejection {
        fn into_response(self) -> Response {
            with_reason(PlainText.response(&self), self)
        }
    }

    /// Responds as [`PlainText`] does, with the rejection in the extensions of the response.
    #[cfg(feature = "signature")]
    impl IntoResponse for CallbackRejection {
        fn into_response(self) -> Response {
            with_reason(PlainText.response(&self), self)
        }
    }
}
