//! Tests of the number of allocations of a request, for several paths through the code, and of the size of a list.

#[path = "../benches/support/mod.rs"]
mod support;

use std::{env, net::IpAddr, process::Command};

use allocation_counter::{AllocationInfo, measure};
use callback_source::{
    AllowSet, Family, Rejection,
    verify::{ConnectInfoPeer, ForwardedPeer, VerifySourceLayer},
};
use http::Response;
use tokio::time::Instant;
use tower::Layer;

#[test]
fn a_verdict_allocates_nothing() {
    let (set, now) = support::set_of(16);
    let (of_networks, since) = support::set_of_networks(16);
    for family in Family::ALL {
        for peer in [true, false].map(|listed| support::peer(family, 16, listed)) {
            for (set, now) in [(&set, now), (&of_networks, since)] {
                // The first call on a thread allocates.
                drop(set.verdict(peer, now));
                assert_eq!(count(|| drop(set.verdict(peer, now))), 0, "{peer}");
            }
        }
    }
}

#[test]
fn a_listed_peer_allocates_the_box_of_its_extension() {
    let kept = support::kept(16);
    let mut verified = support::verified(&kept.list);
    let mut no_op = support::NoOp(support::Merchant);
    for family in Family::ALL {
        let peer = support::address(family, 9);
        let [first, second, third] = [(); 3].map(|()| support::callback(peer));
        support::serve(&mut verified, first);
        let without = count(|| drop(support::serve(&mut no_op, second)));
        let with = count(|| drop(support::serve(&mut verified, third)));
        assert_eq!(with - without, 1, "{peer}");
    }
}

#[test]
fn an_unlisted_peer_allocates_the_response_headers_and_the_reason() {
    let kept = support::kept(16);
    let mut verified = support::verified(&kept.list);
    support::exhaust_log(&mut verified, &kept);
    let request = support::callback(support::unlisted(Family::V4, 9));
    // `http::HeaderMap` allocates its index and its entries, whether it has one header or two. The same peer has been
    // refused before.
    let allocated = count(|| drop(support::serve(&mut verified, request)));
    assert_eq!(allocated, 2 + OF_THE_REASON);

    let bare = |_: &Rejection| Response::new("");
    let layer = VerifySourceLayer::rejecting(kept.list.clone(), ConnectInfoPeer);
    let mut verified = layer.with_response(bare).layer(support::Merchant);
    let mut request = support::callback(support::unlisted(Family::V4, 9));
    request.headers_mut().remove("content-length");
    let allocated = count(|| drop(support::serve(&mut verified, request)));
    assert_eq!(allocated, OF_THE_REASON);
}

#[test]
fn the_client_behind_proxies_allocates_nothing() {
    let behind: ForwardedPeer<_> = support::behind_proxies();
    let peer: IpAddr = "10.0.0.1".parse().unwrap();
    for (client, hop, hops) in [
        ("203.0.113.77", "", 0),
        ("2a01:111:f400:7e00:1:2:3:4567", "", 0),
        ("203.0.113.77", "10.20.30.40", 29),
    ] {
        let headers = support::header("x-forwarded-for", &support::hops(client, hop, hops));
        let found = || assert_eq!(behind.client(peer, &headers), Ok(client.parse().unwrap()));
        found();
        assert_eq!(count(found), 0, "{client}");
    }
}

#[test]
fn a_flood_of_unlisted_peers_keeps_no_more_memory_than_the_bound() {
    let kept = support::kept(16);
    let mut verified = support::verified(&kept.list);
    let mut flood = |from: u32, to: u32| {
        for number in from..to {
            let peer = support::unlisted(Family::V4, number);
            support::serve(&mut verified, support::callback(peer));
        }
    };
    // The list remembers 16,384 refused peers, and the rate limit of the log remembers ten more peers each second.
    let kept_bytes = measure(|| flood(0, 30_000)).bytes_current;
    assert!(kept_bytes < 6 << 20, "{kept_bytes} bytes");
    let more = measure(|| flood(30_000, 60_000)).bytes_current;
    assert!(more < 512 << 10, "{more} bytes");
}

#[test]
fn a_list_of_ten_hosts_is_small() {
    if env::var_os(CHILD).is_some() {
        let started = Instant::now();
        let bytes = bytes_of_a_list_of_ten_hosts();
        println!("{MEASURED}{bytes} {}", started.elapsed().as_millis());
        return;
    }
    // Once a cache is 300 ms old, calls to moka also clean up. The clean-up allocates a timer wheel of 17 KiB. A
    // measurement that took 300 ms or more, as on a busy machine, is repeated. Each measurement runs in a separate
    // process, since a cache also frees the garbage of earlier caches.
    let (bytes, _) = (0..100)
        .map(|_| measure_in_a_child("a_list_of_ten_hosts_is_small"))
        .find(|(_, millis)| *millis < MOKA_INTERVAL_MILLIS)
        .expect("this machine is too slow for the measurement");
    // These bytes are used by two sets, the task, and moka. moka has two channels of a fixed size (27 KiB each), and
    // two maps of 64 segments. Random hashes decide how many segments the 20 questions fill, with 1,096 bytes for each.
    // They usually fill 35 segments of both maps together, and never more than 40. With 40 segments, the list uses
    // 182,430 bytes.
    assert!(bytes < 179 << 10, "{bytes} bytes");
}

/// Returns the bytes and the milliseconds that a test of this binary prints in a child process.
fn measure_in_a_child(test: &str) -> (i64, u64) {
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "--nocapture", test])
        .env(CHILD, "")
        .output()
        .unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let measured = output.lines().find_map(|line| line.split_once(MEASURED));
    let numbers = measured.and_then(|(_, numbers)| numbers.trim().split_once(' '));
    let (bytes, millis) = numbers.unwrap_or_else(|| panic!("{output}"));
    (bytes.parse().unwrap(), millis.parse().unwrap())
}

fn bytes_of_a_list_of_ten_hosts() -> i64 {
    let runtime = support::runtime();
    let mut list = None;
    let made = measure(|| {
        let zone = support::Zone { addresses: 3 };
        list = Some(runtime.block_on(async {
            let list = support::builder(10).spawn(zone);
            list.ready().await;
            // Lets the task drop its questions.
            tokio::task::yield_now().await;
            list
        }));
    });
    let set = list.expect("the list was made").snapshot();
    assert!(set.is_ready(Instant::now().into_std()));
    let mut published = None;
    let of_set = measure(|| published = Some(AllowSet::clone(&set)));
    assert!(of_set.bytes_current < 21 << 10, "{of_set:?}");
    made.bytes_current
}

fn count(work: impl FnOnce()) -> u64 {
    let AllocationInfo { count_total, .. } = measure(work);
    count_total
}

/// Number of allocations for the rejection, which is boxed. The response reuses the extensions map of the request.
const OF_THE_REASON: u64 = 1;

/// `LOG_SYNC_INTERVAL_MILLIS` of moka.
const MOKA_INTERVAL_MILLIS: u64 = 300;

/// Name of the variable that is set in the child process that measures.
const CHILD: &str = "MEASURES_ALLOCATIONS";
const MEASURED: &str = "measured: ";
