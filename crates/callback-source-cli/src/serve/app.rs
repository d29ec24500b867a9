//! Responses of the server by path.
//!
//! The verdict never depends on the body. The body is read and discarded while the verdict is made. On HTTP/1, an
//! unread body would force the server to close the connection after the response.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use callback_source::{AllowList, verify::TrustedProxies};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header, request::Parts};
use hyper::body::Incoming;
use serde::Serialize;
use tokio::time::Instant;

use super::{
    endpoint::{Endpoint, Route},
    metrics::{self, Metrics},
    peer::Peer,
    recorder::record_refusals,
    request_body::DiscardedBody,
    response::{Body, empty, plain},
    status::{self, VerdictCounts},
    status_page::{self, Page},
    verify::{Verify, refusal_status},
};
use crate::{
    args::ServeArgs,
    check::Checked,
    config::{Client, Proxies},
    follow::FollowStatus,
    journal::Journal,
    log,
};

/// The application behind the main listener and the admin listener.
#[derive(Debug)]
pub(super) struct App {
    list: AllowList,
    /// Source checks; `None` for `follow`, which serves only its state.
    checks: Option<ArcSwap<Checks>>,
    follow: FollowStatus,
    counts: Arc<VerdictCounts>,
    metrics: Metrics,
    journal: Option<Journal>,
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
        metrics: Metrics,
        journal: Option<Journal>,
    ) -> Self {
        let checks = Checks::new(&list, args, proxies, &counts);
        Self {
            checks: Some(ArcSwap::from_pointee(checks)),
            list,
            follow,
            counts,
            metrics,
            journal,
            started: Instant::now(),
            stopping: AtomicBool::new(false),
        }
    }

    /// Creates the application of `follow`, which makes no verdicts.
    pub(super) fn without_verify(list: AllowList, follow: FollowStatus, metrics: Metrics) -> Self {
        Self {
            checks: None,
            list,
            follow,
            counts: Arc::default(),
            metrics,
            journal: None,
            started: Instant::now(),
            stopping: AtomicBool::new(false),
        }
    }

    /// Replaces the checks. Requests in flight are still judged by the previous checks.
    pub(super) fn reconfigure(&self, args: &ServeArgs, proxies: &Proxies) {
        if let Some(checks) = &self.checks {
            let new = Checks::new(&self.list, args, proxies, &self.counts);
            checks.store(Arc::new(new));
        }
    }

    /// Returns whether the server is ready. `serve` stays ready while a target of `--follow` fails, because verdicts
    /// are still possible.
    fn is_ready(&self) -> bool {
        self.list.is_ready() && (self.checks.is_some() || self.follow.is_in_sync())
    }

    /// Makes the server report that it is not ready.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Returns the response to a request, and whether the whole body of the request has arrived. If it has not, an
    /// HTTP/1 connection cannot be used for another request.
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
        // The whole request is judged with the same checks, even during a reload.
        let checks = self.checks.as_ref().map(ArcSwap::load_full);
        let start = Instant::now();
        let (peer, is_proxy) = match &checks {
            Some(checks) => peer.judged_by(&checks.trusted),
            None => (peer, false),
        };
        let mut response = match (Route::new(endpoint, head.uri.path()), &checks) {
            (Route::Verify, Some(checks)) => {
                let request = relevant_part(is_proxy && checks.reads_headers, head);
                let response = checks.verify.respond(peer, request).await;
                metrics::responded(response.status().as_u16(), start);
                response
            }
            (Route::Health, _) => plain(StatusCode::OK, "ok\n"),
            (Route::Ready, _) if self.stopping.load(Ordering::Relaxed) => {
                plain(StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
            }
            (Route::Ready, _) if self.is_ready() => plain(StatusCode::OK, "ready\n"),
            (Route::Ready, _) => plain(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            (
                Route::Status
                | Route::StatusPage
                | Route::Metrics
                | Route::History
                | Route::Explain,
                _,
            ) if endpoint != Endpoint::AdminOnly
                && (is_proxy || !is_local(peer, &head.headers)) =>
            {
                plain(StatusCode::NOT_FOUND, "not found\n")
            }
            (Route::Status, checks) => {
                self.status(checks.as_ref().is_some_and(|checks| checks.report_only))
            }
            (Route::StatusPage, Some(checks)) => self.status_page(checks, head.uri.query()).await,
            (Route::Metrics, _) => self.metrics(),
            (Route::History, _) => self.history(head.uri.query()).await,
            (Route::Explain, Some(checks)) => self.explain(checks, head.uri.query()),
            (Route::Verify | Route::StatusPage | Route::Explain | Route::Nothing, _) => {
                plain(StatusCode::NOT_FOUND, "not found\n")
            }
        };
        let never = HeaderValue::from_static("no-store");
        response.headers_mut().insert(header::CACHE_CONTROL, never);
        response
    }

    fn metrics(&self) -> Response<Body> {
        let text = self.metrics.render(&self.list, &self.follow);
        let mut response = plain(StatusCode::OK, text);
        let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, format);
        response
    }

    fn status(&self, report_only: bool) -> Response<Body> {
        let dropped = self.journal.as_ref().map_or(0, Journal::dropped);
        let text = status::json(
            &self.list,
            &self.counts,
            &self.follow,
            report_only,
            dropped,
            self.started,
        );
        json(text)
    }

    async fn status_page(&self, checks: &Checks, query: Option<&str>) -> Response<Body> {
        let events = match &self.journal {
            Some(journal) => {
                record_refusals(journal, &self.counts);
                let since = SystemTime::now().checked_sub(A_WEEK);
                Some(journal.entries(since).await)
            }
            None => None,
        };
        let refreshes = query != Some("still");
        let page = Page {
            list: &self.list,
            counts: &self.counts,
            report_only: checks.report_only,
            refreshes,
            uptime: self.started.elapsed(),
            log_lines_dropped: log::dropped(),
            journal_events_dropped: self.journal.as_ref().map_or(0, Journal::dropped),
            targets: self.follow.all(),
            events,
        };
        let mut response = plain(StatusCode::OK, page.html());
        let headers = response.headers_mut();
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, html);
        let policy = HeaderValue::from_static(status_page::POLICY);
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        if refreshes {
            let (name, value) = status_page::REFRESH;
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }

    async fn history(&self, query: Option<&str>) -> Response<Body> {
        let Some(journal) = &self.journal else {
            return plain(StatusCode::NOT_FOUND, "there is no journal\n");
        };
        record_refusals(journal, &self.counts);
        let number = |name| parameter(query, name).and_then(|text| text.parse().ok());
        let since = number("since").map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
        let peer = parameter(query, "peer").and_then(|text| text.parse().ok());
        let lines = journal.lines(since, peer, number("after")).await;
        let mut response = plain(StatusCode::OK, lines);
        let kind = HeaderValue::from_static("application/jsonl");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }

    fn explain(&self, checks: &Checks, query: Option<&str>) -> Response<Body> {
        let Some(peer) = parameter(query, "peer").and_then(|text| text.parse().ok()) else {
            return plain(StatusCode::BAD_REQUEST, "give a peer: `?peer=192.0.2.1`\n");
        };
        let verdict = self.list.verdict(peer);
        let checked = Checked::new(peer, &verdict);
        let status = match verdict.rejection() {
            Some(rejection) if !checks.report_only => {
                refusal_status(rejection.kind(), checks.unsure_status).as_u16()
            }
            _ => 200,
        };
        json(serde_json::to_string(&Explained { checked, status }))
    }
}

