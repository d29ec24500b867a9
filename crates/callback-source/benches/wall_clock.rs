//! Most benchmarks of `instructions.rs`, in nanoseconds. They are run by hand, since the results depend on the machine
//! and its load.

mod support;

use std::net::IpAddr;

use callback_source::Family;
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

#[divan::bench(args = [16, 1_000, 100_000])]
fn verdict_listed(bencher: Bencher<'_, '_>, count: u32) {
    let (set, now) = support::set_of(count);
    let peer = support::peer(Family::V4, count, true);
    bencher.bench(|| black_box(&set).verdict(black_box(peer), now));
}

#[divan::bench(args = [16, 1_000, 100_000])]
fn verdict_unlisted(bencher: Bencher<'_, '_>, count: u32) {
    let (set, now) = support::set_of(count);
    let peer = support::peer(Family::V4, count, false);
    bencher.bench(|| black_box(&set).verdict(black_box(peer), now));
}

#[divan::bench(args = [16, 1_000, 100_000])]
fn verdict_network(bencher: Bencher<'_, '_>, count: u32) {
    let (set, now) = support::set_of_networks(count);
    let peer = support::peer(Family::V4, count, true);
    bencher.bench(|| black_box(&set).verdict(black_box(peer), now));
}

#[divan::bench]
fn no_layer(bencher: Bencher<'_, '_>) {
    let peer = support::address(Family::V4, 9);
    bencher
        .with_inputs(|| support::callback(peer))
        .bench_values(|request| support::serve(&mut support::Merchant, request));
}

#[divan::bench]
fn layer_listed(bencher: Bencher<'_, '_>) {
    let kept = support::kept(16);
    let peer = support::address(Family::V4, 9);
    bencher
        .with_inputs(|| (support::verified(&kept.list), support::callback(peer)))
        .bench_values(|(mut service, request)| support::serve(&mut service, request));
}

#[divan::bench]
fn layer_unlisted(bencher: Bencher<'_, '_>) {
    let kept = support::kept(16);
    let peer = support::unlisted(Family::V4, 9);
    bencher
        .with_inputs(|| (support::verified(&kept.list), support::callback(peer)))
        .bench_values(|(mut service, request)| support::serve(&mut service, request));
}

/// Cost of a refresh without its lookups, for ten hosts with three addresses in each of the two families.
#[divan::bench]
fn refresh(bencher: Bencher<'_, '_>) {
    bencher
        .with_inputs(support::ten_hosts)
        .bench_refs(support::Round::run);
}

#[divan::bench(args = [("203.0.113.77", "", 0), ("2a01:111:f400:7e00:1:2:3:4567", "", 0), ("203.0.113.77", "10.20.30.40", 29)])]
fn x_forwarded_for(bencher: Bencher<'_, '_>, (client, hop, hops): (&str, &str, usize)) {
    let headers = support::header("x-forwarded-for", &support::hops(client, hop, hops));
    let behind = support::behind_proxies();
    let peer: IpAddr = "10.0.0.1".parse().expect("an address");
    bencher.bench(|| black_box(&behind).client(black_box(peer), black_box(&headers)));
}
