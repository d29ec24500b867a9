//! The service.

use std::task::{Context, Poll};

use http::{Request, Response};
use tokio::time::Instant;
use tower_service::Service;

use super::{PeerIp, ResponseFuture, layer::Mode, log, tag};
use crate::{
    AllowList, Allowed, HostName, PlainText, Rejection, RejectionResponse, Verdict, check::refuse,
};

/// Calls the inner service only for callbacks from a callback server, or marks those that are not.
/// See the [module docs](super) for an example.
///
/// The inner service must be [`Clone`]: a request may have to wait for its verdict, and a clone that
/// is not ready yet waits with it. After a refusal a clone replaces the service that was found ready,
/// so that a refused request keeps no place of a concurrency limit.
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
        let now = Instant::now();
        let verdict = match self.peer.peer_ip(request.headers(), request.extensions()) {
            Ok(peer) => {
                let verdict = self.allow.verdict_at(peer, now);
                if !verdict.is_allowed()
                    && let Some(settled) = self.allow.refresh_on_demand(peer, now)
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
        match act(&self.allow, self.mode, verdict, &mut request, now) {
            Ok(()) => ResponseFuture::inner(self.inner.call(request)),
            Err(rejection) => {
                // As above: the place is given back.
                self.inner = self.inner.clone();
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

/// Reports a verdict, and marks the request with it or refuses it.
pub(super) fn act<B>(
    allow: &AllowList,
    mode: Mode,
    verdict: Verdict,
    request: &mut Request<B>,
    now: Instant,
) -> Result<(), Rejection> {
    match &verdict {
        Verdict::Allow(allowed) => log::allowed(allowed),
        Verdict::Reject(rejection) => {
            let shared = allow.shared();
            let tagged = mode != Mode::Rejecting;
            let hosts = || {
                let set = shared.published.load();
                let hosts: Vec<_> = set.hosts().map(HostName::as_str).collect();
                hosts.join(",")
            };
            log::refused(rejection, tagged, &shared.refusals, hosts, now);
        }
    }
    // An outer layer, for another list, may have left its own, and one that joined it with a proof.
    let extensions = request.extensions_mut();
    #[cfg(feature = "signature")]
    extensions.remove::<crate::VerifiedCallback>();
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
