//! Responses of the server by path.
//!
//! The verdict never depends on the body. It is read and discarded while the verdict is made, because an unread
//! body would force the connection to close after each request.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use callback_source::AllowList;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header, request::Parts};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::{
    endpoint::{Endpoint, Route},
    peer::Peer,
    request_body::DiscardedBody,
    response::{Body, empty, plain},
    status::{self, VerdictCounts},
    verify::Verify,
};
use crate::{
    args::ServeArgs,
    config::{Client, Proxies},
    follow::FollowStatus,
};

/// The application behind all listeners.
#[derive(Debug)]
pub(super) struct App {
    list: AllowList,
    /// `None` for `follow`, which serves only its state.
    verify: Option<Verify>,
    follow: FollowStatus,
    counts: Arc<VerdictCounts>,
    report_only: bool,
    /// `true` if trusted proxies name the client in a header.
    reads_headers: bool,
    started: Instant,
    stopping: AtomicBool,
}

impl App {
    pub(super) fn new(
        list: AllowList,
        args: &ServeArgs,
        proxies: &Proxies,
        follow: FollowStatus,
        counts: Arc<VerdictCounts>,
    ) -> Self {
        let client = proxies.client.clone();
        let verify = Verify::new(list.clone(), args, client, Arc::clone(&counts));
        Self {
            list,
            verify: Some(verify),
            follow,
            counts,
            report_only: args.report_only,
            reads_headers: !matches!(proxies.client, Client::Peer),
            started: Instant::now(),
            stopping: AtomicBool::new(false),
        }
    }

    /// The application of `follow`, which gives no verdicts.
    pub(super) fn without_verify(list: AllowList, follow: FollowStatus) -> Self {
        Self {
            list,
            verify: None,
            follow,
            counts: Arc::default(),
            report_only: false,
            reads_headers: false,
            started: Instant::now(),
            stopping: AtomicBool::new(false),
        }
    }

    /// The server stays ready while a target of `serve --follow` fails: it can still decide.
    fn is_ready(&self) -> bool {
        self.list.is_ready() && (self.verify.is_some() || self.follow.is_in_sync())
    }

    /// Makes the server report that it is not ready.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Responds to a request, and returns whether its body has ended by then. If it has not, the rest of the
    /// body precedes the next request on the connection.
    pub(super) async fn respond(
        &self,
        endpoint: Endpoint,
        peer: Peer,
        request: Request<Incoming>,
    ) -> (Response<Body>, bool) {
        let (head, body) = request.into_parts();
        let mut body = DiscardedBody::new(&head, body);
        let mut answer = pin!(self.answer(endpoint, peer, head));
        let mut whole = None;
        let response = loop {
            tokio::select! {
                biased;
                end = body.end(), if whole.is_none() => whole = Some(end),
                response = &mut answer => break response,
            }
        };
        match whole {
            Some(whole) => (response, whole),
            None => (response, body.end_in_time().await),
        }
    }

    async fn answer(&self, endpoint: Endpoint, peer: Peer, head: Parts) -> Response<Body> {
        let mut response = match (Route::new(endpoint, head.uri.path()), &self.verify) {
            (Route::Verify, Some(verify)) => {
                verify.respond(peer, self.relevant_part(peer, head)).await
            }
            (Route::Health, _) => plain(StatusCode::OK, "ok\n"),
            (Route::Ready, _) if self.stopping.load(Ordering::Relaxed) => {
                plain(StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
            }
            (Route::Ready, _) if self.is_ready() => plain(StatusCode::OK, "ready\n"),
            (Route::Ready, _) => plain(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            (Route::Status, _)
                if endpoint == Endpoint::AdminOnly || is_local(peer, &head.headers) =>
            {
                self.status()
            }
            (Route::Verify | Route::Status | Route::Nothing, _) => {
                plain(StatusCode::NOT_FOUND, "not found\n")
            }
        };
        let never = HeaderValue::from_static("no-store");
        response.headers_mut().insert(header::CACHE_CONTROL, never);
        response
    }

    /// Reduces a request to the parts that its verdict depends on. An on-demand refresh keeps a request in memory
    /// for a second, and many callers at a time can each send a head of 16 KiB.
    fn relevant_part(&self, peer: Peer, head: Parts) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = head.method;
        *request.version_mut() = head.version;
        let is_proxy = matches!(peer, Peer::Unix | Peer::Tcp { proxied: true, .. });
        if is_proxy && self.reads_headers {
            *request.headers_mut() = head.headers;
            // With these headers, the layer would expect a body that never arrives.
            request.headers_mut().remove(header::CONTENT_LENGTH);
            request.headers_mut().remove(header::TRANSFER_ENCODING);
        }
        request
    }

    fn status(&self) -> Response<Body> {
        match status::json(
            &self.list,
            &self.counts,
            &self.follow,
            self.report_only,
            self.started,
        ) {
            Ok(text) => {
                let mut response = plain(StatusCode::OK, text + "\n");
                let json = HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, json);
                response
            }
            Err(_) => empty(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

/// Returns whether a request was made on this machine, and not by a proxy on it for another client.
fn is_local(peer: Peer, headers: &HeaderMap) -> bool {
    let forwarded = |name: &str| {
        // A proxy may write the name with other characters in place of `-`.
        let name = name.replace(|byte: char| !byte.is_ascii_alphanumeric(), "-");
        name.contains("forwarded") || FORWARDING.contains(&name.as_str())
    };
    match peer {
        Peer::Unix | Peer::Tcp { proxied: true, .. } => false,
        Peer::Tcp { client, .. } => {
            client.ip().to_canonical().is_loopback()
                && !headers.keys().any(|name| forwarded(name.as_str()))
        }
    }
}

/// Forwarding headers without `forwarded` in their names.
const FORWARDING: [&str; 8] = [
    "cf-connecting-ip",
    "client-ip",
    "fastly-client-ip",
    "true-client-ip",
    "via",
    "x-client-ip",
    "x-envoy-external-address",
    "x-real-ip",
];

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    #[test]
    fn only_a_request_made_on_this_machine_is_local() {
        let local = |peer: &str, header: &str| {
            let mut headers = HeaderMap::new();
            let name: HeaderName = header.parse().unwrap();
            headers.insert(name, HeaderValue::from_static("127.0.0.1"));
            let client = peer.parse().unwrap();
            let peer = |proxied| Peer::Tcp { client, proxied };
            assert!(!is_local(peer(true), &headers));
            assert!(!is_local(Peer::Unix, &headers));
            is_local(peer(false), &headers)
        };
        for peer in [
            "127.0.0.1:1",
            "127.9.9.9:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(local(peer, "accept"), "{peer}");
        }
        for peer in [
            "10.0.0.1:1",
            "[fe80::1]:1",
            "[::ffff:10.0.0.1]:1",
            "0.0.0.0:1",
        ] {
            assert!(!local(peer, "accept"), "{peer}");
        }
        for header in [
            "X-Forwarded-For",
            "x-forwarded-proto",
            "x_forwarded_for",
            "X-Original-Forwarded-For",
            "Forwarded",
            "Via",
            "X-Real-IP",
            "x_real_ip",
            "x.real.ip",
            "X-Forwarded.For",
            "CF-Connecting-IP",
        ] {
            assert!(!local("127.0.0.1:1", header), "{header}");
        }
    }
}
