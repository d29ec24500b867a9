//! Tests of the checks through their layers.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::{Future, poll_fn},
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, advance};
use tower::{
    Layer, Service, ServiceExt, limit::ConcurrencyLimit, service_fn, util::BoxCloneService,
};

use super::*;
use crate::{
    AllowList, MessageAuth, MessageRejection,
    MessageRejectionKind::{
        self, BodyAborted, BodyTimeout, BodyTooLarge, ContentHash, DateAhead, DateStale,
        DuplicateHeader, MissingHeader, Replay, SecretUnavailable as Unavailable, Signature,
        Token as NotTheToken, UnknownKey,
    },
    MessageVerdict, Policy, VerifiedCallback,
    require::RequireVerifiedLayer,
    verify::{SocketAddrPeer, VerifySourceLayer},
};

const PATH: &str = "/hooks?tenant=7";
const URL: &str = "https://shop.example/hooks?tenant=7";
const WINDOW: Duration = Duration::from_secs(300);
const SECOND: Duration = Duration::from_secs(1);
const LIMIT: usize = 256 * 1024;

fn date() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn secret(text: &str) -> Secret {
    Secret::new(text).unwrap()
}

fn rejecting(keys: impl SecretSource) -> VerifySignatureLayer<impl SecretSource> {
    VerifySignatureLayer::rejecting(keys).clock(date)
}

type Answer = Result<Response<Full<Bytes>>, Infallible>;

/// Responds with the request's body, and with the verdict from the request's extensions.
async fn echo<B>(request: Request<B>) -> Answer
where
    B: Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let (parts, body) = request.into_parts();
    let mut response = Response::new(Full::new(body.collect().await.unwrap().to_bytes()));
    if let Some(verdict) = parts.extensions.get::<MessageVerdict>() {
        response.extensions_mut().insert(verdict.clone());
    }
    Ok(response)
}

fn delivery(secret_text: &str, body: &str) -> Request<Full<Bytes>> {
    let url = URL.parse().unwrap();
    let mut request = Request::post(PATH)
        .body(Full::from(body.to_owned()))
        .unwrap();
    *request.headers_mut() =
        webhook::sign(&secret(secret_text), &url, body.as_bytes(), date()).unwrap();
    request
}

/// Sends a request. Returns the body that the inner service received, or the kind of the refusal.
async fn outcome<K: SecretSource, B>(
    layer: VerifySignatureLayer<K>,
    request: Request<B>,
) -> Result<Bytes, MessageRejectionKind>
where
    B: Body<Data = Bytes, Error: std::fmt::Debug> + From<Bytes> + Send + 'static,
{
    let layer = layer.with_response(|rejection: &MessageRejection| {
        let mut response = Response::new(Full::from("no"));
        *response.status_mut() = rejection.status();
        response.extensions_mut().insert(rejection.clone());
        response
    });
    let service = layer.layer(service_fn(echo::<B>));
    let response = service.oneshot(request).await.unwrap();
    match response.extensions().get::<MessageRejection>() {
        Some(rejection) => {
            assert_eq!(response.status(), rejection.status());
            Err(rejection.kind())
        }
        None => Ok(response.into_body().collect().await.unwrap().to_bytes()),
    }
}

/// A body that arrives in frames. After the last frame, it ends, fails, or never ends.
struct Frames {
    frames: std::vec::IntoIter<Bytes>,
    end: End,
}

#[derive(Clone, Copy)]
enum End {
    Trailers,
    Error,
    Never,
    HandedOn,
}

impl Frames {
    fn new(frames: impl IntoIterator<Item = Bytes>, end: End) -> Self {
        let frames: Vec<_> = frames.into_iter().collect();
        Self {
            frames: frames.into_iter(),
            end,
        }
    }
}

impl From<Bytes> for Frames {
    fn from(whole: Bytes) -> Self {
        Self::new([whole], End::HandedOn)
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        if let Some(data) = self.frames.next() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match std::mem::replace(&mut self.end, End::HandedOn) {
            End::Trailers => Poll::Ready(Some(Ok(Frame::trailers(HeaderMap::new())))),
            End::Error => Poll::Ready(Some(Err("connection reset"))),
            End::Never => {
                self.end = End::Never;
                Poll::Pending
            }
            End::HandedOn => Poll::Ready(None),
        }
    }
}

/// A body that must not be read.
struct Untouched(Option<u64>);

impl From<Bytes> for Untouched {
    fn from(_: Bytes) -> Self {
        panic!("it was read")
    }
}

impl Body for Untouched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        panic!("it is read")
    }

    fn size_hint(&self) -> SizeHint {
        self.0.map(SizeHint::with_exact).unwrap_or_default()
    }
}

#[tokio::test]
async fn a_signed_delivery_is_handed_on_byte_for_byte() {
    for body in ["", "{}", "\0\r\n\u{feff} blåbær "] {
        let handed_on = outcome(rejecting(secret("a")), delivery("a", body)).await;
        assert_eq!(handed_on.unwrap(), body.as_bytes());
    }
}

#[tokio::test]
async fn a_delivery_with_another_key_or_body_is_refused() {
    let refused = outcome(rejecting(secret("a")), delivery("b", "{}")).await;
    assert_eq!(refused, Err(Signature));
    let request = delivery("a", "{}").map(|_| Full::from("{ }"));
    assert_eq!(
        outcome(rejecting(secret("a")), request).await,
        Err(ContentHash)
    );
}

#[tokio::test]
async fn a_refusal_is_never_2xx_and_repeats_nothing_of_the_request() {
    let service = rejecting(secret("a")).layer(service_fn(echo));
    let response = service.oneshot(delivery("b", "{}")).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "HMAC-SHA256");
    let text = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(text, "the signature or token is invalid\n");
}

#[tokio::test]
async fn the_window_extends_to_both_sides_and_can_be_set() {
    let at = |now: SystemTime| rejecting(secret("a")).clock(move || now);
    for (layer, expected) in [
        (at(date() + WINDOW), None),
        (at(date() + WINDOW + SECOND), Some(DateStale)),
        (at(date() - WINDOW), None),
        (at(date() - WINDOW - SECOND), Some(DateAhead)),
        (at(date() + SECOND).window(SECOND), None),
        (at(date() + 2 * SECOND).window(SECOND), Some(DateStale)),
    ] {
        let found = outcome(layer, delivery("a", "{}")).await;
        assert_eq!(found.err(), expected);
    }
}

#[tokio::test]
async fn a_body_is_not_read_without_a_signature_of_its_hash() {
    let table = [
        ("b", "authorization", Signature),
        ("a", "x-ms-date", MissingHeader),
        ("a", "host", MissingHeader),
    ];
    for (key, removed, expected) in table {
        let mut request = delivery(key, "{}").map(|_| Untouched(Some(2)));
        if removed != "authorization" {
            request.headers_mut().remove(removed);
        }
        assert_eq!(
            outcome(rejecting(secret("a")), request).await,
            Err(expected)
        );
    }
}

