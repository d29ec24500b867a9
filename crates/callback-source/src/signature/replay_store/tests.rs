use std::{
    collections::HashMap,
    convert::Infallible,
    future::pending,
    sync::atomic::{AtomicBool, AtomicUsize},
    time::SystemTime,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::Full;
use tokio::{
    sync::Notify,
    task::yield_now,
    time::{advance, sleep},
};
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::{
    MessageRejection, MessageRejectionKind, Policy,
    require::RequireVerifiedLayer,
    signature::{ReplayGuard, Secret, VerifySignatureLayer, webhook},
};

/// A store in memory, with simulated faults.
#[derive(Clone, Default)]
struct Memory(Arc<State>);

#[derive(Default)]
struct State {
    marks: Mutex<HashMap<String, (String, Instant)>>,
    calls: AtomicUsize,
    is_down: AtomicBool,
    panics: AtomicBool,
    /// `true` if calls wait until they are released, before they reach the store.
    is_slow: AtomicBool,
    release: Notify,
}

impl Memory {
    async fn reach(&self) -> Result<(), ReplayStoreError> {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        assert!(!self.0.panics.load(Ordering::Relaxed), "as planned");
        if self.0.is_slow.load(Ordering::Relaxed) {
            self.0.release.notified().await;
        }
        match self.0.is_down.load(Ordering::Relaxed) {
            true => Err(ReplayStoreError::new("connection refused")),
            false => Ok(()),
        }
    }

    fn len(&self) -> usize {
        self.0.marks.lock().unwrap().len()
    }
}

impl ReplayStore for Memory {
    async fn mark(&self, mark: &ReplayMark, keep: Duration) -> Result<bool, ReplayStoreError> {
        self.reach().await?;
        let mut marks = self.0.marks.lock().unwrap();
        let is_marked = marks
            .get(mark.key())
            .is_some_and(|(_, until)| Instant::now() < *until);
        if !is_marked {
            let until = Instant::now() + keep;
            marks.insert(mark.key().to_owned(), (mark.owner().to_owned(), until));
        }
        Ok(!is_marked)
    }

    async fn withdraw(&self, mark: &ReplayMark) -> Result<(), ReplayStoreError> {
        self.reach().await?;
        let mut marks = self.0.marks.lock().unwrap();
        if marks
            .get(mark.key())
            .is_some_and(|(owner, _)| owner == mark.owner())
        {
            marks.remove(mark.key());
        }
        Ok(())
    }
}

fn secret() -> Secret {
    Secret::new("of the registration").unwrap()
}

fn delivery(body: &'static str) -> Request<Full<Bytes>> {
    let url = Uri::from_static("https://shop.example/hooks");
    let mut request = Request::post("/hooks").body(Full::from(body)).unwrap();
    *request.headers_mut() =
        webhook::sign(&secret(), &url, body.as_bytes(), SystemTime::now()).unwrap();
    request
}

/// Sends a delivery to a replica with this guard. Returns the status, and the kind of the rejection.
async fn deliver(
    guard: &ReplayGuard,
    request: Request<Full<Bytes>>,
) -> (StatusCode, Option<MessageRejectionKind>) {
    let handler = service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("received")))
    });
    let layer = VerifySignatureLayer::rejecting(secret()).replay_guard(guard.clone());
    let response = layer.layer(handler).oneshot(request).await.unwrap();
    let rejection = response.extensions().get::<MessageRejection>();
    let kind = rejection.map(MessageRejection::kind);
    (response.status(), kind)
}

async fn status(guard: &ReplayGuard, request: Request<Full<Bytes>>) -> u16 {
    deliver(guard, request).await.0.as_u16()
}

/// Returns the guards of two processes that share a store.
fn replicas(store: &Memory) -> [ReplayGuard; 2] {
    [(), ()].map(|()| ReplayGuard::default().with_store(store.clone()))
}

