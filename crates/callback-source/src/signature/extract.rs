//! The extractor of the message verdict.

use axum::extract::FromRequestParts;
use http::request::Parts;

use super::log;
use crate::{CallbackRejection, ExtractorRejection, MessageVerdict, check};

/// Extracts the message verdict, which is present behind every message layer. Behind a tagging layer, the handler must
/// act on the verdict.
impl<S: Sync> FromRequestParts<S> for MessageVerdict {
    type Rejection = ExtractorRejection<CallbackRejection>;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        match parts.extensions.get::<Self>() {
            Some(verdict) => {
                check::admitted(&parts.extensions);
                Ok(verdict.clone())
            }
            None => {
                log::no_layer();
                Err(ExtractorRejection::new(CallbackRejection::NoLayer, parts))
            }
        }
    }
}
