//! Instruction counts and their limits. A limit is the measured count plus 5 %.
//!
//! `docs/performance.md` lists the goals and explains how to change a limit.
#![allow(
    missing_docs,
    unused_qualifications,
    clippy::exit,
    reason = "what the macros make"
)]

mod support;

use std::{net::IpAddr, time::Instant};

use axum::Router;
use callback_source::{
    AllowSet, Family, Verdict,
    verify::{ForwardedPeer, SocketAddrPeer},
};
use gungraun::{library_benchmark, library_benchmark_group, main};
use http::{HeaderMap, Request, Response};

use support::{Body, Merchant, Verified, leak, limit};

struct Asked {
    set: AllowSet,
    peer: IpAddr,
    now: Instant,
}

fn ask_addresses(count: u32, family: Family, listed: bool) -> &'static Asked {
    ask(support::set_of(count), count, family, listed)
}

fn ask_networks(count: u32, family: Family, listed: bool) -> &'static Asked {
    ask(support::set_of_networks(count), count, family, listed)
}

fn ask(
    (set, now): (AllowSet, Instant),
    count: u32,
    family: Family,
    listed: bool,
) -> &'static Asked {
    let peer = support::peer(family, count, listed);
    assert_eq!(set.verdict(peer, now).is_allowed(), listed);
    leak(Asked { set, peer, now })
}

#[library_benchmark(setup = ask_addresses)]
#[bench::v4_16_listed(args = (16, Family::V4, true), config = limit(126))]
#[bench::v4_16_unlisted(args = (16, Family::V4, false), config = limit(126))]
#[bench::v6_16_listed(args = (16, Family::V6, true), config = limit(164))]
#[bench::v6_16_unlisted(args = (16, Family::V6, false), config = limit(163))]
#[bench::v4_100k_listed(args = (100_000, Family::V4, true), config = limit(126))]
#[bench::v4_100k_unlisted(args = (100_000, Family::V4, false), config = limit(126))]
#[bench::v6_100k_listed(args = (100_000, Family::V6, true), config = limit(164))]
#[bench::v6_100k_unlisted(args = (100_000, Family::V6, false), config = limit(163))]
fn addresses(asked: &'static Asked) -> Verdict {
    asked.set.verdict(asked.peer, asked.now)
}

#[library_benchmark(setup = ask_networks)]
#[bench::v4_16_listed(args = (16, Family::V4, true), config = limit(150))]
#[bench::v4_16_unlisted(args = (16, Family::V4, false), config = limit(153))]
#[bench::v6_16_listed(args = (16, Family::V6, true), config = limit(185))]
#[bench::v6_16_unlisted(args = (16, Family::V6, false), config = limit(189))]
#[bench::v4_100k_listed(args = (100_000, Family::V4, true), config = limit(150))]
#[bench::v4_100k_unlisted(args = (100_000, Family::V4, false), config = limit(153))]
#[bench::v6_100k_listed(args = (100_000, Family::V6, true), config = limit(185))]
#[bench::v6_100k_unlisted(args = (100_000, Family::V6, false), config = limit(189))]
fn networks(asked: &'static Asked) -> Verdict {
    asked.set.verdict(asked.peer, asked.now)
}

library_benchmark_group!(name = verdict, benchmarks = [addresses, networks]);

fn nothing() -> Request<Body> {
    // Warms up the state that each thread initializes once, and gives the allocator free blocks to reuse.
    let request = support::callback(support::address(Family::V4, 0));
    support::serve(
        &mut Merchant,
        support::callback(support::address(Family::V4, 0)),
    );
    request
}

// The baseline of the rows below. A layer that does nothing is inlined to nothing, so that only the end of
// the request is left.
#[library_benchmark(setup = nothing)]
#[bench::request(config = limit(2_078))]
fn no_layer(request: Request<Body>) -> Response<Body> {
    support::serve(&mut Merchant, request)
}

fn call(count: u32, family: Family, listed: bool) -> (&'static mut Verified, Request<Body>) {
    let kept = leak(support::kept(count));
    let service = leak(support::verified(&kept.list));
    let peer = support::peer(family, count, listed);
    let request = support::callback(peer);
    support::exhaust_log(service, kept);
    support::serve(service, support::callback(peer));
    (service, request)
}

