//! The check of the signatures of the Webhooks API.

use std::{
    fmt,
    marker::PhantomData,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::request::Parts;
use http_body::Body;

use super::{
    ReplayGuard, SecretSource,
    body::{self, Limits},
    message_check::MessageCheck,
    replay::replay,
    webhook::{self, Claim, Target},
};
use crate::{
    MessageAuth, MessageRejection, MessageVerdict, VerifiedMessage,
    check::{Acceptance, Begun, Check, Delivered, Mode},
};

/// Conversion of a buffered body into the type that is handed on. [`SameBody`](super::SameBody) and
/// [`IntoBody`](super::IntoBody) implement this trait. See [`with_body`](super::VerifySignatureLayer::with_body) for an
/// example.
pub trait HandOn<ReqBody>: sealed::Sealed {
    /// The type of the body that is handed on.
    type Body: From<Bytes> + Send;
}

pub(super) struct SignatureCheck<K, H> {
    pub(super) settings: Arc<Settings<K>>,
    pub(super) hand_on: PhantomData<fn() -> H>,
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

    async fn accept(
        &self,
        claimed: Option<Claimed>,
        parts: &mut Parts,
    ) -> Result<Option<Delivered>, MessageRejection> {
        let mark = self.settings.accept(claimed, parts).await?;
        let is_tagging = self.settings.message.is_tagging();
        Ok(mark.map(|mark| Delivered::new(mark, is_tagging)))
    }
}

pub(super) mod sealed {
    #[expect(unnameable_types, reason = "it seals `HandOn`")]
    pub trait Sealed {}
}

/// Options of the signature check.
pub(super) struct Settings<K> {
    pub(super) message: MessageCheck<K>,
    pub(super) clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    pub(super) window: Duration,
    pub(super) host: Option<String>,
    pub(super) path: Option<String>,
    pub(super) limits: Limits,
    pub(super) replay: Option<ReplayGuard>,
}

impl<K: SecretSource> Settings<K> {
    pub(super) fn new(keys: K, mode: Mode) -> Self {
        Self {
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
        }
    }

    /// Checks the headers and the body of a request. Returns the buffered body and the request's verified claim. The
    /// claim is `None` if the request was tagged as rejected.
    async fn check<B: Body>(
        &self,
        parts: &mut Parts,
        body: B,
    ) -> Result<(Bytes, Option<Claimed>), MessageRejection> {
        // The signature covers the hash of the body, so the signature can be checked before the body is read. A
        // rejecting check buffers no unsigned body.
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

    /// Marks a signed request in the guard, and sets its verdict.
    async fn accept(
        &self,
        claimed: Option<Claimed>,
        parts: &mut Parts,
    ) -> Result<Option<Acceptance>, MessageRejection> {
        let Some(Claimed {
            signature, message, ..
        }) = claimed
        else {
            return Ok(None);
        };
        let mark = match &self.replay {
            Some(guard) => match guard.accept(signature, self.window).await {
                Ok(mark) => Some(mark),
                // Another process accepted a copy, or this process accepted a copy while this request waited for the
                // inner service, or a required store is not available.
                Err(rejection) => {
                    let verdict = MessageVerdict::Reject(rejection);
                    self.message.act(verdict, &mut parts.extensions)?;
                    return Ok(None);
                }
            },
            None => None,
        };
        let verdict = MessageVerdict::Allow(message);
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
            message: VerifiedMessage {
                auth: MessageAuth::Signature,
                date: Some(claim.date()),
            },
        })
    }

    fn check_body(&self, claimed: Claimed, hash: &[u8; 32]) -> Result<Claimed, MessageRejection> {
        webhook::check_hash(&claimed.hash, hash)?;
        // A replay that this process remembers is refused before it waits for the inner service.
        match &self.replay {
            Some(guard) if guard.is_accepted(&claimed.signature) => Err(replay()),
            _ => Ok(claimed),
        }
    }
}

/// The claim of a request whose signature has been verified.
pub(super) struct Claimed {
    hash: [u8; 32],
    signature: [u8; 32],
    message: VerifiedMessage,
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

/// Returns the id of the registration that a delivery claims. A `webhook-id` that is present twice, or is longer than
/// any id of the provider, is ignored, so that it is never looked up.
fn webhook_id(parts: &Parts) -> Option<String> {
    let mut values = parts.headers.get_all("webhook-id").into_iter();
    let id = values.next()?.to_str().ok()?;
    (values.next().is_none() && id.len() <= MAX_ID).then(|| id.to_owned())
}

const WINDOW: Duration = Duration::from_secs(5 * 60);
const BODY_LIMIT: usize = 256 * 1024;

/// Default time limit of a body: half of the ten seconds for which the Webhooks API waits for the response.
const BODY_TIME_LIMIT: Duration = Duration::from_secs(5);

const MAX_ID: usize = 128;
