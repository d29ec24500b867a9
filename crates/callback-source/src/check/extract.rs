//! The rejection by an extractor.

use std::{error::Error, fmt};

use axum::response::{IntoResponse, Response};
use http::request::Parts;

use super::{acceptance, refuse};

/// Rejection by an extractor: the reason, with the response that a layer sends by default for this reason.
///
/// Like the response of a layer, this response has the header `Connection: close` if the body of an HTTP/1 request is
/// left unread.
///
/// ```
/// use axum::extract::FromRequestParts;
/// use callback_source::{Allowed, verify::NotVerified};
/// use http::Request;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let (mut parts, ()) = Request::new(()).into_parts();
/// let rejection = Allowed::from_request_parts(&mut parts, &()).await.unwrap_err();
/// assert!(matches!(rejection.reason(), NotVerified::NoLayer));
/// assert_eq!(rejection.status(), 500);
/// assert_eq!(rejection.body_text(), "the route is not wrapped in a `VerifySourceLayer`\n");
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ExtractorRejection<E> {
    reason: E,
    leaves_body: bool,
}

impl<E> ExtractorRejection<E> {
    /// Creates a rejection, and withdraws the mark that the callback was accepted. The handler is not called, so a
    /// replay guard must not treat the callback as accepted.
    pub(crate) fn new(reason: E, parts: &Parts) -> Self {
        acceptance::refused(&parts.extensions);
        Self {
            reason,
            leaves_body: refuse::leaves_unread_body(parts),
        }
    }

    /// The reason why the handler was not called.
    pub fn reason(&self) -> &E {
        &self.reason
    }

    /// The reason, as an owned value.
    pub fn into_reason(self) -> E {
        self.reason
    }
}

impl<E: fmt::Display> fmt::Display for ExtractorRejection<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl<E: Error> Error for ExtractorRejection<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.reason.source()
    }
}

impl<E: IntoResponse> IntoResponse for ExtractorRejection<E> {
    fn into_response(self) -> Response {
        let mut response = self.reason.into_response();
        if self.leaves_body {
            refuse::close_connection(&mut response);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] fmt::Error);

    #[test]
    fn the_error_has_the_text_and_the_cause_of_the_reason() {
        let (parts, ()) = http::Request::new(()).into_parts();
        let rejection = ExtractorRejection::new(Outer(fmt::Error), &parts);
        assert_eq!(rejection.to_string(), "outer");
        assert!(
            rejection
                .source()
                .is_some_and(|cause| cause.is::<fmt::Error>())
        );
    }
}