/// Lets the tasks of the store run.
async fn settle() {
    for _ in 0..10 {
        yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn failures_are_logged_once_a_minute() {
    let marks = SharedMarks::new(Memory::default());
    let is_logged = || {
        marks.failed("mark", &ReplayStoreError::new("down"), "let through");
        let mut logged = *marks.logged.lock().unwrap();
        !logged.admits(Duration::from_nanos(1), Instant::now().into_std())
    };
    assert!(is_logged());
    advance(Duration::from_secs(59)).await;
    assert!(!is_logged());
    advance(Duration::from_secs(1)).await;
    assert!(is_logged());
}

#[test]
fn an_error_of_a_store_has_a_text_and_a_cause() {
    let error = ReplayStoreError::new("down");
    assert_eq!(
        error.to_string(),
        "the store of replay marks is not available"
    );
    assert_eq!(
        error.source().map(ToString::to_string).as_deref(),
        Some("down")
    );
}

#[tokio::test(start_paused = true)]
async fn a_delivery_is_accepted_by_one_of_two_replicas() {
    let store = Memory::default();
    let [first, second] = replicas(&store);
    let request = delivery("paid");
    assert_eq!(status(&first, request.clone()).await, 200);
    assert_eq!(status(&second, request.clone()).await, 409);
    assert_eq!(status(&first, request).await, 409);
    // A mark does not affect another delivery.
    assert_eq!(status(&second, delivery("refunded")).await, 200);
}

#[tokio::test(start_paused = true)]
async fn of_copies_at_the_same_time_one_replica_accepts_one() {
    let store = Memory::default();
    let [first, second] = replicas(&store);
    let request = delivery("paid");
    let copies = (0..8).map(|copy| {
        let guard = [&first, &second][copy % 2];
        status(guard, request.clone())
    });
    let statuses = futures_util::future::join_all(copies).await;
    let accepted = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!(accepted, 1, "{statuses:?}");
}

#[tokio::test(start_paused = true)]
async fn a_mark_ends_with_the_window() {
    let store = Memory::default();
    let [first, _] = replicas(&store);
    assert_eq!(status(&first, delivery("paid")).await, 200);
    let (_, until) = store
        .0
        .marks
        .lock()
        .unwrap()
        .values()
        .next()
        .unwrap()
        .clone();
    // Two windows of five minutes, plus a minute.
    assert_eq!(until - Instant::now(), Duration::from_secs(11 * 60));
}

#[tokio::test(start_paused = true)]
async fn the_key_of_a_mark_does_not_reveal_the_signature() {
    let store = Memory::default();
    let [first, _] = replicas(&store);
    let request = delivery("paid");
    let sent = format!("{:?}", request.headers());
    assert_eq!(status(&first, request).await, 200);
    let key = store.0.marks.lock().unwrap().keys().next().unwrap().clone();
    assert_eq!(key.len(), 64);
    assert!(!sent.contains(&key));
    let one = ReplayMark::new(&[1; 32]);
    assert_eq!(one.key(), ReplayMark::new(&[1; 32]).key());
    assert_ne!(one.owner(), ReplayMark::new(&[1; 32]).owner());
    assert_ne!(one.key(), ReplayMark::new(&[2; 32]).key());
    assert!(!one.key().contains("0101010101"));
}

#[tokio::test(start_paused = true)]
async fn without_its_store_a_guard_lets_a_delivery_through_once_per_replica() {
    for break_store in [
        |state: &State| state.is_down.store(true, Ordering::Relaxed),
        |state: &State| state.panics.store(true, Ordering::Relaxed),
    ] {
        let store = Memory::default();
        let [first, second] = replicas(&store);
        break_store(&store.0);
        let request = delivery("paid");
        assert_eq!(status(&first, request.clone()).await, 200);
        assert_eq!(status(&first, request.clone()).await, 409);
        assert_eq!(status(&second, request).await, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_guard_that_requires_its_store_answers_503_and_accepts_a_repetition_later() {
    let store = Memory::default();
    let [first, second] = replicas(&store).map(ReplayGuard::require_store);
    store.0.is_down.store(true, Ordering::Relaxed);
    let request = delivery("paid");
    let (status_down, kind) = deliver(&first, request.clone()).await;
    assert_eq!(status_down, StatusCode::SERVICE_UNAVAILABLE);
    let unavailable = MessageRejectionKind::ReplayStoreUnavailable;
    assert_eq!(kind, Some(unavailable));
    let rejection = MessageRejection::new(unavailable);
    assert!(rejection.retry_after().is_some());
    settle().await;
    store.0.is_down.store(false, Ordering::Relaxed);
    assert_eq!(status(&first, request.clone()).await, 200);
    assert_eq!(status(&second, request).await, 409);
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_delays_a_delivery_for_the_time_limit_only() {
    let store = Memory::default();
    let [first, second] = replicas(&store);
    store.0.is_slow.store(true, Ordering::Relaxed);
    let start = Instant::now();
    let request = delivery("paid");
    assert_eq!(status(&first, request.clone()).await, 200);
    assert_eq!(start.elapsed(), Duration::from_millis(500));
    // The late mark is kept: the delivery reached its handler.
    store.0.is_slow.store(false, Ordering::Relaxed);
    store.0.release.notify_waiters();
    settle().await;
    assert_eq!(status(&second, request).await, 409);

    let patient = ReplayGuard::default()
        .with_store(store.clone())
        .store_time_limit(Duration::from_secs(2));
    store.0.is_slow.store(true, Ordering::Relaxed);
    let start = Instant::now();
    assert_eq!(status(&patient, delivery("refunded")).await, 200);
    assert_eq!(start.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_mark_that_arrives_after_a_503_is_withdrawn() {
    let store = Memory::default();
    let [first, second] = replicas(&store).map(ReplayGuard::require_store);
    store.0.is_slow.store(true, Ordering::Relaxed);
    let request = delivery("paid");
    assert_eq!(status(&first, request.clone()).await, 503);
    store.0.is_slow.store(false, Ordering::Relaxed);
    store.0.release.notify_waiters();
    settle().await;
    assert_eq!(store.len(), 0);
    assert_eq!(status(&second, request).await, 200);
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_leaves_while_the_store_works_leaves_no_mark() {
    let store = Memory::default();
    let [first, second] = replicas(&store);
    store.0.is_slow.store(true, Ordering::Relaxed);
    let request = delivery("paid");
    let mut left = Box::pin(status(&first, request.clone()));
    while store.0.calls.load(Ordering::Relaxed) == 0 {
        assert!((&mut left).now_or_never().is_none());
        yield_now().await;
    }
    drop(left);
    store.0.is_slow.store(false, Ordering::Relaxed);
    store.0.release.notify_waiters();
    settle().await;
    assert_eq!(store.0.calls.load(Ordering::Relaxed), 2);
    assert_eq!(store.len(), 0);
    assert_eq!(status(&second, request).await, 200);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_is_refused_inside_is_accepted_by_another_replica() {
    let store = Memory::default();
    let [first, second] = replicas(&store);
    // Without a source check, the policy refuses everything.
    let handler = service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("received")))
    });
    let inner = RequireVerifiedLayer::new(Policy::Both).layer(handler);
    let layer = VerifySignatureLayer::rejecting(secret()).replay_guard(first);
    let request = delivery("paid");
    let response = layer.layer(inner).oneshot(request.clone()).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    settle().await;
    assert_eq!(store.len(), 0);
    assert_eq!(status(&second, request).await, 200);
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_leaves_while_the_handler_works_leaves_the_mark() {
    let store = Memory::default();
    let [first, second] = replicas(&store);
    let called = Arc::new(Notify::new());
    let handler = {
        let called = Arc::clone(&called);
        service_fn(move |_: Request<Full<Bytes>>| {
            called.notify_one();
            pending::<Result<Response<Full<Bytes>>, Infallible>>()
        })
    };
    let layer = VerifySignatureLayer::rejecting(secret()).replay_guard(first);
    let request = delivery("paid");
    let working = tokio::spawn(layer.layer(handler).oneshot(request.clone()));
    called.notified().await;
    working.abort();
    settle().await;
    assert_eq!(status(&second, request).await, 409);
}

#[tokio::test(start_paused = true)]
async fn only_deliveries_with_a_valid_signature_reach_the_store() {
    let store = Memory::default();
    let [first, _] = replicas(&store);
    let mut forged = delivery("paid");
    *forged.body_mut() = Full::from("forged");
    assert_eq!(status(&first, forged).await, 401);
    let unsigned = Request::post("/hooks").body(Full::default()).unwrap();
    assert_eq!(status(&first, unsigned).await, 401);
    assert_eq!(store.0.calls.load(Ordering::Relaxed), 0);
    // A repetition that the process remembers does not cause a call either.
    let request = delivery("paid");
    assert_eq!(status(&first, request.clone()).await, 200);
    assert_eq!(status(&first, request).await, 409);
    assert_eq!(store.0.calls.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn copies_of_one_delivery_cannot_fill_the_memory_while_the_store_is_silent() {
    let store = Memory::default();
    let [first, _] = replicas(&store);
    let first = first.require_store();
    store.0.is_slow.store(true, Ordering::Relaxed);
    let request = delivery("paid");
    let copies = (0..2 * MAX_IN_FLIGHT).map(|_| status(&first, request.clone()));
    let statuses = futures_util::future::join_all(copies).await;
    assert!(statuses.iter().all(|status| *status == 503));
    assert_eq!(store.0.calls.load(Ordering::Relaxed), MAX_IN_FLIGHT);
    // A call to a silent store releases its slot after the time limit.
    sleep(MAX_CALL).await;
    settle().await;
    advance(MAX_CALL).await;
    settle().await;
    store.0.is_slow.store(false, Ordering::Relaxed);
    assert_eq!(status(&first, delivery("refunded")).await, 200);
}

#[tokio::test(start_paused = true)]
async fn a_mark_is_withdrawn_once_and_never_that_of_another_replica() {
    let store = Memory::default();
    let shared = Arc::new(SharedMarks::new(store.clone()));
    let keep = Duration::from_secs(660);
    let limit = Duration::from_millis(500);
    let Marked::Stored(first) = shared.mark(&[1; 32], keep, limit).await else {
        panic!("the store is empty")
    };
    let first = first.accept();
    advance(keep).await;
    let Marked::Stored(second) = shared.mark(&[1; 32], keep, limit).await else {
        panic!("the first mark has ended")
    };
    let second = second.accept();
    first.withdraw();
    settle().await;
    assert_eq!(store.len(), 1);
    second.withdraw();
    second.withdraw();
    settle().await;
    assert_eq!(store.len(), 0);
    assert_eq!(store.0.calls.load(Ordering::Relaxed), 4);
}