#[tokio::test]
async fn a_body_of_the_limit_is_accepted_and_one_byte_more_is_not() {
    for (length, limit, is_taken) in [
        (LIMIT, None, true),
        (LIMIT + 1, None, false),
        (10, Some(10), true),
        (11, Some(10), false),
        (0, Some(0), true),
        (1, Some(0), false),
    ] {
        let body = "x".repeat(length);
        let limited = || match limit {
            Some(limit) => rejecting(secret("a")).body_limit(limit),
            None => rejecting(secret("a")),
        };
        let known = outcome(limited(), delivery("a", &body)).await;
        assert_eq!(known.is_ok(), is_taken, "{length}");
        // The body is chunked, so its length is known only at the end.
        for size in [1, 7, 4096] {
            let frames = || {
                let chunks = body.as_bytes().chunks(size.max(length / 1000));
                Frames::new(chunks.map(Bytes::copy_from_slice), End::Trailers)
            };
            let chunked = outcome(limited(), delivery("a", &body).map(|_| frames())).await;
            let expected = if is_taken {
                Ok(Bytes::from(body.clone()))
            } else {
                Err(BodyTooLarge)
            };
            assert_eq!(chunked, expected, "{length} in {size}");
        }
    }
}

#[tokio::test]
async fn a_body_that_is_announced_to_be_too_large_is_not_read() {
    let limit = u64::try_from(LIMIT).unwrap();
    let request = delivery("a", "{}").map(|_| Untouched(Some(limit + 1)));
    assert_eq!(
        outcome(rejecting(secret("a")), request).await,
        Err(BodyTooLarge)
    );
    let mut request = delivery("a", "{}").map(|_| Untouched(None));
    let announced = HeaderValue::from(limit + 1);
    request
        .headers_mut()
        .insert(header::CONTENT_LENGTH, announced);
    assert_eq!(
        outcome(rejecting(secret("a")), request).await,
        Err(BodyTooLarge)
    );
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_end_is_given_up_after_the_time_limit() {
    for (layer, limit) in [
        (rejecting(secret("a")), 5 * SECOND),
        (rejecting(secret("a")).body_time_limit(SECOND), SECOND),
    ] {
        let started = Instant::now();
        let body = Frames::new([Bytes::from("{")], End::Never);
        let refused = outcome(layer, delivery("a", "{}").map(|_| body)).await;
        assert_eq!(refused, Err(BodyTimeout));
        assert_eq!(started.elapsed(), limit);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_always_ready_is_given_up_after_the_time_limit_too() {
    let body = Frames::new(vec![Bytes::new(); 100_000], End::Trailers);
    let refused = outcome(rejecting(secret("a")), delivery("a", "").map(|_| body));
    let mut refused = pin!(refused);
    let goes_on = poll_fn(|cx| Poll::Ready(refused.as_mut().poll(cx).is_pending())).await;
    assert!(goes_on, "all of it was read without a check of the time");
    advance(5 * SECOND).await;
    assert_eq!(refused.await, Err(BodyTimeout));
}

#[tokio::test]
async fn a_body_that_breaks_off_is_refused_even_if_all_of_it_arrived() {
    for part in ["", "{", "{}"] {
        let body = Frames::new([Bytes::from(part)], End::Error);
        let refused = outcome(rejecting(secret("a")), delivery("a", "{}").map(|_| body)).await;
        assert_eq!(refused, Err(BodyAborted));
    }
}

#[tokio::test]
async fn a_tagging_layer_also_refuses_a_body_that_it_cannot_hand_on() {
    let tagging = || VerifySignatureLayer::tagging(secret("a")).clock(date);
    let body = Frames::new([Bytes::from("{")], End::Error);
    let refused = outcome(tagging(), delivery("b", "{}").map(|_| body)).await;
    assert_eq!(refused, Err(BodyAborted));
    let refused = outcome(tagging().body_limit(1), delivery("a", "{}")).await;
    assert_eq!(refused, Err(BodyTooLarge));
}

#[tokio::test]
async fn a_tagging_layer_hands_on_every_request_with_its_verdict() {
    let service = VerifySignatureLayer::tagging(secret("a"))
        .clock(date)
        .layer(service_fn(echo));
    for (request, expected) in [
        (delivery("a", "{}"), None),
        (delivery("b", "{}"), Some(Signature)),
        (Request::new(Full::from("{}")), Some(MissingHeader)),
        (
            delivery("a", "[]").map(|_| Full::from("{}")),
            Some(ContentHash),
        ),
    ] {
        let response = service.clone().oneshot(request).await.unwrap();
        let verdict = response.extensions().get::<MessageVerdict>().unwrap();
        let kind = verdict.rejection().map(MessageRejection::kind);
        assert_eq!(kind, expected);
        let signed = verdict
            .allowed()
            .map(|signed| (signed.auth(), signed.date()));
        assert_eq!(signed.is_some(), expected.is_none());
        if let Some(signed) = signed {
            assert_eq!(signed, (MessageAuth::Signature, Some(date())));
        }
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            "{}"
        );
    }
}

#[tokio::test]
async fn host_and_path_can_be_pinned_behind_a_proxy_that_rewrites_them() {
    let rewritten = || {
        let mut request = delivery("a", "{}");
        *request.uri_mut() = Uri::from_static("/internal");
        let host = HeaderValue::from_static("10.0.0.7:8080");
        request.headers_mut().insert(header::HOST, host);
        request
    };
    let pinned = || {
        rejecting(secret("a"))
            .host("shop.example".parse().unwrap())
            .path(PATH.parse().unwrap())
    };
    assert!(outcome(pinned(), rewritten()).await.is_ok());
    assert!(outcome(pinned(), delivery("a", "{}")).await.is_ok());
    for typed in ["shop.example:443", "Shop.Example", "user@shop.example"] {
        let typed = pinned().host(typed.parse().unwrap());
        assert!(outcome(typed, rewritten()).await.is_ok());
    }
    assert_eq!(
        outcome(rejecting(secret("a")), rewritten()).await,
        Err(Signature)
    );
    // Only the pinned host is read, even if the proxy sends two hosts.
    let mut twice = rewritten();
    twice
        .headers_mut()
        .append(header::HOST, HeaderValue::from_static("b"));
    assert!(outcome(pinned(), twice).await.is_ok());
    for other in ["other.example", "shop.example:8443", "shop.example."] {
        let other = pinned().host(other.parse().unwrap());
        assert_eq!(outcome(other, delivery("a", "{}")).await, Err(Signature));
    }
}

#[tokio::test]
async fn host_and_path_can_be_pinned_to_the_registered_url() {
    for url in [
        URL,
        "https://shop.example?tenant=7",
        "https://Shop.example:443",
    ] {
        let url: Uri = url.parse().unwrap();
        let mut request = delivery("a", "{}");
        *request.headers_mut() = webhook::sign(&secret("a"), &url, b"{}", date()).unwrap();
        *request.uri_mut() = Uri::from_static("/internal");
        request.headers_mut().remove(header::HOST);
        let pinned = rejecting(secret("a"))
            .host(url.authority().unwrap().clone())
            .path(url.path_and_query().unwrap().clone());
        assert!(outcome(pinned, request).await.is_ok(), "{url}");
    }
}

#[tokio::test]
async fn a_replay_is_refused_and_a_retry_that_is_signed_anew_is_not() {
    let guard = ReplayGuard::default();
    let layer = |now| {
        rejecting(secret("a"))
            .clock(move || now)
            .replay_guard(guard.clone())
    };
    let first = || {
        let mut request = delivery("a", "{}");
        let id = HeaderValue::from_static("registration");
        request.headers_mut().insert("webhook-id", id);
        request
    };
    // The guard does not remember a request that is refused because of its body.
    let forged = first().map(|_| Full::from("{ }"));
    assert_eq!(outcome(layer(date()), forged).await, Err(ContentHash));
    assert!(outcome(layer(date()), first()).await.is_ok());
    assert_eq!(outcome(layer(date()), first()).await, Err(Replay));
    assert_eq!(outcome(layer(date() + WINDOW), first()).await, Err(Replay));
    // The id is not signed, so the same request with another id is a replay.
    let mut renamed = first();
    renamed
        .headers_mut()
        .insert("webhook-id", HeaderValue::from_static("other"));
    assert_eq!(outcome(layer(date()), renamed).await, Err(Replay));

    let later = date() + 2 * SECOND;
    let mut retry = first();
    let url = URL.parse().unwrap();
    retry
        .headers_mut()
        .extend(webhook::sign(&secret("a"), &url, b"{}", later).unwrap());
    assert!(outcome(layer(later), retry).await.is_ok());
}

/// Calls a service as a server does: polls it until it is ready, and keeps it until the response is complete.
async fn served<S>(service: &mut S, request: Request<Full<Bytes>>) -> S::Future
where
    S: Service<Request<Full<Bytes>>, Error: std::fmt::Debug>,
{
    service.ready().await.unwrap().call(request)
}

/// A service with a guard, in both modes. Inside a tagging layer, a policy refuses requests.
type Guarded<S> = BoxCloneService<Request<Full<Bytes>>, Response<Full<Bytes>>, S>;

fn guarded<S>(guard: &ReplayGuard, inner: S) -> [Guarded<S::Error>; 2]
where
    S: Service<Request<Full<Bytes>>, Response = Response<Full<Bytes>>>,
    S: Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    let tagging = VerifySignatureLayer::tagging(secret("a")).clock(date);
    let joined = RequireVerifiedLayer::new(Policy::MessageOnly).layer(inner.clone());
    [
        BoxCloneService::new(
            rejecting(secret("a"))
                .replay_guard(guard.clone())
                .layer(inner),
        ),
        BoxCloneService::new(tagging.replay_guard(guard.clone()).layer(joined)),
    ]
}

async fn status_of<S>(service: &mut S, request: Request<Full<Bytes>>) -> StatusCode
where
    S: Service<Request<Full<Bytes>>, Response = Response<Full<Bytes>>, Error: std::fmt::Debug>,
{
    served(service, request).await.await.unwrap().status()
}

#[tokio::test]
async fn a_sender_that_leaves_before_the_handler_is_called_may_send_the_same_again() {
    for mode in [0, 1] {
        let guard = ReplayGuard::default();
        let limited = ConcurrencyLimit::new(service_fn(echo::<Full<Bytes>>), 1);
        let mut service = guarded(&guard, limited.clone())[mode].clone();

        let mut waiting = Box::pin(served(&mut service, delivery("a", "{}")).await);
        let mut busy = limited.clone();
        ServiceExt::<Request<Full<Bytes>>>::ready(&mut busy)
            .await
            .unwrap();
        assert!(waiting.as_mut().now_or_never().is_none(), "it waits");
        drop(waiting);
        drop(busy);

        let again = status_of(&mut service, delivery("a", "{}")).await;
        assert_eq!(again, StatusCode::OK, "{mode}");
        let replay = status_of(&mut service, delivery("a", "{}")).await;
        assert_eq!(replay, StatusCode::CONFLICT, "{mode}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_leaves_while_a_layer_inside_waits_may_send_the_same_again() {
    // The list never gets its first answer, so an unlisted peer waits.
    let list = AllowList::builder()
        .host("h.test".parse().unwrap())
        .net("192.0.2.1/32".parse().unwrap())
        .unwrap()
        .spawn(|_| std::future::pending::<Result<crate::Answer, crate::ResolveError>>());
    let source = VerifySourceLayer::rejecting(list, SocketAddrPeer);
    let layer = VerifySignatureLayer::rejecting(secret("a")).clock(date);
    let layer = layer.replay_guard(ReplayGuard::default());
    let mut service = layer.layer(source.layer(service_fn(echo::<Full<Bytes>>)));
    let from = |peer: &str| {
        let mut request = delivery("a", "{}");
        let peer: SocketAddr = peer.parse().unwrap();
        request.extensions_mut().insert(peer);
        request
    };
    let mut waiting = Box::pin(served(&mut service, from("192.0.2.9:1")).await);
    assert!(waiting.as_mut().now_or_never().is_none(), "it waits");
    drop(waiting);
    assert_eq!(
        status_of(&mut service, from("192.0.2.1:1")).await,
        StatusCode::OK
    );
    assert_eq!(
        status_of(&mut service, from("192.0.2.1:1")).await,
        StatusCode::CONFLICT
    );

    let busy = Arc::new(AtomicBool::new(true));
    let is_busy = Arc::clone(&busy);
    let tokens = move |_: Option<String>| {
        let is_busy = is_busy.load(Ordering::Relaxed);
        async move {
            if is_busy {
                std::future::pending::<()>().await;
            }
            Token::new("token").map(Secrets::from)
        }
    };
    // The token layer reads the `Authorization` header, which does not contain the signature.
    let token = VerifyTokenLayer::rejecting(tokens);
    let layer = VerifySignatureLayer::rejecting(secret("a")).clock(date);
    let layer = layer.replay_guard(ReplayGuard::default());
    let mut service = layer.layer(token.layer(service_fn(echo::<Full<Bytes>>)));
    let moved = || {
        let mut request = delivery("a", "{}");
        let signed = request.headers_mut().remove("authorization").unwrap();
        request
            .headers_mut()
            .insert("x-vipps-authorization", signed);
        let token = HeaderValue::from_static("token");
        request.headers_mut().insert("authorization", token);
        request
    };
    let mut waiting = Box::pin(served(&mut service, moved()).await);
    assert!(waiting.as_mut().now_or_never().is_none(), "it waits");
    drop(waiting);
    busy.store(false, Ordering::Relaxed);
    assert_eq!(status_of(&mut service, moved()).await, StatusCode::OK);
    assert_eq!(status_of(&mut service, moved()).await, StatusCode::CONFLICT);
}

#[tokio::test]
async fn behind_a_tagging_layer_a_delivery_is_accepted_when_the_policy_admits_it() {
    /// Service that always reports that it is ready, like every service within axum's `Router`, and waits only after it
    /// is called.
    #[derive(Clone)]
    struct Later<S>(ConcurrencyLimit<S>);

    impl<S> Service<Request<Full<Bytes>>> for Later<S>
    where
        S: Service<Request<Full<Bytes>>, Response = Response<Full<Bytes>>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send,
    {
        type Response = Response<Full<Bytes>>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
            Box::pin(self.0.clone().oneshot(request))
        }
    }

    let working = service_fn(async |_: Request<Full<Bytes>>| -> Answer {
        tokio::task::yield_now().await;
        Ok(Response::new(Full::default()))
    });
    let joined = RequireVerifiedLayer::new(Policy::MessageOnly).layer(working);
    let limited = ConcurrencyLimit::new(joined, 1);
    let layer = VerifySignatureLayer::tagging(secret("a")).clock(date);
    let layer = layer.replay_guard(ReplayGuard::default());
    let mut service = layer.layer(Later(limited.clone()));

    let mut busy = limited.clone();
    ServiceExt::<Request<Full<Bytes>>>::ready(&mut busy)
        .await
        .unwrap();
    let mut waiting = Box::pin(served(&mut service, delivery("a", "{}")).await);
    assert!(waiting.as_mut().now_or_never().is_none(), "it waits");
    drop((waiting, busy));
    // The next request reaches the handler, and then its sender disconnects.
    let mut working = Box::pin(served(&mut service, delivery("a", "{}")).await);
    assert!(working.as_mut().now_or_never().is_none(), "it works");
    drop(working);
    let replay = status_of(&mut service, delivery("a", "{}")).await;
    assert_eq!(replay, StatusCode::CONFLICT);
}

#[tokio::test]
async fn one_of_two_copies_that_wait_for_the_handler_is_accepted() {
    for mode in [0, 1] {
        let limited = ConcurrencyLimit::new(service_fn(echo::<Full<Bytes>>), 1);
        let mut service = guarded(&ReplayGuard::default(), limited.clone())[mode].clone();
        let mut waiting = Vec::new();
        for _ in 0..3 {
            waiting.push(Box::pin(served(&mut service, delivery("a", "{}")).await));
        }
        let mut busy = limited.clone();
        ServiceExt::<Request<Full<Bytes>>>::ready(&mut busy)
            .await
            .unwrap();
        for waiting in &mut waiting {
            assert!(waiting.as_mut().now_or_never().is_none(), "it waits");
        }
        // The first waiting sender disconnects, which does not affect the other senders.
        drop(waiting.remove(0));
        drop(busy);
        let mut statuses = Vec::new();
        for waiting in waiting {
            statuses.push(waiting.await.unwrap().status());
        }
        assert_eq!(statuses, [StatusCode::OK, StatusCode::CONFLICT], "{mode}");
    }
}

#[tokio::test]
async fn a_copy_that_waited_too_long_is_tagged_as_a_replay() {
    let limited = ConcurrencyLimit::new(service_fn(echo::<Full<Bytes>>), 1);
    let layer = VerifySignatureLayer::tagging(secret("a"))
        .clock(date)
        .replay_guard(ReplayGuard::default());
    let mut service = layer.layer(limited.clone());
    let first = served(&mut service, delivery("a", "{}")).await;
    let mut second = Box::pin(served(&mut service, delivery("a", "{}")).await);
    let mut busy = limited.clone();
    ServiceExt::<Request<Full<Bytes>>>::ready(&mut busy)
        .await
        .unwrap();
    assert!(second.as_mut().now_or_never().is_none(), "it waits");
    drop(busy);
    for (response, expected) in [
        (second.await.unwrap(), None),
        (first.await.unwrap(), Some(Replay)),
    ] {
        let verdict = response.extensions().get::<MessageVerdict>().unwrap();
        let kind = verdict.rejection().map(MessageRejection::kind);
        assert_eq!(kind, expected);
    }
}

#[tokio::test]
async fn a_delivery_is_accepted_whatever_the_handler_responds() {
    for status in [200, 404, 500, 503] {
        let inner = service_fn(move |_: Request<Full<Bytes>>| async move {
            let mut response = Response::new(Full::<Bytes>::default());
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            Ok::<_, Infallible>(response)
        });
        for mode in [0, 1] {
            let mut service = guarded(&ReplayGuard::default(), inner)[mode].clone();
            let first = status_of(&mut service, delivery("a", "{}")).await;
            assert_eq!(first, status);
            let replay = status_of(&mut service, delivery("a", "{}")).await;
            assert_eq!(replay, StatusCode::CONFLICT, "{status}");
        }
    }
}

#[tokio::test]
async fn a_delivery_is_accepted_if_its_sender_leaves_while_the_handler_works() {
    for mode in [0, 1] {
        let inner =
            service_fn(async |_: Request<Full<Bytes>>| -> Answer { std::future::pending().await });
        let mut service = guarded(&ReplayGuard::default(), inner)[mode].clone();
        let mut working = Box::pin(served(&mut service, delivery("a", "{}")).await);
        assert!(working.as_mut().now_or_never().is_none(), "it works");
        drop(working);
        let replay = status_of(&mut service, delivery("a", "{}")).await;
        assert_eq!(replay, StatusCode::CONFLICT, "{mode}");
    }
}

#[tokio::test]
async fn an_error_or_a_panic_of_the_inner_service_withdraws_the_mark() {
    let fails = Arc::new(AtomicUsize::new(0));
    let times = Arc::clone(&fails);
    let inner = service_fn(move |_: Request<Full<Bytes>>| {
        let time = times.fetch_add(1, Ordering::Relaxed);
        async move {
            match time {
                0 => Err("overloaded"),
                1 => panic!("the handler panics"),
                _ => Ok(Response::new(Full::<Bytes>::default())),
            }
        }
    });
    for mode in [0, 1] {
        fails.store(0, Ordering::Relaxed);
        let mut service = guarded(&ReplayGuard::default(), inner.clone())[mode].clone();
        let failed = served(&mut service, delivery("a", "{}")).await.await;
        assert_eq!(failed.err(), Some("overloaded"));
        let called = served(&mut service, delivery("a", "{}")).await;
        assert!(tokio::spawn(called).await.unwrap_err().is_panic());
        let again = status_of(&mut service, delivery("a", "{}")).await;
        assert_eq!(again, StatusCode::OK);
        let replay = status_of(&mut service, delivery("a", "{}")).await;
        assert_eq!(replay, StatusCode::CONFLICT);
    }
}

#[tokio::test]
async fn a_panic_before_the_call_leaves_no_mark() {
    /// Service that panics at the second call of `poll_ready`.
    #[derive(Clone)]
    struct Panics(Arc<AtomicUsize>);

    impl Service<Request<Full<Bytes>>> for Panics {
        type Response = Response<Full<Bytes>>;
        type Error = Infallible;
        type Future = std::future::Ready<Answer>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            assert_ne!(self.0.fetch_add(1, Ordering::Relaxed), 1, "it panics");
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
            std::future::ready(Ok(Response::new(Full::default())))
        }
    }

    let mut service = guarded(&ReplayGuard::default(), Panics(Arc::default()))[0].clone();
    let called = served(&mut service, delivery("a", "{}")).await;
    assert!(tokio::spawn(called).await.unwrap_err().is_panic());
    let again = status_of(&mut service, delivery("a", "{}")).await;
    assert_eq!(again, StatusCode::OK);
}

#[tokio::test]
async fn a_delivery_that_an_inner_layer_refused_is_accepted_later_but_only_once() {
    type Boxed = BoxCloneService<Request<Full<Bytes>>, Response<Full<Bytes>>, Infallible>;

    let list = |peers: &[&str]| {
        let peers = peers.iter().map(|peer| peer.parse::<IpAddr>().unwrap());
        AllowList::fixed(peers.collect::<Vec<_>>())
    };
    let (unknown, known) = (list(&[]), list(&["192.0.2.1"]));
    let handler = || service_fn(echo::<Full<Bytes>>);
    let guard = ReplayGuard::default;
    let tagging = |guard: &ReplayGuard| {
        let layer = VerifySignatureLayer::tagging(secret("a")).clock(date);
        layer.replay_guard(guard.clone())
    };
    let signed = |guard: &ReplayGuard| rejecting(secret("a")).replay_guard(guard.clone());
    let joined = |guard: &ReplayGuard, policy, list: &AllowList| -> [Boxed; 2] {
        let source = VerifySourceLayer::tagging(list.clone(), SocketAddrPeer);
        let inner = RequireVerifiedLayer::new(policy).layer(handler());
        [
            Boxed::new(source.layer(tagging(guard).layer(inner.clone()))),
            Boxed::new(source.layer(signed(guard).layer(inner))),
        ]
    };
    let conflict = StatusCode::CONFLICT;
    let mut cases: Vec<(StatusCode, &str, Boxed, Boxed, StatusCode)> = Vec::new();
    for mode in [0, 1] {
        for policy in [Policy::Both, Policy::SourceOnly] {
            for (status, peer, list) in [
                (StatusCode::FORBIDDEN, "192.0.2.2", &known),
                (StatusCode::SERVICE_UNAVAILABLE, "192.0.2.1", &unknown),
            ] {
                let guard = guard();
                let [refusing, admitting] =
                    [list, &known].map(|list| joined(&guard, policy, list)[mode].clone());
                // `SourceOnly` ignores the verdict of the tagging signature layer, so the replay is admitted.
                let replay = match (mode, policy) {
                    (0, Policy::SourceOnly) => StatusCode::OK,
                    _ => conflict,
                };
                cases.push((status, peer, refusing, admitting, replay));
            }
        }
        // The policy requires a layer that is missing.
        let guard = guard();
        let inner = RequireVerifiedLayer::new(Policy::Both).layer(handler());
        let refusing = [
            Boxed::new(tagging(&guard).layer(inner.clone())),
            Boxed::new(signed(&guard).layer(inner)),
        ];
        let admitting = joined(&guard, Policy::Both, &known);
        cases.push((
            StatusCode::INTERNAL_SERVER_ERROR,
            "192.0.2.1",
            refusing[mode].clone(),
            admitting[mode].clone(),
            conflict,
        ));
        // The layers are in reverse order: the source layer is inside.
        let guard = ReplayGuard::default();
        let [refusing, admitting] = [&unknown, &known].map(|list| {
            let inner = VerifySourceLayer::rejecting(list.clone(), SocketAddrPeer).layer(handler());
            match mode {
                0 => {
                    let joined = RequireVerifiedLayer::new(Policy::Both).layer(handler());
                    let inner = VerifySourceLayer::rejecting(list.clone(), SocketAddrPeer);
                    Boxed::new(tagging(&guard).layer(inner.layer(joined)))
                }
                _ => Boxed::new(signed(&guard).layer(inner)),
            }
        });
        let unsure = StatusCode::SERVICE_UNAVAILABLE;
        cases.push((unsure, "192.0.2.1", refusing, admitting, conflict));
    }
    // Another signature layer, or a token layer, is inside.
    let guard = guard();
    let [refusing, admitting] = ["b", "a"].map(|key| {
        let inside = rejecting(secret(key)).replay_guard(ReplayGuard::default());
        Boxed::new(signed(&guard).layer(inside.layer(handler())))
    });
    let wrong = StatusCode::UNAUTHORIZED;
    cases.push((wrong, "192.0.2.1", refusing, admitting, conflict));
    let guard = ReplayGuard::default();
    let tokens = VerifyTokenLayer::rejecting(Token::new("a").unwrap());
    let refusing = Boxed::new(signed(&guard).layer(tokens.layer(handler())));
    let admitting = Boxed::new(signed(&guard).layer(handler()));
    cases.push((wrong, "192.0.2.1", refusing, admitting, conflict));

    for (number, case) in cases.into_iter().enumerate() {
        let (status, peer, mut refusing, mut admitting, expected) = case;
        let from = |peer: &str| {
            let mut request = delivery("a", "{}");
            let peer = SocketAddr::new(peer.parse().unwrap(), 4711);
            request.extensions_mut().insert(peer);
            request
        };
        for _ in 0..2 {
            let refused = status_of(&mut refusing, from(peer)).await;
            assert_eq!(refused, status, "{number}");
        }
        let admitted = status_of(&mut admitting, from("192.0.2.1")).await;
        assert_eq!(admitted, StatusCode::OK, "{number}");
        let replay = status_of(&mut admitting, from("192.0.2.1")).await;
        assert_eq!(replay, expected, "{number}");
    }
}

#[tokio::test]
async fn without_a_guard_the_same_request_is_accepted_twice() {
    let layer = rejecting(secret("a"));
    for _ in 0..2 {
        assert!(outcome(layer.clone(), delivery("a", "{}")).await.is_ok());
    }
}

#[tokio::test]
async fn the_secret_is_that_of_the_registration() {
    let keys = || {
        HashMap::from([
            ("one".to_owned(), Secrets::from(secret("a"))),
            (
                "two".to_owned(),
                [secret("b"), secret("c")].into_iter().collect(),
            ),
            ("none".to_owned(), Secrets::default()),
        ])
    };
    for (ids, key, expected) in [
        (vec!["one"], "a", None),
        (vec!["two"], "b", None),
        (vec!["two"], "c", None),
        (vec!["one"], "b", Some(Signature)),
        (vec!["three"], "a", Some(UnknownKey)),
        (vec!["none"], "a", Some(UnknownKey)),
        (vec![""], "a", Some(UnknownKey)),
        (vec![], "a", Some(UnknownKey)),
        (vec!["one", "one"], "a", Some(UnknownKey)),
    ] {
        let mut request = delivery(key, "{}");
        for id in &ids {
            let id = HeaderValue::from_static(id);
            request.headers_mut().append("webhook-id", id);
        }
        let found = outcome(rejecting(keys()), request).await;
        assert_eq!(found.err(), expected, "{ids:?} {key}");
    }
}

/// Returns the id that is looked up for a request with these values of `webhook-id`.
async fn asked_for(ids: &[&[u8]]) -> Option<String> {
    let asked = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&asked);
    let source = move |id: Option<String>| {
        *seen.lock().unwrap() = Some(id);
        async { Ok::<_, Infallible>(Secrets::from(secret("a"))) }
    };
    let mut request = delivery("a", "{}");
    for id in ids {
        let id = HeaderValue::from_bytes(id).unwrap();
        request.headers_mut().append("webhook-id", id);
    }
    outcome(rejecting(source), request).await.unwrap();
    let id = asked.lock().unwrap().take();
    id.expect("it was asked")
}

