//! The common structure of all checks.
//!
//! A [`Check`] judges a request at once, or after the request has waited. It either adds its verdict to the request's
//! extensions or returns the reason for a refusal. All checks share the other parts: the [service](Checked), its
//! [future](ResponseFuture), the [refusal](refuse), and the [mark](acceptance) of a message that is accepted only once.

mod acceptance;
#[cfg(feature = "axum")]
mod extract;
mod future;
mod refuse;
mod service;

pub(crate) use acceptance::Delivered;
#[cfg(feature = "signature")]
pub(crate) use acceptance::{Acceptance, admitted};
#[cfg(feature = "axum")]
pub use extract::ExtractorRejection;
pub use future::ResponseFuture;
pub(crate) use service::Checked;

use std::future::Future;

use http::request::Parts;

/// A check of requests with the body `B`.
///
/// A check does not depend on the types of the inner service and its future. Only `Checked` depends on these types.
pub(crate) trait Check<B>: Clone {
    /// The body that the inner service receives.
    type Body;
    /// The reason for a refusal.
    type Rejection: Clone + Send + Sync + 'static;
    /// State of a request that waits for its verdict, including the body.
    type Pending;
    /// Part of the result of [`finish`](Self::finish) that is passed to [`accept`](Self::accept).
    type Found;

    /// Judges a request at once, unless the request has to wait.
    fn begin(
        &self,
        parts: &mut Parts,
        body: B,
    ) -> Begun<Self::Body, Self::Pending, Self::Rejection>;

    /// Judges a request that has to wait.
    fn finish(
        &self,
        pending: Self::Pending,
        parts: &mut Parts,
    ) -> impl Future<Output = Result<(Self::Body, Self::Found), Self::Rejection>> + Send;

    /// Judges a request for the last time, when the inner service is ready. If the request is admitted or tagged, that
    /// service is called right afterwards.
    fn accept(
        &self,
        found: Self::Found,
        parts: &mut Parts,
    ) -> impl Future<Output = Result<Option<Delivered>, Self::Rejection>> + Send;
}

/// Outcome of [`Check::begin`].
pub(crate) enum Begun<B, P, E> {
    /// The request is admitted, or tagged: the inner service is called.
    Passed(B),
    /// The request is refused.
    Refused(E),
    /// The request has to wait for its verdict.
    Pending(P),
}

/// Treatment of a request that is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The request is refused.
    Rejecting,
    /// The request is handed on, with the verdict in its extensions and, if `headers` is `true`, in its headers.
    Tagging { headers: bool },
}
