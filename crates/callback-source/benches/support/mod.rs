//! Shared set-up of the benchmarks and of the resource tests.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "each target uses only a part"
)]

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use axum::{Router, extract::ConnectInfo, routing::post};
use callback_source::{
    AllowList, AllowListBuilder, AllowSet, Answer, Family, HostName, Question, Resolve,
    ResolveError,
    set::Rules,
    verify::{
        ConnectInfoPeer, ForwardedPeer, SocketAddrPeer, TrustedProxies, VerifySource,
        VerifySourceLayer,
    },
};
use gungraun::{Callgrind, EventKind, LibraryBenchmarkConfig};
use http::{HeaderMap, Request, Response};
use ipnet::IpNet;
use tokio::{runtime::Runtime, time::Instant};
use tower::{Layer, Service, layer::layer_fn};

/// Sets the limit: a benchmark that takes more instructions fails.
pub fn limit(instructions: u64) -> LibraryBenchmarkConfig {
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(Callgrind::default().hard_limits([(EventKind::Ir, instructions)]));
    config
}

/// Leaks a measured value, so that its drop is not counted.
pub fn leak<T>(value: T) -> &'static mut T {
    Box::leak(Box::new(value))
}

/// Lets glibc merge the memory that the set-up has freed. glibc does so at the next sufficiently large free. That
/// free must not be measured, since the merge costs some 600 instructions.
pub fn settle_allocator() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(100 * 1024)));
}

pub fn address(family: Family, number: u32) -> IpAddr {
    // An odd factor spreads the addresses, like the addresses of several hosting companies.
    let spread = number.wrapping_mul(2_654_435_761);
    match family {
        Family::V4 => IpAddr::V4((spread & 0x3fff_fffe | 0x4000_0000).into()),
        Family::V6 => {
            let low = u128::from(spread) << 32 | u128::from(number);
            IpAddr::V6((0x2a01_0111_u128 << 96 | low << 1).into())
        }
    }
}

/// Returns an unlisted address next to a listed one.
pub fn unlisted(family: Family, number: u32) -> IpAddr {
    match address(family, number) {
        IpAddr::V4(address) => IpAddr::V4((address.to_bits() | 1).into()),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() | 1).into()),
    }
}

/// Returns a listed peer from the middle of a set, or its unlisted neighbour. The search for an address in the middle
/// does not end early by chance.
pub fn peer(family: Family, count: u32, listed: bool) -> IpAddr {
    let number = count / 2 + 1;
    match listed {
        true => address(family, number),
        false => unlisted(family, number),
    }
}

pub fn host(number: u32) -> HostName {
    format!("callback-{number}.example.com")
        .parse()
        .expect("a name")
}

pub fn rules() -> Rules {
    let mut rules = Rules::default();
    rules.max_addresses = usize::MAX;
    rules.insecure_allow_special_addresses = true;
    rules
}

/// Creates a set of one host with `count` addresses in each family.
pub fn set_of(count: u32) -> (AllowSet, std::time::Instant) {
    let now = Instant::now().into_std();
    let mut set = AllowSet::new(rules(), [host(1)], &[], now).expect("no networks");
    for family in Family::ALL {
        let addresses = (0..count).map(|number| address(family, number));
        let answer = Answer::new(addresses, Duration::from_secs(300));
        let question = Question {
            host: host(1),
            family,
        };
        set.apply(&question, Ok(answer), now);
    }
    (set, now)
}

/// Creates a set of `count` static networks in each family, which neither touch nor overlap.
pub fn set_of_networks(count: u32) -> (AllowSet, std::time::Instant) {
    let networks: Vec<_> = Family::ALL
        .into_iter()
        .flat_map(|family| (0..count).map(move |number| IpNet::from(address(family, number))))
        .collect();
    let now = Instant::now().into_std();
    let set = AllowSet::new(rules(), [], &networks, now).expect("not a whole family");
    (set, now)
}

/// A refresh of ten hosts, with three addresses of each host in each of the two families.
pub struct Round {
    set: AllowSet,
    answers: Vec<(Question, Answer)>,
    now: std::time::Instant,
    pub published: Option<Arc<AllowSet>>,
}

pub fn ten_hosts() -> Round {
    let now = Instant::now().into_std();
    let set = AllowSet::new(rules(), (0..10).map(host), &[], now).expect("no networks");
    let answers = set.questions().zip(0..).map(|((question, _), number)| {
        let addresses = (0..3).map(|at| address(question.family, 10 * number + at));
        let answer = Answer::new(addresses, Duration::from_secs(300));
        (question, answer)
    });
    let answers = answers.collect();
    let mut round = Round {
        set,
        answers,
        now,
        published: None,
    };
    // The first refresh adds the addresses. Later refreshes find them present.
    round.run();
    round
}

impl Round {
    pub fn run(&mut self) {
        self.now += Duration::from_secs(300);
        for (question, answer) in &self.answers {
            self.set.apply(question, Ok(answer.clone()), self.now);
            self.published = Some(Arc::new(self.set.clone()));
        }
    }
}

/// Resolver that answers every question immediately.
#[derive(Clone, Debug)]
pub struct Zone {
    pub addresses: u32,
}