#[tokio::test]
async fn a_webhook_id_must_be_present_once_with_at_most_128_bytes() {
    let longest = "x".repeat(128);
    for id in ["x", "683c3fbe-6bd8-44e0-b9ef-a8b1a4aa0b0c", &longest] {
        assert_eq!(asked_for(&[id.as_bytes()]).await.as_deref(), Some(id));
    }
    for ids in [
        &[][..],
        &[b"".as_slice()],
        &[b"x", b"x"],
        &[b"", b"x"],
        &["bl\u{e5}".as_bytes()],
        &["x".repeat(129).as_bytes()],
        &["x".repeat(60_000).as_bytes()],
    ] {
        assert_eq!(asked_for(ids).await, None, "{}", ids.len());
    }
}

#[tokio::test]
async fn an_empty_id_is_treated_as_missing_and_has_no_secret() {
    let keys = HashMap::from([(String::new(), Secrets::from(secret("a")))]);
    let mut request = delivery("a", "{}");
    request
        .headers_mut()
        .insert("webhook-id", HeaderValue::from_static(""));
    let found = outcome(rejecting(keys.clone()), request).await;
    assert_eq!(found, Err(UnknownKey));
    let selected = rejecting(keys).select_by(|_| Some(String::new()));
    let found = outcome(selected, delivery("a", "{}")).await;
    assert_eq!(found, Err(UnknownKey));

    let tokens = HashMap::from([(String::new(), Secrets::from(Token::new("a").unwrap()))]);
    let layer = VerifyTokenLayer::rejecting(tokens).select_by(|_| Some(String::new()));
    let found = token_outcome(layer, with_tokens(&["a"])).await;
    assert_eq!(found, Some(UnknownKey));
}

