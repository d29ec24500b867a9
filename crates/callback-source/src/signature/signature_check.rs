//! The check of the Webhooks API's signatures.

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
    body::{self, Limits},
    message_check::MessageCheck,
    webhook::{self, Claim, HTTPS_PORT, Target, sent_host},
};
use crate::{
    MessageAuth, MessageRejection, MessageRejectionKind, MessageVerdict, PlainText,
    RejectionResponse, ResponseFuture, VerifiedMessage,
    check::{Acceptance, Begun, Check, Checked, Delivered, Mode},
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
            settings: Settings {
                message: MessageCheck::new(keys, mode, webhook_id),
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

/// In which type a buffered body is handed on.
pub trait HandOn<ReqBody> {
    /// That type.
    type Body: From<Bytes> + Send;
}

/// In the type in which it came, such as `axum::body::Body`.
#[derive(Clone, Copy, Debug)]
pub struct SameBody;

impl<B: From<Bytes> + Send> HandOn<B> for SameBody {
    type Body = B;
}

/// As a `B`, whatever it came in.
#[derive(Clone, Copy, Debug)]
pub struct IntoBody<B>(PhantomData<fn() -> B>);

impl<ReqBody, B: From<Bytes> + Send> HandOn<ReqBody> for IntoBody<B> {
    type Body = B;
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

struct SignatureCheck<K, H> {
    settings: Arc<Settings<K>>,
    hand_on: PhantomData<fn() -> H>,
}

impl<K, H> Clone for SignatureCheck<K, H> {
    fn clone(&self) -> Self {
        Self {
            settings: Arc::clone(&self.settings),
            hand_on: PhantomData,
        }
    }
}

impl<K, H, B> Check<B> for SignatureCheck<K, H>
where
    K: SecretSource,
    H: HandOn<B>,
    B: Body<Data: Send> + Send,
{
    type Body = H::Body;
    type Rejection = MessageRejection;
    type Pending = B;
    type Found = Option<Claimed>;

    fn begin(&self, _: &mut Parts, body: B) -> Begun<H::Body, B, MessageRejection> {
        Begun::Pending(body)
    }

    async fn finish(
        &self,
        body: B,
        parts: &mut Parts,
    ) -> Result<(H::Body, Option<Claimed>), MessageRejection> {
        let (body, claimed) = self.settings.check(parts, body).await?;
        Ok((body.into(), claimed))
    }

    fn accept(
        &self,
        claimed: Option<Claimed>,
        parts: &mut Parts,
    ) -> Result<Option<Delivered>, MessageRejection> {
        let mark = self.settings.accept(claimed, parts)?;
        let is_tagging = self.settings.message.is_tagging();
        Ok(mark.map(|mark| Delivered::new(mark, is_tagging)))
    }
}

/// How deliveries are checked.
struct Settings<K> {
    message: MessageCheck<K>,
    clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    window: Duration,
    host: Option<String>,
    path: Option<String>,
    limits: Limits,
    replay: Option<ReplayGuard>,
}

impl<K: SecretSource> Settings<K> {
    /// The body of a request that may go on, and what is signed of it, or nothing if its verdict is
    /// there already.
    async fn check<B: Body>(
        &self,
        parts: &mut Parts,
        body: B,
    ) -> Result<(Bytes, Option<Claimed>), MessageRejection> {
        // The signature covers the hash of the body, not the body: nobody can have a body buffered
        // without one.
        let claimed = self.check_headers(parts).await;
        if let Err(rejection) = &claimed
            && !self.message.is_tagging()
        {
            self.message.report(rejection, &parts.extensions);
            return Err(rejection.clone());
        }
        let (bytes, hash) = match body::collect(body, &parts.headers, self.limits).await {
            Ok(collected) => collected,
            Err(kind) => {
                let rejection = MessageRejection::new(kind);
                self.message.report(&rejection, &parts.extensions);
                return Err(rejection);
            }
        };
        match claimed.and_then(|claimed| self.check_body(claimed, &hash)) {
            Ok(claimed) => Ok((bytes, Some(claimed))),
            Err(rejection) => {
                let verdict = MessageVerdict::Reject(rejection);
                self.message.act(verdict, &mut parts.extensions)?;
                Ok((bytes, None))
            }
        }
    }

    /// Gives a request that is signed its verdict, and marks it for the guard.
    fn accept(
        &self,
        claimed: Option<Claimed>,
        parts: &mut Parts,
    ) -> Result<Option<Acceptance>, MessageRejection> {
        let Some(Claimed {
            signature, signed, ..
        }) = claimed
        else {
            return Ok(None);
        };
        let mark = match &self.replay {
            Some(guard) => match guard.mark(signature, self.window) {
                Some(mark) => Some(mark),
                // Another copy was faster, while this one waited for the inner service.
                None => {
                    let verdict = MessageVerdict::Reject(replay());
                    self.message.act(verdict, &mut parts.extensions)?;
                    return Ok(None);
                }
            },
            None => None,
        };
        let verdict = MessageVerdict::Allow(signed);
        self.message.act(verdict, &mut parts.extensions)?;
        if let Some(mark) = &mark {
            mark.send_along(&mut parts.extensions);
        }
        Ok(mark)
    }

    async fn check_headers(&self, parts: &Parts) -> Result<Claimed, MessageRejection> {
        let claim = Claim::from_headers(&parts.headers)?;
        claim.check_date((self.clock)(), self.window)?;
        let mut target = match &self.host {
            Some(host) => Target::from_request_at(parts, host),
            None => Target::from_request(parts)?,
        };
        if let Some(path) = &self.path {
            target = target.with_path_and_query(path);
        }
        let secrets = self.message.secrets(parts).await?;
        claim.check_signature(&target, &secrets)?;
        Ok(Claimed {
            hash: claim.hash(),
            signature: claim.signature(),
            signed: VerifiedMessage {
                auth: MessageAuth::Signature,
                date: Some(claim.date()),
            },
        })
    }

    fn check_body(&self, claimed: Claimed, hash: &[u8; 32]) -> Result<Claimed, MessageRejection> {
        webhook::check_hash(&claimed.hash, hash)?;
        // At once: a replay does not have to wait for the inner service.
        match &self.replay {
            Some(guard) if guard.holds(&claimed.signature) => Err(replay()),
            _ => Ok(claimed),
        }
    }
}

fn replay() -> MessageRejection {
    MessageRejection::new(MessageRejectionKind::Replay)
}

/// What is still to be checked of a request whose headers are signed.
struct Claimed {
    hash: [u8; 32],
    signature: [u8; 32],
    signed: VerifiedMessage,
}

impl<K> Clone for Settings<K> {
    fn clone(&self) -> Self {
        Self {
            message: self.message.clone(),
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
            .field("message", &self.message)
            .field("window", &self.window)
            .field("host", &self.host)
            .field("path", &self.path)
            .field("limits", &self.limits)
            .field("replay", &self.replay.is_some())
            .finish_non_exhaustive()
    }
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