impl Resolve for Zone {
    async fn resolve(&self, question: Question) -> Result<Answer, ResolveError> {
        let addresses = (0..self.addresses).map(|number| address(question.family, number));
        Ok(Answer::new(addresses, Duration::from_secs(300)))
    }
}

/// A list with a refresher. The refresher makes progress only while the runtime is driven.
pub struct Kept {
    pub list: AllowList,
    pub since: Instant,
    pub runtime: Runtime,
}

pub fn kept(addresses: u32) -> Kept {
    let runtime = runtime();
    let since = Instant::now();
    let list = runtime.block_on(async {
        // A watched host, like the watched hosts in a list of one of the provider's environments.
        let watched = [host(1_000_000)];
        let list = builder(1).watch(watched).spawn(Zone { addresses });
        list.ready().await;
        list
    });
    Kept {
        list,
        since,
        runtime,
    }
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime")
}

pub fn builder(hosts: u32) -> AllowListBuilder {
    AllowList::builder()
        .hosts((0..hosts).map(host))
        .max_addresses(usize::MAX)
        .insecure_allow_special_addresses()
        // However long the setup takes, no request waits for an on-demand refresh.
        .on_demand_interval(Duration::from_secs(24 * 60 * 60))
}

/// Uses up the rate limit of the log for the current second, as a flood does. If the current second is more than 300 ms
/// old, first waits for the next one, so that the rate limit is not reset during the measurement.
pub fn exhaust_log(service: &mut Verified, kept: &Kept) {
    while kept.since.elapsed().subsec_millis() > 300 {
        std::thread::yield_now();
    }
    for number in 0..20 {
        serve(service, callback(unlisted(Family::V4, number)));
    }
}

/// The type of all bodies. It owns no memory, and the default response can be built from it.
pub type Body = &'static str;

/// The service behind the layer.
#[derive(Clone, Debug)]
pub struct Merchant;

impl Service<Request<Body>> for Merchant {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        ready(Ok(Response::new(*request.body())))
    }
}

pub type Verified = VerifySource<Merchant, ConnectInfoPeer>;

pub fn verified(list: &AllowList) -> Verified {
    VerifySourceLayer::rejecting(list.clone(), ConnectInfoPeer).layer(Merchant)
}

/// A layer that does nothing, for comparison.
#[derive(Clone, Debug)]
pub struct NoOp<S>(pub S);

impl<S, R> Service<R> for NoOp<S>
where
    S: Service<R>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        self.0.call(request)
    }
}

/// A merchant's service like that of `examples/paved-path`, but without the check.
pub fn bare() -> Router {
    Router::new().route(
        "/callbacks/v2/payments/{order_id}",
        post(async || "received"),
    )
}

/// A layer that does nothing, to measure axum's own boxing.
pub fn route_no_op() -> Router {
    // `into_make_service` also calls `with_state` before the server starts.
    bare().layer(layer_fn(NoOp)).with_state(())
}

pub fn route_verified() -> Router {
    let kept = leak(kept(16));
    let layer = VerifySourceLayer::rejecting(kept.list.clone(), ConnectInfoPeer);
    bare().layer(layer).with_state(())
}

pub type Around = VerifySource<Router, ConnectInfoPeer>;

pub fn around() -> Around {
    let kept = leak(kept(16));
    VerifySourceLayer::rejecting(kept.list.clone(), ConnectInfoPeer).layer(bare().with_state(()))
}

/// Returns a request as axum's server passes it on: with the connection's peer, and with the headers of a callback.
pub fn callback(peer: IpAddr) -> Request<Body> {
    let mut request = Request::post("https://merchant.example/callbacks/v2/payments/order-1")
        .header("host", "merchant.example")
        .header("content-type", "application/json")
        .header("content-length", "256")
        .header("accept", "*/*")
        .header("user-agent", "provider/1.0")
        .header("authorization", "d2b3c0a4")
        .header("x-request-id", "7f0b6f3e")
        .body("{}")
        .expect("a request");
    let peer = SocketAddr::new(peer, 4711);
    request.extensions_mut().insert(ConnectInfo(peer));
    request
}

/// Runs a complete request whose future is ready at its first poll.
pub fn serve<S, B>(service: &mut S, request: Request<B>) -> S::Response
where
    S: Service<Request<B>, Error = Infallible>,
{
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    match pin!(service.call(request)).poll(&mut cx) {
        Poll::Ready(Ok(response)) => response,
        Poll::Pending => panic!("it waits"),
    }
}

pub fn behind_proxies() -> ForwardedPeer<SocketAddrPeer> {
    let networks = ["10.0.0.0/8", "2001:db8::/32"].map(|net| net.parse().expect("a network"));
    let proxies = TrustedProxies::new(networks).expect("not a whole family");
    ForwardedPeer::x_forwarded_for(SocketAddrPeer, proxies)
}

pub fn header(name: &'static str, value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("host", "merchant.example".parse().expect("a value"));
    headers.insert(name, value.parse().expect("a value"));
    headers
}

pub fn hops(client: &str, hop: &str, hops: usize) -> String {
    std::iter::once(client)
        .chain(std::iter::repeat_n(hop, hops))
        .collect::<Vec<_>>()
        .join(", ")
}
