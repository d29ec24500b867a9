//! The extractor of callback bodies.

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::error::Category;

use crate::bodies::Callback;

/// A body of the type that the route accepts.
///
/// The content type is ignored: the routes accept only JSON.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Body<T>(pub(crate) T);

impl<T: Callback, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = BadBody;

    async fn from_request(request: Request, state: &S) -> Result<Self, BadBody> {
        let body = Bytes::from_request(request, state).await;
        let body = body.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => BadBody::TooLarge,
            _ => BadBody::Incomplete,
        })?;
        if body.is_empty() {
            return Err(BadBody::Empty);
        }
        let parsed = serde_json::from_slice(&body);
        // The text of serde's error is not used, because it would repeat values of the body.
        parsed.map(Self).map_err(|error| match error.classify() {
            Category::Data => BadBody::OtherType(T::EXPECTED),
            Category::Syntax | Category::Eof | Category::Io => BadBody::NoJson {
                line: error.line(),
                column: error.column(),
            },
        })
    }
}

/// The size limit of a body, in bytes.
pub(crate) const MAX_BODY: usize = 256 * 1024;

/// The reason why a body is rejected. Its text contains no part of the body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadBody {
    /// The body is larger than [`MAX_BODY`].
    #[error("the body is larger than {} KiB", MAX_BODY / 1024)]
    TooLarge,
    /// The connection ended before the end of the body.
    #[error("the body could not be read to its end")]
    Incomplete,
    /// The body is empty.
    #[error("the body is empty")]
    Empty,
    /// The body is not JSON. The fields are the position of the error.
    #[error("the body is not JSON: line {line}, column {column}")]
    NoJson {
        /// The line of the error, from 1.
        line: usize,
        /// The column of the error, from 1.
        column: usize,
    },
    /// The body is JSON, but not of the type that the route accepts.
    #[error("the body is JSON, but this route accepts {0}; a field is missing or of another type")]
    OtherType(&'static str),
}

impl IntoResponse for BadBody {
    fn into_response(self) -> Response {
        let status = match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Incomplete | Self::Empty | Self::NoJson { .. } => StatusCode::BAD_REQUEST,
            Self::OtherType(_) => StatusCode::UNPROCESSABLE_ENTITY,
        };
        tracing::warn!(%status, "callback with an invalid body: {self}");
        (status, format!("{self}\n")).into_response()
    }
}
