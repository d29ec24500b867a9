//! The one shape of all checks.
//!
//! A check is a [`Check`]: it judges a request, at once or after it waited, and either leaves its verdict
//! in the request's extensions or gives the reason for a refusal. The rest is the same for all of them and
//! stands here: the [service](Checked), its [future](ResponseFuture), the [refusal](refuse), and the [mark](acceptance)
//! of a message that is accepted only once.

mod acceptance;
mod future;
mod refuse;
mod service;

pub(crate) use acceptance::Delivered;
#[cfg(feature = "axum")]
pub(crate) use acceptance::refused;
#[cfg(feature = "signature")]
pub(crate) use acceptance::{Acceptance, admitted};
pub use future::ResponseFuture;
pub(crate) use service::Checked;

use std::future::Future;

use http::request::Parts;

/// A check of requests with the body `B`.
///
/// It works on the request's head, so that the service alone knows how bodies and futures are typed.
pub(crate) trait Check<B>: Clone {
    /// The body that is handed on.
    type Body;
    /// The reason for a refusal.
    type Rejection: Clone + Send + Sync + 'static;
    /// What a verdict that has to be waited for depends on, the body included.
    type Pending;
    /// What [`finish`](Self::finish) found and [`accept`](Self::accept) needs.
    type Found;

    /// Judges a request at once, if nothing has to be waited for.
    fn begin(
        &self,
        parts: &mut Parts,
        body: B,
    ) -> Begun<Self::Body, Self::Pending, Self::Rejection>;

    /// Waits for what the verdict depends on.
    fn finish(
        &self,
        pending: Self::Pending,
        parts: &mut Parts,
    ) -> impl Future<Output = Result<(Self::Body, Self::Found), Self::Rejection>> + Send;

    /// Judges a request for the last time, right before the inner service is called.
    fn accept(
        &self,
        found: Self::Found,
        parts: &mut Parts,
    ) -> Result<Option<Delivered>, Self::Rejection>;
}

/// How far a check comes without waiting.
pub(crate) enum Begun<B, P, E> {
    /// The inner service is called: the request is admitted, or tagged.
    Passed(B),
    Refused(E),
    Pending(P),
}

/// What becomes of a request that is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It is refused.
    Rejecting,
    /// It is handed on, with the verdict in its extensions and, on request, in its headers.
    Tagging { headers: bool },
}