/// The checks of requests, which a reload replaces as a whole.
#[derive(Debug)]
struct Checks {
    verify: Verify,
    trusted: TrustedProxies,
    report_only: bool,
    unsure_status: Option<StatusCode>,
    /// `true` if trusted proxies name the client in an HTTP header.
    reads_headers: bool,
}

impl Checks {
    fn new(
        list: &AllowList,
        args: &ServeArgs,
        proxies: &Proxies,
        counts: &Arc<VerdictCounts>,
    ) -> Self {
        let client = proxies.client.clone();
        Self {
            verify: Verify::new(list.clone(), args, client, Arc::clone(counts)),
            trusted: proxies.trusted.clone(),
            report_only: args.report_only,
            unsure_status: args.unsure_status,
            reads_headers: !matches!(proxies.client, Client::Peer),
        }
    }
}

#[derive(Serialize)]
struct Explained {
    #[serde(flatten)]
    checked: Checked,
    status: u16,
}

fn json(text: serde_json::Result<String>) -> Response<Body> {
    let Ok(text) = text else {
        return empty(StatusCode::INTERNAL_SERVER_ERROR);
    };
    let mut response = plain(StatusCode::OK, text + "\n");
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Returns the undecoded value of a query parameter. This program's own commands never encode the value.
fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    let mut pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// Reduces a request to the parts that determine its verdict. A request that waits for an on-demand refresh stays in
/// memory for up to a second. In this time, many callers can each send a head of 16 KiB.
fn relevant_part(keeps_headers: bool, head: Parts) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = head.method;
    *request.version_mut() = head.version;
    if keeps_headers {
        *request.headers_mut() = head.headers;
        // With these headers, the layer would close the connection after a refusal, because of an unread body.
        request.headers_mut().remove(header::CONTENT_LENGTH);
        request.headers_mut().remove(header::TRANSFER_ENCODING);
    }
    request
}

/// Returns whether the peer of a TCP connection has a loopback address, and sent neither a PROXY header nor an HTTP
/// header of a forwarding proxy.
fn is_local(peer: Peer, headers: &HeaderMap) -> bool {
    let forwarded = |name: &str| {
        // A proxy may write the name with other characters in place of `-`.
        let name = name.replace(|byte: char| !byte.is_ascii_alphanumeric(), "-");
        name.contains("forwarded") || FORWARDING.contains(&name.as_str())
    };
    match peer {
        Peer::Unix | Peer::Tcp { proxy: Some(_), .. } => false,
        Peer::Tcp { client, .. } => {
            client.ip().to_canonical().is_loopback()
                && !headers.keys().any(|name| forwarded(name.as_str()))
        }
    }
}

const A_WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

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
            let peer = |proxy| Peer::Tcp { client, proxy };
            assert!(!is_local(peer(Some(client)), &headers));
            assert!(!is_local(Peer::Unix, &headers));
            is_local(peer(None), &headers)
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
