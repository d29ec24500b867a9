//! The service.

use std::task::{Context, Poll};

use http::{HeaderValue, Request, Response, Version, header};
use tokio::time::Instant;
use tower_service::Service;

use super::{PeerIp, PlainText, RejectionResponse, ResponseFuture, layer::Mode, tag};
use crate::{AllowList, Allowed, Rejection, Verdict, observe};

/// Calls the inner service only for callbacks from a callback server, or marks those that are not.
/// See the [module docs](super) for an example.
///
/// The inner service must be [`Clone`], since a request may have to wait for its verdict; the clone it
/// waits with is made ready when it has one.
#[derive(Clone, Debug)]
pub struct VerifySource<S, P, R = PlainText> {
    pub(super) inner: S,
    pub(super) allow: AllowList,
    pub(super) peer: P,
    pub(super) mode: Mode,
    pub(super) response: R,
}

impl<S, P, R, ReqBody, ResBody> Service<Request<ReqBody>> for VerifySource<S, P, R>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    P: PeerIp,
    R: RejectionResponse<ResBody> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, R, ReqBody, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        tag::scrub(request.headers_mut());
        let verdict = match self.peer.peer_ip(request.headers(), request.extensions()) {
            Ok(peer) => {
                let verdict = self.allow.verdict(peer);
                if !verdict.is_allowed()
                    && let Some(settled) = self.allow.recheck(peer)
                {
                    // Not the one that was found ready: it may hold one of the inner service's
                    // places, which a listed peer must not wait for.
                    let inner = self.inner.clone();
                    self.inner = inner.clone();
                    let judge = Judge {
                        allow: self.allow.clone(),
                        mode: self.mode,
                        response: self.response.clone(),
                    };
                    return ResponseFuture::waiting(settled, request, inner, judge);
                }
                verdict
            }
            Err(rejection) => Verdict::Reject(rejection),
        };
        match act(&self.allow, self.mode, verdict, &mut request) {
            Ok(()) => ResponseFuture::inner(self.inner.call(request)),
            Err(rejection) => {
                ResponseFuture::rejected(refuse(&self.response, &rejection, &request))
            }
        }
    }
}

/// What is needed to act on a verdict that comes later.
pub(super) struct Judge<R> {
    pub(super) allow: AllowList,
    pub(super) mode: Mode,
    pub(super) response: R,
}

/// The response to a refused request.
pub(super) fn refuse<R, ReqBody, ResBody>(
    response: &R,
    rejection: &Rejection,
    request: &Request<ReqBody>,
) -> Response<ResBody>
where
    R: RejectionResponse<ResBody>,
{
    let mut response = response.response(rejection);
    // hyper ends a connection whose body nobody reads, without a word. A proxy that is not told may send
    // a genuine callback into it, and cannot send that again.
    if leaves_a_body(request) {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

/// Whether unread bytes of this request stand between the response and the next request.
fn leaves_a_body<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers
            .get(header::CONTENT_LENGTH)
            .is_some_and(|length| length != "0");
    has_body && request.version() <= Version::HTTP_11
}

/// Reports a verdict, and marks the request with it or refuses it.
pub(super) fn act<B>(
    allow: &AllowList,
    mode: Mode,
    verdict: Verdict,
    request: &mut Request<B>,
) -> Result<(), Rejection> {
    match &verdict {
        Verdict::Allow(allowed) => observe::allowed(allowed),
        Verdict::Reject(rejection) => {
            let shared = allow.shared();
            let set = shared.published.load();
            let tagged = mode != Mode::Rejecting;
            observe::refused(rejection, tagged, &shared.refusals, &set, Instant::now());
        }
    }
    // An outer layer, for another list, may have left its own.
    let extensions = request.extensions_mut();
    match mode {
        Mode::Rejecting => {
            extensions.remove::<Verdict>();
            match verdict {
                Verdict::Allow(allowed) => extensions.insert(allowed),
                Verdict::Reject(rejection) => return Err(rejection),
            };
        }
        Mode::Tagging { headers } => {
            match &verdict {
                Verdict::Allow(allowed) => extensions.insert(allowed.clone()),
                Verdict::Reject(_) => extensions.remove::<Allowed>(),
            };
            if headers {
                tag::set(request.headers_mut(), &verdict);
            }
            request.extensions_mut().insert(verdict);
        }
    }
    Ok(())
}
