//! What a refused sender gets.

use http::{HeaderValue, Response, header};

use crate::Rejection;

/// Makes the response to a refused request.
///
/// It never sees the request, so that it cannot repeat any of it. A closure will do:
///
/// ```
/// use callback_source::{AllowList, Rejection};
/// use callback_source::verify::{SocketPeer, VerifySourceLayer};
/// use http::Response;
///
/// let layer = VerifySourceLayer::rejecting(AllowList::fixed([]), SocketPeer).with_response(
///     |rejection: &Rejection| {
///         let mut response = Response::new(format!(r#"{{"error":"{}"}}"#, rejection.kind().as_str()));
///         *response.status_mut() = rejection.status();
///         response
///     },
/// );
/// ```
///
/// Do not answer 2xx: the sender would believe that the callback was delivered.
pub trait RejectionResponse<B> {
    /// The response to a request that was refused for this reason.
    fn response(&self, rejection: &Rejection) -> Response<B>;
}

impl<F, B> RejectionResponse<B> for F
where
    F: Fn(&Rejection) -> Response<B>,
{
    fn response(&self, rejection: &Rejection) -> Response<B> {
        self(rejection)
    }
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
        let mut response = Response::new(B::from(rejection.kind().description()));
        *response.status_mut() = rejection.status();
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, plain);
        if let Some(pause) = rejection.retry_after() {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, pause.as_secs().into());
        }
        response
    }
}
