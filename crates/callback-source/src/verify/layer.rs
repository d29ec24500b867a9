//! The layer.

use tower_layer::Layer;

use super::VerifySource;
use crate::{AllowList, PlainText};

/// Wraps services in [`VerifySource`]. See the [module docs](super) for an example.
#[derive(Clone, Debug)]
#[must_use]
pub struct VerifySourceLayer<P, R = PlainText> {
    allow: AllowList,
    peer: P,
    mode: Mode,
    response: R,
}

/// What becomes of a request whose peer is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Rejecting,
    Tagging { headers: bool },
}

impl<P> VerifySourceLayer<P> {
    /// Refuses what does not come from a callback server.
    pub fn rejecting(allow: AllowList, peer: P) -> Self {
        Self {
            allow,
            peer,
            mode: Mode::Rejecting,
            response: PlainText,
        }
    }

    /// Lets everything through, with the [`Verdict`](crate::Verdict) in the request's extensions: to
    /// try the check out, or to judge in the handler.
    pub fn tagging(allow: AllowList, peer: P) -> Self {
        Self {
            allow,
            peer,
            mode: Mode::Tagging { headers: false },
            response: PlainText,
        }
    }

    /// Also says the verdict in request headers, for an upstream that is not Rust:
    /// `x-callback-source` (`allow` or `reject`), `x-callback-host` (the callback server) and
    /// `x-callback-reason` (why not). The upstream should let pass only what says `allow`.
    ///
    /// Does nothing to a layer that rejects: nothing that is not allowed gets past it.
    pub fn with_tag_headers(mut self) -> Self {
        if let Mode::Tagging { headers } = &mut self.mode {
            *headers = true;
        }
        self
    }
}

impl<P, R> VerifySourceLayer<P, R> {
    /// Makes the responses to refused requests in another way. Does nothing to a layer that tags.
    pub fn with_response<T>(self, response: T) -> VerifySourceLayer<P, T> {
        let Self {
            allow,
            peer,
            mode,
            response: _,
        } = self;
        VerifySourceLayer {
            allow,
            peer,
            mode,
            response,
        }
    }
}

impl<S, P, R> Layer<S> for VerifySourceLayer<P, R>
where
    P: Clone,
    R: Clone,
{
    type Service = VerifySource<S, P, R>;

    fn layer(&self, inner: S) -> Self::Service {
        VerifySource {
            inner,
            allow: self.allow.clone(),
            peer: self.peer.clone(),
            mode: self.mode,
            response: self.response.clone(),
        }
    }
}
