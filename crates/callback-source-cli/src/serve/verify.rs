//! `/verify`: the library's source check, and the response to its verdict.
//!
//! `VerdictResponse` is the inner service of the check, and also builds the refusals. `serve` therefore runs the same
//! layer as a Rust service, with the same rules for headers, waits and logs.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use callback_source::{
    AllowList, Rejection, RejectionKind, RejectionResponse, Verdict,
    verify::{UnixConnection, VerifySource, VerifySourceLayer, tag_headers},
};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use tower_layer::Layer;
use tower_service::Service;

use super::{
    peer::Peer,
    response::{Body, empty, plain},
    status::VerdictCounts,
};
use crate::{args::ServeArgs, config::Client};

/// Source check behind `/verify`.
#[derive(Clone, Debug)]
pub(super) enum Verify {
    Refusing(VerifySource<VerdictResponse, Client, VerdictResponse>),
    ReportOnly(VerifySource<VerdictResponse, Client>),
}

impl Verify {
    pub(super) fn refusing(
        list: AllowList,
        client: Client,
        unsure_status: Option<StatusCode>,
        counts: Arc<VerdictCounts>,
    ) -> Self {
        let respond = VerdictResponse {
            unsure_status,
            report_only: false,
            counts,
        };
        let layer = VerifySourceLayer::rejecting(list, client).with_response(respond.clone());
        Self::Refusing(layer.layer(respond))
    }

    pub(super) fn report_only(list: AllowList, client: Client, counts: Arc<VerdictCounts>) -> Self {
        let respond = VerdictResponse {
            unsure_status: None,
            report_only: true,
            counts,
        };
        Self::ReportOnly(VerifySourceLayer::tagging(list, client).layer(respond))
    }

    pub(super) fn new(
        list: AllowList,
        args: &ServeArgs,
        client: Client,
        counts: Arc<VerdictCounts>,
    ) -> Self {
        match args.report_only {
            true => Self::report_only(list, client, counts),
            false => Self::refusing(list, client, args.unsure_status, counts),
        }
    }

    pub(super) async fn respond(&self, peer: Peer, mut request: Request<()>) -> Response<Body> {
        // A 2xx to CONNECT opens a tunnel, and hyper sends nothing at all if such a response has a `Content-Length`.
        if request.method() == Method::CONNECT {
            let text = "`CONNECT` asks for a tunnel and is not a callback";
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, text);
            let others = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
            response.headers_mut().insert(header::ALLOW, others);
            return response;
        }
        match peer {
            Peer::Tcp { client, .. } => {
                request.extensions_mut().insert(client);
            }
            Peer::Unix => {
                request.extensions_mut().insert(UnixConnection::new());
            }
        }
        self.judge(request).await
    }

    /// Responds to a request whose extensions contain its peer.
    pub(super) async fn judge(&self, request: Request<()>) -> Response<Body> {
        let response = match self {
            Self::Refusing(verify) => verify.clone().call(request).await,
            Self::ReportOnly(verify) => verify.clone().call(request).await,
        };
        response.unwrap_or_else(|never| match never {})
    }
}

/// Service that responds to each verdict.
#[derive(Clone, Debug)]
pub(super) struct VerdictResponse {
    unsure_status: Option<StatusCode>,
    report_only: bool,
    counts: Arc<VerdictCounts>,
}

impl VerdictResponse {
    fn response_to(&self, verdict: &Verdict) -> Response<Body> {
        let mut response = match verdict {
            Verdict::Allow(_) => {
                self.counts.allowed();
                admitted()
            }
            Verdict::Reject(rejection) => {
                self.counts.rejected(rejection);
                match self.report_only {
                    true => admitted(),
                    false => self.refusal(rejection),
                }
            }
        };
        response.headers_mut().extend(tag_headers(verdict));
        response
    }

    fn refusal(&self, rejection: &Rejection) -> Response<Body> {
        let status = refusal_status(rejection.kind(), self.unsure_status);
        let mut response = plain(status, rejection.body_text());
        if let Some(pause) = rejection.retry_after() {
            let pause = pause.as_secs().into();
            response.headers_mut().insert(header::RETRY_AFTER, pause);
        }
        response
    }
}

/// Returns the status of a refusal. `unsure_status` is the value of `--unsure-status`.
pub(super) fn refusal_status(kind: RejectionKind, unsure_status: Option<StatusCode>) -> StatusCode {
    match (kind, unsure_status) {
        (RejectionKind::Unresolved, Some(status)) => status,
        _ => kind.status(),
    }
}

/// The layer calls this service for admitted requests, and for all requests in report-only mode.
impl Service<Request<()>> for VerdictResponse {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        let extensions = request.extensions();
        ready(Ok(match extensions.get::<Verdict>() {
            Some(verdict) => self.response_to(verdict),
            None => empty(StatusCode::INTERNAL_SERVER_ERROR),
        }))
    }
}

impl RejectionResponse<Body> for VerdictResponse {
    fn response(&self, rejection: &Rejection) -> Response<Body> {
        self.response_to(&Verdict::Reject(rejection.clone()))
    }
}

/// Response that admits a request. Its status is 200, not 204, because Envoy admits a request only after a 200. Envoy
/// passes a 204 to the caller as the final response, and the shop never receives the callback.
///
/// `Content-Length` is set here, because hyper omits this header from a response without a body over HTTP/2.
fn admitted() -> Response<Body> {
    let mut response = empty(StatusCode::OK);
    let none = HeaderValue::from_static("0");
    response.headers_mut().insert(header::CONTENT_LENGTH, none);
    response
}
