//! The extractor of the message verdict.

use axum::extract::FromRequestParts;
use http::request::Parts;

use crate::{CallbackRejection, MessageVerdict, check};

/// Present behind every message layer. Behind a tagging one, the handler decides.
impl<S: Sync> FromRequestParts<S> for MessageVerdict {
    type Rejection = CallbackRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, CallbackRejection> {
        match parts.extensions.get::<Self>() {
            Some(verdict) => {
                check::admitted(&parts.extensions);
                Ok(verdict.clone())
            }
            None => {
                check::refused(&parts.extensions);
                Err(CallbackRejection::NoLayer)
            }
        }
    }
}
