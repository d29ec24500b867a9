//! Extractors of the verdict and of the allowed peer.

use std::{convert::Infallible, error::Error, fmt};

use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use http::{StatusCode, request::Parts};

use super::log;
use crate::{Allowed, ExtractorRejection, Rejection, Verdict};

/// Extracts the allowed peer, which is always present behind a rejecting layer. Behind a tagging layer, the extractor
/// refuses a request that is not allowed.
impl<S: Sync> FromRequestParts<S> for Allowed {
    type Rejection = ExtractorRejection<NotVerified>;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        match <Verdict as FromRequestParts<S>>::from_request_parts(parts, state).await? {
            Verdict::Allow(allowed) => Ok(allowed),
            Verdict::Reject(rejection) => Err(ExtractorRejection::new(
                NotVerified::Rejected(rejection),
                parts,
            )),
        }
    }
}

/// Extracts the allowed peer, or `None` if the peer is not allowed or the route is not wrapped in a layer.
impl<S: Sync> OptionalFromRequestParts<S> for Allowed {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        let verdict = parts.extensions.get::<Verdict>();
        Ok(verdict.and_then(Verdict::allowed).cloned())
    }
}

impl<S: Sync> FromRequestParts<S> for Verdict {
    type Rejection = ExtractorRejection<NotVerified>;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let verdict = parts.extensions.get::<Self>().cloned();
        verdict.ok_or_else(|| {
            log::no_layer();
            ExtractorRejection::new(NotVerified::NoLayer, parts)
        })
    }
}

impl ExtractorRejection<NotVerified> {
    /// The status of the response. Same as the [status](NotVerified::status) of the reason.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.reason().status()
    }

    /// The text of the response. Same as the [text](NotVerified::body_text) of the reason.
    #[must_use]
    pub fn body_text(&self) -> &'static str {
        self.reason().body_text()
    }
}

/// The reason why a handler does not get its [`Allowed`] or [`Verdict`].
///
/// ```
/// use callback_source::{Rejection, RejectionKind, verify::NotVerified};
///
/// assert_eq!(NotVerified::NoLayer.status(), 500);
/// let rejection = Rejection::new(RejectionKind::NotListed, None);
/// assert_eq!(NotVerified::Rejected(rejection).status(), 403);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum NotVerified {
    /// The route is not wrapped in a [`VerifySourceLayer`](super::VerifySourceLayer). The response is 500, and the
    /// first such request is logged at ERROR.
    NoLayer,
    /// The layer only tags requests, and the peer is not allowed.
    Rejected(Rejection),
}

impl NotVerified {
    /// The status of the response: the status of the rejection, or 500 without a layer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoLayer => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Rejected(rejection) => rejection.status(),
        }
    }

    /// The text of the response, which is a single line.
    #[must_use]
    pub fn body_text(&self) -> &'static str {
        match self {
            Self::NoLayer => "the route is not wrapped in a `VerifySourceLayer`\n",
            Self::Rejected(rejection) => rejection.body_text(),
        }
    }
}

impl fmt::Display for NotVerified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.body_text().trim_end())
    }
}

impl Error for NotVerified {}

impl IntoResponse for NotVerified {
    fn into_response(self) -> Response {
        match self {
            Self::NoLayer => (self.status(), self.body_text()).into_response(),
            Self::Rejected(rejection) => rejection.into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RejectionKind;

    #[test]
    fn the_text_names_the_missing_layer_or_is_that_of_the_rejection() {
        let no_layer = "the route is not wrapped in a `VerifySourceLayer`";
        assert_eq!(NotVerified::NoLayer.to_string(), no_layer);
        assert_eq!(
            NotVerified::NoLayer.status(),
            StatusCode::INTERNAL_SERVER_ERROR
        );
        let rejection = Rejection::new(RejectionKind::NotListed, None);
        let rejected = NotVerified::Rejected(rejection.clone());
        assert_eq!(rejected.body_text(), rejection.body_text());
        assert_eq!(rejected.status(), StatusCode::FORBIDDEN);
        let (parts, ()) = http::Request::new(()).into_parts();
        let extracted = ExtractorRejection::new(rejected, &parts);
        assert_eq!(extracted.body_text(), rejection.body_text());
        assert_eq!(extracted.status(), StatusCode::FORBIDDEN);
    }
}
