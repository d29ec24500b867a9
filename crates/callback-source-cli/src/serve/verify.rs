//! `/verify`: the library's check, and its verdict as a response.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use callback_source::{
    AllowList, Allowed, Rejection, RejectionKind, RejectionResponse, Verdict,
    verify::{UnixConnection, VerifySource, VerifySourceLayer},
};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use tower_layer::Layer;
use tower_service::Service;

use super::{
    peer::Peer,
    response::{Body, empty, plain},
    status::VerdictCounts,
};
use crate::config::Client;

/// Answers whether a request may pass.
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

    pub(super) async fn respond(&self, peer: Peer, mut request: Request<()>) -> Response<Body> {
        // A 2xx to CONNECT opens a tunnel, and hyper sends nothing at all when such an answer has
        // a length.
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
        let response = match self {
            Self::Refusing(verify) => verify.clone().call(request).await,
            Self::ReportOnly(verify) => verify.clone().call(request).await,
        };
        response.unwrap_or_else(|never| match never {})
    }
}

/// The response to each verdict.
#[derive(Clone, Debug)]
pub(super) struct VerdictResponse {
    unsure_status: Option<StatusCode>,
    report_only: bool,
    counts: Arc<VerdictCounts>,
}

impl VerdictResponse {
    fn allowed(&self, allowed: &Allowed) -> Response<Body> {
        self.counts.count("allow");
        let mut response = admitted();
        let headers = response.headers_mut();
        headers.insert(SOURCE, HeaderValue::from_static("allow"));
        let host = allowed
            .host()
            .and_then(|host| HeaderValue::from_str(host.as_str()).ok());
        if let Some(host) = host {
            headers.insert(HOST, host);
        }
        response
    }

    fn rejected(&self, rejection: &Rejection) -> Response<Body> {
        let reason = rejection.kind().as_str();
        self.counts.count(reason);
        let mut response = if self.report_only {
            admitted()
        } else {
            let mut response = plain(self.status(rejection.kind()), rejection.to_string());
            if let Some(pause) = rejection.retry_after() {
                let pause = pause.as_secs().into();
                response.headers_mut().insert(header::RETRY_AFTER, pause);
            }
            response
        };
        let headers = response.headers_mut();
        headers.insert(SOURCE, HeaderValue::from_static("reject"));
        headers.insert(REASON, HeaderValue::from_static(reason));
        response
    }

    fn status(&self, kind: RejectionKind) -> StatusCode {
        match kind {
            RejectionKind::Unresolved => self.unsure_status.unwrap_or_else(|| kind.status()),
            _ => kind.status(),
        }
    }
}

/// Called for what may pass, and for everything in report-only mode.
impl Service<Request<()>> for VerdictResponse {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        let extensions = request.extensions();
        let verdict = (extensions.get::<Verdict>(), extensions.get::<Allowed>());
        ready(Ok(match verdict {
            (Some(Verdict::Reject(rejection)), _) => self.rejected(rejection),
            (Some(Verdict::Allow(allowed)), _) | (None, Some(allowed)) => self.allowed(allowed),
            (None, None) => empty(StatusCode::INTERNAL_SERVER_ERROR),
        }))
    }
}

impl RejectionResponse<Body> for VerdictResponse {
    fn response(&self, rejection: &Rejection) -> Response<Body> {
        self.rejected(rejection)
    }
}

/// 200, and not 204: Envoy takes nothing else for a yes, and hands a 204 to the caller as the answer
/// to the callback, which the shop then never gets.
///
/// The length is set here because hyper leaves it out of an answer without a body over HTTP/2.
fn admitted() -> Response<Body> {
    let mut response = empty(StatusCode::OK);
    let none = HeaderValue::from_static("0");
    response.headers_mut().insert(header::CONTENT_LENGTH, none);
    response
}

const SOURCE: HeaderName = HeaderName::from_static("x-callback-source");
const HOST: HeaderName = HeaderName::from_static("x-callback-host");
const REASON: HeaderName = HeaderName::from_static("x-callback-reason");
