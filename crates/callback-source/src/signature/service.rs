//! The service that checks the Webhooks API's signatures.

use std::{
    fmt,
    future::poll_fn,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body::Body;
use tower_service::Service;

use super::{
    HandOn, ResponseFuture, SameBody, SecretSource, body,
    layer::Settings,
    webhook::{self, Claim, Target},
};
use crate::{
    MessageAuth, MessageRejection, MessageRejectionKind, MessageVerdict, PlainText,
    RejectionResponse, VerifiedMessage,
    check::{Acceptance, Delivered, Undelivered, refuse_parts},
};

/// Calls the inner service only for deliveries that are signed, or marks those that are not. See the
/// [module docs](super) for an example.
///
/// The inner service must be [`Clone`], since a request has to wait for its body after the inner
/// service was found ready.
pub struct VerifySignature<S, K, R = PlainText, H = SameBody> {
    pub(super) inner: S,
    pub(super) settings: Arc<Settings<K>>,
    pub(super) response: R,
    pub(super) hand_on: PhantomData<fn() -> H>,
}

impl<S, K, R, H, ReqBody, ResBody> Service<Request<ReqBody>> for VerifySignature<S, K, R, H>
where
    S: Service<Request<H::Body>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
    K: SecretSource,
    R: RejectionResponse<ResBody, MessageRejection> + Clone + Send + 'static,
    H: HandOn<ReqBody>,
    ReqBody: Body + Send + 'static,
    ReqBody::Data: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Response, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        // Not the one that was found ready: it may hold one of the inner service's places while the proof
        // is being checked.
        let mut inner = self.inner.clone();
        self.inner = inner.clone();
        let settings = Arc::clone(&self.settings);
        let response = self.response.clone();
        ResponseFuture::new(async move {
            let (mut parts, body) = request.into_parts();
            // Of a layer outside of this one.
            let undelivered = Undelivered::new(&parts.extensions);
            let (body, claimed) = match settings.check(&mut parts, body).await {
                Ok(checked) => checked,
                Err(rejection) => return Ok(refuse_parts(&response, &rejection, &parts)),
            };
            poll_fn(|cx| inner.poll_ready(cx)).await?;
            // Nothing is waited for between the mark and the call: a sender that leaves before the handler
            // has seen the request leaves no mark.
            let mark = match settings.accept(claimed, &mut parts) {
                Ok(mark) => mark,
                Err(rejection) => return Ok(refuse_parts(&response, &rejection, &parts)),
            };
            let delivered = mark.map(|mark| Delivered::new(mark, settings.gate.is_tagging()));
            undelivered.deliver();
            let called = inner.call(Request::from_parts(parts, body.into())).await;
            if let Some(delivered) = delivered {
                match called {
                    Ok(_) => delivered.answered(),
                    Err(_) => delivered.failed(),
                }
            }
            called
        })
    }
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
            && !self.gate.is_tagging()
        {
            self.gate.report(rejection, &parts.extensions);
            return Err(rejection.clone());
        }
        let (bytes, hash) = match body::collect(body, &parts.headers, self.limits).await {
            Ok(collected) => collected,
            Err(kind) => {
                let rejection = MessageRejection::new(kind);
                self.gate.report(&rejection, &parts.extensions);
                return Err(rejection);
            }
        };
        match claimed.and_then(|claimed| self.check_body(claimed, &hash)) {
            Ok(claimed) => Ok((bytes, Some(claimed))),
            Err(rejection) => {
                let verdict = MessageVerdict::Reject(rejection);
                self.gate.act(verdict, &mut parts.extensions)?;
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
                    self.gate.act(verdict, &mut parts.extensions)?;
                    return Ok(None);
                }
            },
            None => None,
        };
        let verdict = MessageVerdict::Allow(signed);
        self.gate.act(verdict, &mut parts.extensions)?;
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
        let secrets = self.gate.secrets(parts).await?;
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

impl<S: Clone, K, R: Clone, H> Clone for VerifySignature<S, K, R, H> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            settings: Arc::clone(&self.settings),
            response: self.response.clone(),
            hand_on: PhantomData,
        }
    }
}

impl<S, K, R, H> fmt::Debug for VerifySignature<S, K, R, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifySignature")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
