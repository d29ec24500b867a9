//! The common structure of all checks.
//!
//! A [`Check`] judges a request at once, or after the request has waited. It either leaves its verdict in the
//! request's extensions or returns the reason for a refusal. All checks share the rest: the [service](Checked), its
//! [future](ResponseFuture), the [refusal](refuse), and the [mark](acceptance) of a message that is accepted only
//! once.

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
/// It works on the request's head. Only the service handles the types of bodies and futures.
pub(crate) trait Check<B>: Clone {
    /// The body that the inner service receives.
    type Body;
    /// The reason for a refusal.
    type Rejection: Clone + Send + Sync + 'static;
    /// State of a request that waits for its verdict, including the body.
    type Pending;
    /// Result of [`finish`](Self::finish), which is passed to [`accept`](Self::accept).
    type Found;

    /// Judges a request at once if it need not wait.
    fn begin(
        &self,
        parts: &mut Parts,
        body: B,
    ) -> Begun<Self::Body, Self::Pending, Self::Rejection>;

    /// Judges a request after it has waited.
    fn finish(
        &self,
        pending: Self::Pending,
        parts: &mut Parts,
    ) -> impl Future<Output = Result<(Self::Body, Self::Found), Self::Rejection>> + Send;

    /// Judges a request for the last time, when the inner service is ready. If the request is admitted, that service
    /// is called right afterwards.
    fn accept(
        &self,
        found: Self::Found,
        parts: &mut Parts,
    ) -> impl Future<Output = Result<Option<Delivered>, Self::Rejection>> + Send;
}

/// Outcome of a check before it waits.
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
    /// The request is handed on, with the verdict in its extensions and, if `headers` is set, in its headers.
    Tagging { headers: bool },
}