#[tokio::test]
async fn a_path_may_have_any_length_if_all_paths_share_one_token() {
    let mut request = with_tokens(&["a"]);
    *request.uri_mut() = format!("/{}", "x".repeat(60_000)).parse().unwrap();
    let one = VerifyTokenLayer::rejecting(Token::new("a").unwrap());
    assert_eq!(token_outcome(one, request.clone()).await, None);

    // If the tokens are cached by path, this path is too long for an id, so it has no token.
    let looked_up = Arc::new(AtomicUsize::new(0));
    let calls = Arc::clone(&looked_up);
    let source = move |_: Option<String>| {
        calls.fetch_add(1, Ordering::Relaxed);
        async { Ok::<_, Infallible>(Secrets::from(Token::new("a").unwrap())) }
    };
    let cached = CachedSecrets::new(source, 60 * SECOND);
    let by_path = VerifyTokenLayer::rejecting(cached);
    assert_eq!(token_outcome(by_path, request).await, Some(UnknownKey));
    assert_eq!(looked_up.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn the_secret_can_be_that_of_the_sale_unit_in_the_path() {
    let keys = HashMap::from([("7".to_owned(), Secrets::from(secret("a")))]);
    let by_tenant = |parts: &http::request::Parts| {
        let query = parts.uri.query()?;
        query.strip_prefix("tenant=").map(str::to_owned)
    };
    let layer = rejecting(keys).select_by(by_tenant);
    assert!(outcome(layer.clone(), delivery("a", "{}")).await.is_ok());
    let mut other = delivery("a", "{}");
    *other.uri_mut() = Uri::from_static("/hooks?tenant=8");
    assert_eq!(outcome(layer, other).await, Err(UnknownKey));
}

#[tokio::test]
async fn every_request_is_refused_if_there_is_no_secret() {
    for key in ["a", "no secret signs with this"] {
        let refused = outcome(rejecting(Secrets::default()), delivery(key, "{}")).await;
        assert_eq!(refused, Err(UnknownKey), "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_or_never_answers_causes_503_and_never_admits() {
    let failing = |_: Option<String>| async { Err::<Secrets, _>("sealed") };
    let refused = outcome(rejecting(failing), delivery("a", "{}")).await;
    assert_eq!(refused, Err(Unavailable));

    let started = Instant::now();
    let pending = |_: Option<String>| std::future::pending::<Result<Secrets, &str>>();
    let refused = outcome(rejecting(pending), delivery("a", "{}")).await;
    assert_eq!(refused, Err(Unavailable));
    assert_eq!(started.elapsed(), 2 * SECOND);
    let started = Instant::now();
    let layer = rejecting(pending).secret_time_limit(SECOND);
    assert_eq!(outcome(layer, delivery("a", "{}")).await, Err(Unavailable));
    assert_eq!(started.elapsed(), SECOND);

    let service = rejecting(failing).layer(service_fn(echo));
    let response = service.oneshot(delivery("a", "{}")).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()[header::RETRY_AFTER], "5");
}

#[tokio::test]
async fn an_unlisted_peer_causes_no_lookup() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let source = move |_: Option<String>| {
        counter.fetch_add(1, Ordering::Relaxed);
        async { Ok::<_, Infallible>(Secrets::from(secret("a"))) }
    };
    let layer = rejecting(source);
    let mut stale = delivery("a", "{}");
    let url = URL.parse().unwrap();
    *stale.headers_mut() = webhook::sign(&secret("a"), &url, b"{}", date() - 2 * WINDOW).unwrap();
    for request in [Request::new(Full::from("{}")), stale] {
        outcome(layer.clone(), request).await.unwrap_err();
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    outcome(layer, delivery("a", "{}")).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_body_can_be_handed_on_in_another_type() {
    let service = rejecting(secret("a"))
        .with_body::<Full<Bytes>>()
        .layer(service_fn(echo::<Full<Bytes>>));
    let body = Frames::new([Bytes::from("{"), Bytes::from("}")], End::Trailers);
    let response = service
        .oneshot(delivery("a", "{}").map(|_| body))
        .await
        .unwrap();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "{}"
    );
}

#[tokio::test]
async fn the_inner_service_that_was_found_ready_is_the_one_that_is_called() {
    /// Service that panics if it is called before `poll_ready`.
    #[derive(Debug, Default)]
    struct Strict(bool);

    impl Clone for Strict {
        fn clone(&self) -> Self {
            Self(false)
        }
    }

    impl<B> Service<Request<B>> for Strict {
        type Response = Response<Full<Bytes>>;
        type Error = Infallible;
        type Future = std::future::Ready<Answer>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            self.0 = true;
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<B>) -> Self::Future {
            assert!(std::mem::take(&mut self.0), "called before it was ready");
            std::future::ready(Ok(Response::new(Full::default())))
        }
    }

    let mut service = rejecting(secret("a")).layer(Strict::default());
    for _ in 0..2 {
        let ready = ServiceExt::<Request<Full<Bytes>>>::ready(&mut service)
            .await
            .unwrap();
        ready.call(delivery("a", "{}")).await.unwrap();
    }
    let mut service =
        VerifyTokenLayer::rejecting(Token::new("a").unwrap()).layer(Strict::default());
    for _ in 0..2 {
        let ready = ServiceExt::<Request<()>>::ready(&mut service)
            .await
            .unwrap();
        ready.call(with_tokens(&["a"])).await.unwrap();
    }
}

fn with_tokens(tokens: &[&'static str]) -> Request<()> {
    let mut request = Request::new(());
    *request.uri_mut() = Uri::from_static("/v2/payments/order-1");
    for token in tokens {
        let token = HeaderValue::from_static(token);
        request.headers_mut().append(header::AUTHORIZATION, token);
    }
    request
}

async fn token_outcome<K>(
    layer: VerifyTokenLayer<K>,
    request: Request<()>,
) -> Option<MessageRejectionKind>
where
    K: SecretSource<Token>,
{
    let layer =
        layer.with_response(|rejection: &MessageRejection| Response::new(Err(rejection.kind())));
    let inner = service_fn(async |request: Request<()>| {
        let verdict = request.extensions().get::<MessageVerdict>().unwrap();
        assert_eq!(verdict.allowed().unwrap().auth(), MessageAuth::Token);
        Ok::<_, Infallible>(Response::new(Ok(())))
    });
    let response: Response<Result<(), _>> = layer.layer(inner).oneshot(request).await.unwrap();
    response.into_body().err()
}

#[tokio::test]
async fn a_token_is_compared_verbatim() {
    let layer = VerifyTokenLayer::rejecting(Token::new("Bearer s3cret").unwrap());
    for (sent, expected) in [
        (&["Bearer s3cret"][..], None),
        (&["bearer s3cret"], Some(NotTheToken)),
        (&["s3cret"], Some(NotTheToken)),
        (&["Bearer s3cret "], Some(NotTheToken)),
        (&["Bearer s3cre"], Some(NotTheToken)),
        (&["Bearer s3crets"], Some(NotTheToken)),
        (&[""], Some(NotTheToken)),
        (&[], Some(MissingHeader)),
        (&["Bearer s3cret", "Bearer s3cret"], Some(DuplicateHeader)),
        (&["a", "Bearer s3cret"], Some(DuplicateHeader)),
    ] {
        let found = token_outcome(layer.clone(), with_tokens(sent)).await;
        assert_eq!(found, expected, "{sent:?}");
    }
}

#[tokio::test]
async fn a_token_layer_is_ready_when_its_inner_service_is() {
    let merchant = service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(())));
    let limited = ConcurrencyLimit::new(merchant, 1);
    let layer = VerifyTokenLayer::rejecting(Token::new("token").unwrap());
    let layer = layer.with_response(|_: &MessageRejection| Response::new(()));
    let (mut busy, mut service) = (limited.clone(), layer.layer(limited));
    busy.ready().await.unwrap();
    assert!(service.ready().now_or_never().is_none());
    drop(busy);
    assert!(service.ready().now_or_never().is_some());
}

#[tokio::test]
async fn any_of_several_tokens_is_accepted_and_an_empty_list_refuses() {
    let both = Secrets::from_iter([Token::new("old").unwrap(), Token::new("new").unwrap()]);
    for (tokens, sent, expected) in [
        (both.clone(), "old", None),
        (both.clone(), "new", None),
        (both, "older", Some(NotTheToken)),
        (Secrets::default(), "old", Some(UnknownKey)),
        (Secrets::default(), "", Some(UnknownKey)),
    ] {
        let layer = VerifyTokenLayer::rejecting(tokens);
        assert_eq!(token_outcome(layer, with_tokens(&[sent])).await, expected);
    }
}

#[tokio::test]
async fn each_order_can_have_its_own_token() {
    let by_order = |path: Option<String>| async move {
        match path.as_deref() {
            Some("/v2/payments/order-1") => Token::new("of order 1").map(Secrets::from),
            _ => Ok(Secrets::default()),
        }
    };
    let layer = VerifyTokenLayer::rejecting(by_order);
    assert_eq!(
        token_outcome(layer.clone(), with_tokens(&["of order 1"])).await,
        None
    );
    let wrong = token_outcome(layer.clone(), with_tokens(&["of order 2"])).await;
    assert_eq!(wrong, Some(NotTheToken));
    let mut other = with_tokens(&["of order 1"]);
    *other.uri_mut() = Uri::from_static("/v2/payments/order-2");
    assert_eq!(token_outcome(layer, other).await, Some(UnknownKey));

    let failing = |_: Option<String>| async { Err::<Secrets<Token>, _>("no database") };
    let layer = VerifyTokenLayer::rejecting(failing);
    let refused = token_outcome(layer, with_tokens(&["of order 1"])).await;
    assert_eq!(refused, Some(Unavailable));
}

#[tokio::test]
async fn a_handler_that_prints_the_headers_does_not_print_the_token() {
    let inner = service_fn(async |request: Request<()>| {
        Ok::<_, Infallible>(Response::new(format!("{:?}", request.headers())))
    });
    let layer = VerifyTokenLayer::rejecting(Token::new("s3cret").unwrap());
    let response = layer
        .layer(inner)
        .oneshot(with_tokens(&["s3cret"]))
        .await
        .unwrap();
    assert!(!response.into_body().contains("s3cret"));
}

#[tokio::test]
async fn two_message_layers_must_both_verify_the_message() {
    let inner = service_fn(async |request: Request<Full<Bytes>>| {
        let verdict = request.extensions().get::<MessageVerdict>().unwrap();
        Ok::<_, Infallible>(Response::new(format!("{}", verdict.is_allowed())))
    });
    for (outer, inside, expected) in [("a", "a", "true"), ("b", "a", "false"), ("a", "b", "false")]
    {
        let tagging = |key| VerifySignatureLayer::tagging(secret(key)).clock(date);
        let service = tagging(outer).layer(tagging(inside).layer(inner));
        let response = service.oneshot(delivery("a", "{}")).await.unwrap();
        assert_eq!(response.into_body(), expected);
    }
}

/// Sends a delivery from a peer through all three layers.
async fn joined(
    policy: Policy,
    peer: Option<&str>,
    key: &str,
) -> Result<VerifiedCallback, StatusCode> {
    let inner = service_fn(async |request: Request<Full<Bytes>>| {
        let callback = request
            .extensions()
            .get::<VerifiedCallback>()
            .unwrap()
            .clone();
        let mut response = Response::new(Full::<Bytes>::default());
        response.extensions_mut().insert(callback);
        Ok::<_, Infallible>(response)
    });
    let list = AllowList::fixed(["192.0.2.1".parse::<IpAddr>().unwrap()]);
    let service = RequireVerifiedLayer::new(policy).layer(inner);
    let service = VerifySignatureLayer::tagging(secret("a"))
        .clock(date)
        .layer(service);
    let service = VerifySourceLayer::tagging(list, SocketAddrPeer).layer(service);
    let mut request = delivery(key, "{}");
    if let Some(peer) = peer {
        let peer = SocketAddr::new(peer.parse().unwrap(), 4711);
        request.extensions_mut().insert(peer);
    }
    let response = service.oneshot(request).await.unwrap();
    let callback = response.extensions().get::<VerifiedCallback>();
    callback.cloned().ok_or_else(|| response.status())
}

const LISTED: Option<&str> = Some("192.0.2.1");
const STRANGER: Option<&str> = Some("192.0.2.2");

#[tokio::test]
async fn a_bad_signature_is_refused_although_the_peer_is_listed() {
    for policy in [
        Policy::default(),
        Policy::MessageWarnOnSource,
        Policy::MessageOnly,
    ] {
        let refused = joined(policy, LISTED, "b").await;
        assert_eq!(refused, Err(StatusCode::UNAUTHORIZED), "{policy:?}");
    }
}

#[tokio::test]
async fn each_policy_joins_the_verdicts_of_two_layers() {
    let both = joined(Policy::Both, LISTED, "a").await.unwrap();
    assert!(both.allowed().is_some() && both.message().is_some() && both.warning().is_none());
    let refused = joined(Policy::Both, STRANGER, "a").await;
    assert_eq!(refused, Err(StatusCode::FORBIDDEN));
    let refused = joined(Policy::Both, None, "a").await;
    assert_eq!(refused, Err(StatusCode::INTERNAL_SERVER_ERROR));

    let warned = joined(Policy::MessageWarnOnSource, STRANGER, "a")
        .await
        .unwrap();
    let warning = warned.warning().unwrap();
    assert_eq!(warning.kind(), crate::RejectionKind::NotListed);
    assert!(warned.allowed().is_none() && warned.message().is_some());

    let source_only = joined(Policy::SourceOnly, LISTED, "b").await.unwrap();
    assert!(source_only.allowed().is_some() && source_only.message().is_none());
    let signature_only = joined(Policy::MessageOnly, STRANGER, "a").await.unwrap();
    assert!(signature_only.allowed().is_none() && signature_only.message().is_some());
}

#[tokio::test]
async fn a_policy_without_its_layers_refuses_everything() {
    for policy in [
        Policy::Both,
        Policy::MessageWarnOnSource,
        Policy::SourceOnly,
        Policy::MessageOnly,
    ] {
        let service = RequireVerifiedLayer::new(policy).layer(service_fn(echo));
        let response = service.oneshot(delivery("a", "{}")).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}

#[cfg(feature = "axum")]
mod with_axum {
    use axum::{Router, routing::post};

    use super::*;

    async fn handler(callback: VerifiedCallback, body: Bytes) -> String {
        assert!(callback.message().is_some());
        String::from_utf8(body.to_vec()).unwrap()
    }

    fn request(request: Request<Full<Bytes>>) -> Request<axum::body::Body> {
        let mut request = request.map(axum::body::Body::new);
        let peer: SocketAddr = "192.0.2.1:4711".parse().unwrap();
        request.extensions_mut().insert(peer);
        request
    }

    fn source() -> VerifySourceLayer<SocketAddrPeer> {
        let list = AllowList::fixed(["192.0.2.1".parse::<IpAddr>().unwrap()]);
        VerifySourceLayer::rejecting(list, SocketAddrPeer)
    }

    #[tokio::test]
    async fn a_nested_route_is_judged_by_the_path_that_was_sent() {
        let layer = rejecting(secret("a"));
        let routes = Router::new().route("/hooks", post(handler)).layer(layer);
        let app = Router::new().nest("/shop", routes).layer(source());
        for (path, status) in [
            ("/shop/hooks", StatusCode::OK),
            ("/hooks", StatusCode::UNAUTHORIZED),
        ] {
            let url = format!("https://shop.example{path}").parse().unwrap();
            let mut delivery = delivery("a", "{}");
            *delivery.uri_mut() = Uri::from_static("/shop/hooks");
            *delivery.headers_mut() = webhook::sign(&secret("a"), &url, b"{}", date()).unwrap();
            let response = app.clone().oneshot(request(delivery)).await.unwrap();
            assert_eq!(response.status(), status, "{path}");
        }
    }

    #[tokio::test]
    async fn a_delivery_that_an_extractor_refused_is_accepted_later() {
        let unknown = || VerifySourceLayer::tagging(AllowList::fixed([]), SocketAddrPeer);
        let by_allowed = async |_: crate::Allowed| "shipped";
        for (refusing, admitting) in [
            (post(handler), post(handler)),
            (post(by_allowed), post(by_allowed)),
        ] {
            let guard = ReplayGuard::default();
            let signed = || rejecting(secret("a")).replay_guard(guard.clone());
            let hooks = |handler| Router::new().route("/hooks", handler).layer(signed());
            let mut apps = [
                (hooks(refusing).layer(unknown()), 503),
                (hooks(admitting.clone()).layer(source()), 200),
                (hooks(admitting).layer(source()), 409),
            ];
            for (app, status) in &mut apps {
                let response = app.oneshot(request(delivery("a", "{}"))).await.unwrap();
                assert_eq!(response.status(), *status);
            }
        }
    }

    #[tokio::test]
    async fn a_delivery_whose_verdict_is_missing_is_not_a_replay_when_it_is_repeated() {
        let without_message_verdict =
            tower::util::MapRequestLayer::new(|mut request: Request<axum::body::Body>| {
                request.extensions_mut().remove::<MessageVerdict>();
                request
            });
        let by_message = post(async |_: MessageVerdict| "shipped").layer(without_message_verdict);
        for handler in [
            post(async |_: crate::Allowed| "shipped"),
            post(async |_: crate::Verdict| "shipped"),
            by_message,
        ] {
            let signed = rejecting(secret("a")).replay_guard(ReplayGuard::default());
            let app = Router::new().route("/hooks", handler).layer(signed);
            for _ in 0..2 {
                let response = app.clone().oneshot(request(delivery("a", "{}"))).await;
                assert_eq!(response.unwrap().status(), 500);
            }
        }
    }

    #[tokio::test]
    async fn the_extractor_requires_both_without_a_layer() {
        let hooks = || Router::new().route("/hooks", post(handler));
        let table = [
            (hooks().layer(rejecting(secret("a"))).layer(source()), 200),
            (hooks().layer(rejecting(secret("a"))), 500),
            (hooks().layer(source()), 500),
            (hooks(), 500),
            (
                hooks()
                    .layer(VerifySignatureLayer::tagging(secret("b")).clock(date))
                    .layer(source()),
                401,
            ),
            (
                hooks()
                    .layer(RequireVerifiedLayer::new(Policy::MessageOnly))
                    .layer(rejecting(secret("a"))),
                200,
            ),
            // The rejection by an inner layer revokes the admission by an outer layer.
            (
                hooks()
                    .layer(VerifySignatureLayer::tagging(secret("b")).clock(date))
                    .layer(RequireVerifiedLayer::new(Policy::SourceOnly))
                    .layer(source()),
                401,
            ),
        ];
        for (number, (app, status)) in table.into_iter().enumerate() {
            let response = app.oneshot(request(delivery("a", "{}"))).await.unwrap();
            assert_eq!(response.status(), status, "{number}");
        }
    }
}
