//! Instruction counts, and their limits: the goal, or what was reached and 5 %.
//!
//! A limit is raised only together with `docs/performance.md`.
#![allow(
    missing_docs,
    unused_qualifications,
    clippy::exit,
    reason = "what the macros make"
)]

mod support;

use std::net::IpAddr;

use callback_source::{
    AllowSet, Family, Verdict,
    verify::{ForwardedPeer, SocketPeer},
};
use gungraun::{
    Callgrind, EventKind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main,
};
use http::{HeaderMap, Request, Response};
use tokio::time::Instant;

use support::{Body, Merchant, NoOp, Verified};

struct Asked {
    set: AllowSet,
    peer: IpAddr,
    now: Instant,
}

fn limit(instructions: u64) -> LibraryBenchmarkConfig {
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(Callgrind::default().hard_limits([(EventKind::Ir, instructions)]));
    config
}

fn leak<T>(value: T) -> &'static mut T {
    Box::leak(Box::new(value))
}

/// What a set holds.
#[derive(Clone, Copy)]
enum Of {
    Addresses,
    Networks,
    /// Addresses in two dense parts far from each other, where the table of steps helps least.
    Clusters,
}

fn ask(of: Of, count: u32, family: Family, listed: bool) -> &'static Asked {
    let (set, now) = match of {
        Of::Addresses => support::set_of(count),
        Of::Networks => support::set_of_networks(count),
        Of::Clusters => support::set_of_clusters(count),
    };
    let number = support::middle(count);
    let peer = match (of, listed) {
        (Of::Clusters, _) => support::clustered(number),
        (_, true) => support::address(family, number),
        (_, false) => support::stranger(family, number),
    };
    assert_eq!(set.verdict(peer, now).is_allowed(), listed);
    leak(Asked { set, peer, now })
}

#[library_benchmark(setup = ask)]
#[bench::v4_16_listed(args = (Of::Addresses, 16, Family::V4, true), config = limit(120))]
#[bench::v4_16_stranger(args = (Of::Addresses, 16, Family::V4, false), config = limit(110))]
#[bench::v6_16_listed(args = (Of::Addresses, 16, Family::V6, true), config = limit(165))]
#[bench::v6_16_stranger(args = (Of::Addresses, 16, Family::V6, false), config = limit(149))]
#[bench::v4_1k_listed(args = (Of::Addresses, 1_000, Family::V4, true), config = limit(120))]
#[bench::v4_100k_listed(args = (Of::Addresses, 100_000, Family::V4, true), config = limit(120))]
#[bench::v4_100k_stranger(args = (Of::Addresses, 100_000, Family::V4, false), config = limit(110))]
#[bench::v6_100k_listed(args = (Of::Addresses, 100_000, Family::V6, true), config = limit(165))]
#[bench::v6_100k_stranger(args = (Of::Addresses, 100_000, Family::V6, false), config = limit(149))]
#[bench::v4_100k_clusters(args = (Of::Clusters, 100_000, Family::V4, true), config = limit(300))]
#[bench::v4_16_network(args = (Of::Networks, 16, Family::V4, true), config = limit(120))]
#[bench::v4_16_no_network(args = (Of::Networks, 16, Family::V4, false), config = limit(99))]
#[bench::v6_16_network(args = (Of::Networks, 16, Family::V6, true), config = limit(167))]
#[bench::v6_16_no_network(args = (Of::Networks, 16, Family::V6, false), config = limit(138))]
#[bench::v4_100k_network(args = (Of::Networks, 100_000, Family::V4, true), config = limit(120))]
#[bench::v4_100k_no_network(args = (Of::Networks, 100_000, Family::V4, false), config = limit(99))]
#[bench::v6_100k_network(args = (Of::Networks, 100_000, Family::V6, true), config = limit(167))]
#[bench::v6_100k_no_network(args = (Of::Networks, 100_000, Family::V6, false), config = limit(138))]
fn verdict(asked: &'static Asked) -> Verdict {
    asked.set.verdict(asked.peer, asked.now)
}