// These limits allow 5 % more than the layer added when they were set.
#[library_benchmark(setup = call)]
#[bench::v4_16_listed(args = (16, Family::V4, true), config = limit(3_008))]
#[bench::v4_16_unlisted(args = (16, Family::V4, false), config = limit(3_855))]
#[bench::v6_16_listed(args = (16, Family::V6, true), config = limit(3_052))]
#[bench::v6_16_unlisted(args = (16, Family::V6, false), config = limit(3_934))]
#[bench::v4_100k_listed(args = (100_000, Family::V4, true), config = limit(2_980))]
#[bench::v4_100k_unlisted(args = (100_000, Family::V4, false), config = limit(3_801))]
fn verify((service, request): (&'static mut Verified, Request<Body>)) -> Response<Body> {
    support::serve(service, request)
}

fn a_thousand() -> Vec<Request<Body>> {
    let peers = (0..1_000).map(|number| support::unlisted(Family::V4, number));
    peers.map(support::callback).collect()
}

// The cost of a thousand requests without the layer.
#[library_benchmark(setup = a_thousand)]
#[bench::requests(config = limit(3_380_218))]
fn no_flood(requests: Vec<Request<Body>>) {
    for request in requests {
        support::serve(&mut Merchant, request);
    }
}

fn unlisted_peers() -> (&'static mut Verified, Vec<Request<Body>>) {
    let kept = leak(support::kept(16));
    let service = leak(support::verified(&kept.list));
    let requests = a_thousand();
    support::exhaust_log(service, kept);
    (service, requests)
}

// A thousand refusals of a thousand peers, when the rate limit of the log is used up.
#[library_benchmark(setup = unlisted_peers)]
#[bench::of_unlisted_peers(config = limit(4_212_852))]
fn flood((service, requests): (&'static mut Verified, Vec<Request<Body>>)) {
    for request in requests {
        support::serve(service, request);
    }
}

library_benchmark_group!(
    name = layer,
    benchmarks = [no_layer, verify, no_flood, flood]
);

fn router(layers: fn() -> Router) -> (&'static mut Router, Request<axum::body::Body>) {
    let router = leak(layers());
    let request = || support::callback(support::address(Family::V4, 9)).map(Into::into);
    let first = request();
    support::serve(router, request());
    (router, first)
}

// A whole axum router, without the server around it.
#[library_benchmark(setup = router)]
#[bench::bare(args = (support::bare), config = limit(6_657))]
#[bench::route_no_op(args = (support::route_no_op), config = limit(7_082))]
#[bench::route(args = (support::route_verified), config = limit(8_588))]
fn axum_router(
    (router, request): (&'static mut Router, Request<axum::body::Body>),
) -> Response<axum::body::Body> {
    support::serve(router, request)
}

fn around() -> (&'static mut support::Around, Request<axum::body::Body>) {
    let service = leak(support::around());
    let request = || support::callback(support::address(Family::V4, 9)).map(Into::into);
    let first = request();
    support::serve(service, request());
    (service, first)
}

#[library_benchmark(setup = around)]
#[bench::router(config = limit(7_554))]
fn axum_around(
    (service, request): (&'static mut support::Around, Request<axum::body::Body>),
) -> Response<axum::body::Body> {
    support::serve(service, request)
}

library_benchmark_group!(name = in_axum, benchmarks = [axum_router, axum_around]);

type Forwarded = (
    &'static ForwardedPeer<SocketAddrPeer>,
    IpAddr,
    &'static HeaderMap,
);

fn forwarded_by(client: &str, hop: &str, hops: usize) -> Forwarded {
    let value = support::hops(client, hop, hops);
    let headers = leak(support::header("x-forwarded-for", &value));
    let peer = "10.0.0.1".parse().expect("an address");
    (leak(support::behind_proxies()), peer, headers)
}

#[library_benchmark(setup = forwarded_by)]
#[bench::one_v4(args = ("203.0.113.77", "", 0), config = limit(900))]
#[bench::one_v6(args = ("2a01:111:f400:7e00:1:2:3:4567", "", 0), config = limit(2_848))]
#[bench::thirty_v4(args = ("203.0.113.77", "10.20.30.40", 29), config = limit(15_096))]
#[bench::thirty_v6(args = ("2a01:111:f400:7e00:1:2:3:4567", "2001:db8:0:0:1:2:3:4567", 29), config = limit(67_384))]
fn x_forwarded_for((behind, peer, headers): Forwarded) -> IpAddr {
    match behind.client(peer, headers) {
        Ok(client) => client,
        Err(rejection) => panic!("{rejection}"),
    }
}

library_benchmark_group!(name = client, benchmarks = [x_forwarded_for]);

// All work of the refresher except the lookups: ten hosts, two families, three addresses each.
#[library_benchmark]
#[bench::ten_hosts(setup = support::ten_hosts, config = limit(4_461_983))]
fn round(mut round: support::Round) -> support::Round {
    round.run();
    round
}

library_benchmark_group!(name = refresh, benchmarks = [round]);

main!(library_benchmark_groups = [verdict, layer, in_axum, client, refresh]);
