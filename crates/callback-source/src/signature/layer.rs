//! The layer of the Webhooks API's signatures.

use std::{
    fmt,
    marker::PhantomData,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{
    request::Parts,
    uri::{Authority, PathAndQuery},
};
use tower_layer::Layer;

use super::{
    ReplayGuard, SecretSource, VerifySignature,
    body::Limits,
    gate::Gate,
    webhook::{HTTPS_PORT, sent_host},
};
use crate::PlainText;

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

/// How deliveries are checked.
pub(super) struct Settings<K> {
    pub(super) gate: Gate<K>,
    pub(super) clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    pub(super) window: Duration,
    pub(super) host: Option<String>,
    pub(super) path: Option<String>,
    pub(super) limits: Limits,
    pub(super) replay: Option<ReplayGuard>,
}

impl<K: SecretSource> VerifySignatureLayer<K> {
    /// Refuses what is not signed with one of the secrets.
    pub fn rejecting(keys: K) -> Self {
        Self::new(keys, false)
    }

    /// Lets everything through, with the [`MessageVerdict`](crate::MessageVerdict) in the request's
    /// extensions: to try the check out, or to judge in the handler.
    ///
    /// Only a body that is too large, too slow or broken off is still refused: it cannot be handed on.
    pub fn tagging(keys: K) -> Self {
        Self::new(keys, true)
    }

    fn new(keys: K, tagging: bool) -> Self {
        Self {
            settings: Settings {
                gate: Gate::new(keys, tagging, webhook_id),
                clock: Arc::new(SystemTime::now),
                window: WINDOW,
                host: None,
                path: None,
                limits: Limits {
                    bytes: BODY_LIMIT,
                    time: BODY_TIME_LIMIT,
                },
                replay: None,
            },
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
        self.settings.gate.select_by(id);
        self
    }

    /// The time within which the source must give the secrets. Default: two seconds.
    pub fn secret_time_limit(mut self, limit: Duration) -> Self {
        self.settings.gate.lookup_limit(limit);
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
        VerifySignature {
            inner,
            settings: Arc::new(self.settings.clone()),
            response: self.response.clone(),
            hand_on: PhantomData,
        }
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

impl<K> Clone for Settings<K> {
    fn clone(&self) -> Self {
        Self {
            gate: self.gate.clone(),
            clock: Arc::clone(&self.clock),
            window: self.window,
            host: self.host.clone(),
            path: self.path.clone(),
            limits: self.limits,
            replay: self.replay.clone(),
        }
    }
}

impl<K> fmt::Debug for Settings<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("gate", &self.gate)
            .field("window", &self.window)
            .field("host", &self.host)
            .field("path", &self.path)
            .field("limits", &self.limits)
            .field("replay", &self.replay.is_some())
            .finish_non_exhaustive()
    }
}

/// In which type a buffered body is handed on.
pub trait HandOn<ReqBody> {
    /// That type.
    type Body: From<Bytes>;
}

/// In the type in which it came, such as `axum::body::Body`.
#[derive(Clone, Copy, Debug)]
pub struct SameBody;

impl<B: From<Bytes>> HandOn<B> for SameBody {
    type Body = B;
}

/// As a `B`, whatever it came in.
#[derive(Clone, Copy, Debug)]
pub struct IntoBody<B>(PhantomData<fn() -> B>);

impl<ReqBody, B: From<Bytes>> HandOn<ReqBody> for IntoBody<B> {
    type Body = B;
}

/// The registration that a delivery claims to belong to. One that is there twice is none, and one
/// that no provider would give is not worth a look-up.
fn webhook_id(parts: &Parts) -> Option<String> {
    let mut values = parts.headers.get_all("webhook-id").into_iter();
    let id = values.next()?.to_str().ok()?;
    (values.next().is_none() && id.len() <= MAX_ID).then(|| id.to_owned())
}

const WINDOW: Duration = Duration::from_secs(5 * 60);
const BODY_LIMIT: usize = 256 * 1024;

/// Half of the ten seconds that the Webhooks API waits for the answer.
const BODY_TIME_LIMIT: Duration = Duration::from_secs(5);

const MAX_ID: usize = 128;
