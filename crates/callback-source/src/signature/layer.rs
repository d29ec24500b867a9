//! The layer and the service of the Webhooks API's signatures.

use std::{
    fmt,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{
    Request, Response,
    request::Parts,
    uri::{Authority, PathAndQuery},
};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    ReplayGuard, SecretSource,
    signature_check::{HandOn, Settings, SignatureCheck, sealed::Sealed},
    webhook::{HTTPS_PORT, sent_host},
};
use crate::{
    MessageRejection, PlainText, RejectionResponse, ResponseFuture,
    check::{Checked, Mode},
};

/// Wraps services in [`VerifySignature`]. See the [module docs](super) for an example.
///
/// `H` says in which type the body is handed on: as it came ([`SameBody`]), or another
/// ([`with_body`](Self::with_body)).
#[must_use]
pub struct VerifySignatureLayer<K, R = PlainText, H = SameBody> {
    settings: Settings<K>,
    response: R,
    hand_on: PhantomData<fn() -> H>,
}

impl<K: SecretSource> VerifySignatureLayer<K> {
    /// Refuses what is not signed with one of the secrets.
    pub fn rejecting(keys: K) -> Self {
        Self::new(keys, Mode::Rejecting)
    }

    /// Lets everything through, with the [`MessageVerdict`](crate::MessageVerdict) in the request's
    /// extensions: to try the check out, or to judge in the handler.
    ///
    /// Only a body that is too large, too slow or broken off is still refused: it cannot be handed on.
    pub fn tagging(keys: K) -> Self {
        Self::new(keys, Mode::Tagging { headers: false })
    }

    fn new(keys: K, mode: Mode) -> Self {
        Self {
            settings: Settings::new(keys, mode),
            response: PlainText,
            hand_on: PhantomData,
        }
    }
}

impl<K, R, H> VerifySignatureLayer<K, R, H> {
    /// How far the date of a request may be from now, before and after. Default: five minutes.
    pub fn window(mut self, window: Duration) -> Self {
        self.settings.window = window;
        self
    }

    /// Another clock than the system's, for tests.
    pub fn clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.settings.clock = Arc::new(now);
        self
    }

    /// The host of the registered URL, a port other than 443 included, for a proxy that does not
    /// keep it. The request's own is then not looked at.
    pub fn host(mut self, host: Authority) -> Self {
        self.settings.host = Some(sent_host(&host, HTTPS_PORT).into_owned());
        self
    }

    /// The path and query of the registered URL, for a proxy that does not keep it. The request's own is
    /// then not looked at: put the layer on that one route only.
    pub fn path(mut self, path: PathAndQuery) -> Self {
        // In contrast to `as_str`, with a `/` before a bare query.
        self.settings.path = Some(path.to_string());
        self
    }

    /// The most bytes that a body may have. Default: 256 KiB.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.settings.limits.bytes = bytes;
        self
    }

    /// The time within which the whole body must arrive. Default: five seconds.
    pub fn body_time_limit(mut self, limit: Duration) -> Self {
        self.settings.limits.time = limit;
        self
    }

    /// By what the source is asked for secrets, instead of the `webhook-id`: the sale unit in the path,
    /// for example. `None`, or nothing in it, is no id.
    ///
    /// What it reads of the request is not proven yet.
    pub fn select_by(
        mut self,
        id: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.settings.message.select_by(id);
        self
    }

    /// The time within which the source must give the secrets. Default: two seconds.
    pub fn secret_time_limit(mut self, limit: Duration) -> Self {
        self.settings.message.lookup_limit(limit);
        self
    }

    /// Refuses the very same request when it comes again within the window. Off by default.
    pub fn replay_guard(mut self, guard: ReplayGuard) -> Self {
        self.settings.replay = Some(guard);
        self
    }

    /// Makes the responses to refused requests in another way.
    pub fn with_response<T>(self, response: T) -> VerifySignatureLayer<K, T, H> {
        VerifySignatureLayer {
            settings: self.settings,
            response,
            hand_on: PhantomData,
        }
    }

    /// Hands the body on as a `B`, for inner services that do not take what the server gives:
    /// `with_body::<Full<Bytes>>()` where the server gives hyper's `Incoming`.
    pub fn with_body<B>(self) -> VerifySignatureLayer<K, R, IntoBody<B>> {
        VerifySignatureLayer {
            settings: self.settings,
            response: self.response,
            hand_on: PhantomData,
        }
    }
}

impl<S, K, R, H> Layer<S> for VerifySignatureLayer<K, R, H>
where
    R: Clone,
{
    type Service = VerifySignature<S, K, R, H>;

    fn layer(&self, inner: S) -> Self::Service {
        VerifySignature(Checked {
            inner,
            check: SignatureCheck {
                settings: Arc::new(self.settings.clone()),
                hand_on: PhantomData,
            },
            response: self.response.clone(),
        })
    }
}

impl<K, R: Clone, H> Clone for VerifySignatureLayer<K, R, H> {
    fn clone(&self) -> Self {
        Self {
            settings: self.settings.clone(),
            response: self.response.clone(),
            hand_on: PhantomData,
        }
    }
}

impl<K, R, H> fmt::Debug for VerifySignatureLayer<K, R, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifySignatureLayer")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Calls the inner service only for deliveries that are signed, or tags those that are not. See the
/// [module docs](super) for an example.
///
/// The inner service must be [`Clone`], since a request has to wait for its body after the inner
/// service was found ready.
pub struct VerifySignature<S, K, R = PlainText, H = SameBody>(Checked<S, SignatureCheck<K, H>, R>);

impl<S, K, R, H, ReqBody, ResBody> Service<Request<ReqBody>> for VerifySignature<S, K, R, H>
where
    S: Service<Request<H::Body>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
    K: SecretSource,
    R: RejectionResponse<ResBody, MessageRejection> + Clone + Send + 'static,
    H: HandOn<ReqBody> + 'static,
    ReqBody: Body + Send + 'static,
    ReqBody::Data: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, S::Response, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        self.0.call(request)
    }
}

impl<S: Clone, K, R: Clone, H> Clone for VerifySignature<S, K, R, H> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S, K, R, H> fmt::Debug for VerifySignature<S, K, R, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifySignature")
            .field("settings", &self.0.check.settings)
            .finish_non_exhaustive()
    }
}

/// In the type in which it came, such as `axum::body::Body`.
#[derive(Clone, Copy, Debug)]
pub struct SameBody(());

impl Sealed for SameBody {}

impl<B: From<Bytes> + Send> HandOn<B> for SameBody {
    type Body = B;
}

/// As a `B`, whatever it came in.
#[derive(Clone, Copy, Debug)]
pub struct IntoBody<B>(PhantomData<fn() -> B>);

impl<B> Sealed for IntoBody<B> {}

impl<ReqBody, B: From<Bytes> + Send> HandOn<ReqBody> for IntoBody<B> {
    type Body = B;
}
