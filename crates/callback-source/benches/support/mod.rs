//! What the benchmarks and the allocation test measure.
#![allow(dead_code, unreachable_pub, reason = "each user takes its part")]

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use axum::extract::ConnectInfo;
use callback_source::{
    AllowList, AllowListBuilder, AllowSet, Answer, Family, HostName, Question, Resolve,
    ResolveError, ResolveErrorKind,
    allow_set::Rules,
    verify::{
        ConnectInfoPeer, ForwardedPeer, SocketPeer, TrustedProxies, VerifySource, VerifySourceLayer,
    },
};
use http::{HeaderMap, Request, Response};
use ipnet::IpNet;
use tokio::{runtime::Runtime, time::Instant};
use tower::{Layer, Service};

/// A body that the default response can be made of, and that owns nothing.
pub type Body = &'static str;

pub fn address(family: Family, number: u32) -> IpAddr {
    // Odd factors spread them, as addresses of several hosters are.
    let spread = number.wrapping_mul(2_654_435_761);
    match family {
        Family::V4 => IpAddr::V4((spread & 0x3fff_fffe | 0x4000_0000).into()),
        Family::V6 => {
            let low = u128::from(spread) << 32 | u128::from(number);
            IpAddr::V6((0x2a01_0111_u128 << 96 | low << 1).into())
        }
    }
}

/// Just beside a listed address.
pub fn stranger(family: Family, number: u32) -> IpAddr {
    match address(family, number) {
        IpAddr::V4(address) => IpAddr::V4((address.to_bits() | 1).into()),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() | 1).into()),
    }
}

/// The middle one, so that no search is done by luck.
pub fn middle(count: u32) -> u32 {
    count / 2 + 1
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

pub fn clustered(number: u32) -> IpAddr {
    let cluster = [0x1400_0000, 0xc800_0000][number as usize & 1];
    IpAddr::V4((cluster + number).into())
}

/// A set of one host with so many addresses in each family.
pub fn set_of(count: u32) -> (AllowSet, Instant) {
    set_with(|family| (0..count).map(move |number| address(family, number)))
}

/// A set of one host with so many addresses of IPv4 in two dense parts.
pub fn set_of_clusters(count: u32) -> (AllowSet, Instant) {
    set_with(|_| (0..count).map(clustered))
}

fn set_with<A: Iterator<Item = IpAddr>>(addresses: impl Fn(Family) -> A) -> (AllowSet, Instant) {
    let now = Instant::now();
    let mut set = AllowSet::new(rules(), [host(1)], &[], now).expect("no networks");
    for family in Family::ALL {
        let answer = Answer::new(addresses(family), Duration::from_secs(300));
        let question = Question {
            host: host(1),
            family,
        };
        set.apply(&question, Ok(answer), now);
    }
    (set, now)
}

pub fn networks(count: u32) -> Vec<IpNet> {
    Family::ALL
        .into_iter()
        .flat_map(|family| (0..count).map(move |number| IpNet::from(address(family, number))))
        .collect()
}

/// A set of so many static networks in each family.
pub fn set_of_networks(count: u32) -> (AllowSet, Instant) {
    let now = Instant::now();
    let set = AllowSet::new(rules(), [], &networks(count), now).expect("not a whole family");
    (set, now)
}

/// A refresh of ten hosts in two families, with three addresses each.
pub struct Round {
    set: AllowSet,
    answers: Vec<(Question, Answer)>,
    now: Instant,
    pub published: Option<Arc<AllowSet>>,
}

pub fn ten_hosts() -> Round {
    let now = Instant::now();
    let set = AllowSet::new(rules(), (0..10).map(host), &[], now).expect("no networks");
    let questions = set.questions();
    let answers = questions.enumerate().map(|(host, (question, _))| {
        let host = u32::try_from(host).expect("twenty");
        let addresses = (0..3).map(|number| address(question.family, 10 * host + number));
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
    // The first puts the addresses in; those that follow find them there.
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

/// Answers every question at once.
#[derive(Clone, Debug)]
pub struct Zone {
    pub addresses: u32,
}

impl Resolve for Zone {
    async fn resolve(&self, question: Question) -> Result<Answer, ResolveError> {
        if self.addresses == 0 {
            return Err(ResolveError::new(ResolveErrorKind::ServFail));
        }
        let addresses = (0..self.addresses).map(|number| address(question.family, number));
        Ok(Answer::new(addresses, Duration::from_secs(300)))
    }
}

/// A list that is kept by a refresher, which stands still unless the runtime is driven.
pub struct Kept {
    pub list: AllowList,
    pub since: Instant,
    pub runtime: Runtime,
}

pub fn kept(addresses: u32) -> Kept {
    let runtime = runtime();
    let since = Instant::now();
    let list = runtime.block_on(async {
        let list = builder(1).spawn(Zone { addresses });
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
        // However long the setup takes, nobody waits for a round.
        .recheck_interval(Duration::from_secs(24 * 60 * 60))
}

/// Uses up the room that the log has in one second, as a flood does, and not at its end.
pub fn exhaust_log(service: &mut Verified, kept: &Kept) {
    while kept.since.elapsed().subsec_millis() > 300 {
        std::thread::yield_now();
    }
    for number in 0..20 {
        serve(service, callback(stranger(Family::V4, number)));
    }
}

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

/// A layer that does nothing, to compare with.
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

pub type Verified = VerifySource<Merchant, ConnectInfoPeer>;

pub fn verified(list: &AllowList) -> Verified {
    VerifySourceLayer::rejecting(list.clone(), ConnectInfoPeer).layer(Merchant)
}

/// As axum's server hands it on: with the connection's peer, and the headers of a callback.
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

/// One request from end to end, whose future never has to wait.
pub fn serve<S>(service: &mut S, request: Request<Body>) -> S::Response
where
    S: Service<Request<Body>, Error = Infallible>,
{
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    match pin!(service.call(request)).poll(&mut cx) {
        Poll::Ready(Ok(response)) => response,
        Poll::Pending => panic!("it waits"),
    }
}

pub fn behind_proxies() -> ForwardedPeer<SocketPeer> {
    let networks = ["10.0.0.0/8", "2001:db8::/32"].map(|net| net.parse().expect("a network"));
    let proxies = TrustedProxies::new(networks).expect("not a whole family");
    ForwardedPeer::x_forwarded_for(SocketPeer, proxies)
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
