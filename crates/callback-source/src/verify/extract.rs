//! The verdict as an extractor.

use std::convert::Infallible;

use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::IntoResponse,
};
use http::request::Parts;

use crate::{Allowed, PlainText, Rejection, RejectionResponse, Verdict, check};

/// Behind a rejecting layer always there. Behind a tagging one, a request that is not allowed is
/// refused here.
impl<S: Sync> FromRequestParts<S> for Allowed {
    type Rejection = NotVerified;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, NotVerified> {
        let verdict = <Verdict as FromRequestParts<S>>::from_request_parts(parts, state).await;
        let refusal = match verdict {
            Ok(Verdict::Allow(allowed)) => return Ok(allowed),
            Ok(Verdict::Reject(rejection)) => NotVerified::Rejected(rejection),
            Err(no_layer) => no_layer,
        };
        // The handler is not called, so a replay guard must not take the callback for accepted.
        check::refused(&parts.extensions);
        Err(refusal)
    }
}

/// `None` where the peer is not allowed, and where there is no layer.
impl<S: Sync> OptionalFromRequestParts<S> for Allowed {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, Infallible> {
        let verdict = <Verdict as FromRequestParts<S>>::from_request_parts(parts, state).await;
        Ok(match verdict {
            Ok(Verdict::Allow(allowed)) => Some(allowed),
            Ok(Verdict::Reject(_)) | Err(_) => None,
        })
    }
}

impl<S: Sync> FromRequestParts<S> for Verdict {
    type Rejection = NotVerified;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, NotVerified> {
        if let Some(verdict) = parts.extensions.get::<Self>() {
            return Ok(verdict.clone());
        }
        let allowed = parts.extensions.get::<Allowed>();
        allowed
            .cloned()
            .map(Self::Allow)
            .ok_or(NotVerified::NoLayer)
    }
}

/// Why a handler cannot have its [`Allowed`] or [`Verdict`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum NotVerified {
    /// The request did not come through [`VerifySource`](super::VerifySource): the route is not
    /// wrapped. Answered with 500.
    NoLayer,
    /// The layer tags, and the peer is not allowed.
    Rejected(Rejection),
}

impl IntoResponse for NotVerified {
    fn into_response(self) -> axum::response::Response {
        match self {
            Self::Rejected(rejection) => PlainText.response(&rejection),
            Self::NoLayer => {
                let text = "the route is not wrapped in a `VerifySourceLayer`\n";
                (http::StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
            }
        }
    }
}