library_benchmark_group!(name = verdicts, benchmarks = [verdict]);

struct Called {
    service: &'static mut Verified,
    request: Request<Body>,
}

fn call(count: u32, family: Family, listed: bool) -> Called {
    let kept = leak(support::kept(count));
    let service = leak(support::verified(&kept.list));
    let number = support::middle(count);
    let peer = match listed {
        true => support::address(family, number),
        false => support::stranger(family, number),
    };
    support::exhaust_log(service, kept);
    // The last to free what this one will allocate, so that the allocator has it at hand.
    let request = support::callback(peer);
    support::serve(service, support::callback(peer));
    Called { service, request }
}

fn call_no_op() -> (&'static mut NoOp<Merchant>, Request<Body>) {
    let service = leak(NoOp(Merchant));
    let peer = support::address(Family::V4, 0);
    let request = support::callback(peer);
    support::serve(service, support::callback(peer));
    (service, request)
}

#[library_benchmark]
#[bench::no_op(setup = call_no_op, config = limit(2_078))]
fn no_op((service, request): (&'static mut NoOp<Merchant>, Request<Body>)) -> Response<Body> {
    support::serve(service, request)
}

#[library_benchmark(setup = call)]
#[bench::v4_16_listed(args = (16, Family::V4, true), config = limit(3_138))]
#[bench::v4_16_stranger(args = (16, Family::V4, false), config = limit(3_740))]
#[bench::v6_16_listed(args = (16, Family::V6, true), config = limit(3_184))]
#[bench::v6_16_stranger(args = (16, Family::V6, false), config = limit(3_784))]
#[bench::v4_100k_listed(args = (100_000, Family::V4, true), config = limit(3_138))]
#[bench::v4_100k_stranger(args = (100_000, Family::V4, false), config = limit(3_740))]
fn layer(called: Called) -> Response<Body> {
    support::serve(called.service, called.request)
}

library_benchmark_group!(name = layers, benchmarks = [no_op, layer]);

type Forwarded = (
    &'static ForwardedPeer<SocketPeer>,
    IpAddr,
    &'static HeaderMap,
);

fn forwarded(value: &str) -> Forwarded {
    let headers = leak(support::header("x-forwarded-for", value));
    let peer = "10.0.0.1".parse().expect("an address");
    let behind = leak(support::behind_proxies());
    (behind, peer, headers)
}

fn forwarded_by(client: &str, hop: &str, hops: usize) -> Forwarded {
    forwarded(&support::hops(client, hop, hops))
}

#[library_benchmark(setup = forwarded_by)]
#[bench::one_v4(args = ("203.0.113.77", "", 0), config = limit(900))]
#[bench::one_v6(args = ("2a01:111:f400:7e00:1:2:3:4567", "", 0), config = limit(1_738))]
#[bench::thirty_v4(args = ("203.0.113.77", "10.20.30.40", 29), config = limit(15_150))]
#[bench::thirty_v6(args = ("2a01:111:f400:7e00:1:2:3:4567", "2001:db8:0:0:1:2:3:4567", 29), config = limit(36_800))]
fn x_forwarded_for((behind, peer, headers): Forwarded) -> IpAddr {
    match behind.client(peer, headers) {
        Ok(client) => client,
        Err(rejection) => panic!("{rejection}"),
    }
}

library_benchmark_group!(name = proxies, benchmarks = [x_forwarded_for]);

#[library_benchmark]
#[bench::ten_hosts(setup = support::ten_hosts, config = limit(4_200_000))]
fn refresh(mut round: support::Round) -> support::Round {
    round.run();
    round
}

library_benchmark_group!(name = rounds, benchmarks = [refresh]);

main!(library_benchmark_groups = [verdicts, layers, proxies, rounds]);
