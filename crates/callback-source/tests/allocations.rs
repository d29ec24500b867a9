//! What a request may take from the allocator, by path.

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
fn a_verdict_takes_nothing() {
    let (set, now) = support::set_of(16);
    let (of_networks, since) = support::set_of_networks(16);
    for family in Family::ALL {
        for peer in [true, false].map(|listed| support::peer(family, 16, listed)) {
            for (set, now) in [(&set, now), (&of_networks, since)] {
                // What is done once for a thread.
                drop(set.verdict(peer, now));
                assert_eq!(count(|| drop(set.verdict(peer, now))), 0, "{peer}");
            }
        }
    }
}

#[test]
fn a_listed_peer_takes_the_box_of_its_extension() {
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
fn an_unlisted_peer_takes_the_boxes_of_the_response_headers_and_of_the_reason() {
    let kept = support::kept(16);
    let mut verified = support::verified(&kept.list);
    support::exhaust_log(&mut verified, &kept);
    let request = support::callback(support::stranger(Family::V4, 9));
    // `metrics` has one, for a label that is not known when compiling.
    let of_metrics = u64::from(cfg!(feature = "metrics"));
    // `http::HeaderMap` has two, one for the index and one for the entries, for one header as for two.
    let taken = count(|| drop(support::serve(&mut verified, request)));
    assert_eq!(taken, 2 + OF_THE_REASON + of_metrics);

    let bare = |_: &Rejection| Response::new("");
    let layer = VerifySourceLayer::rejecting(kept.list.clone(), ConnectInfoPeer);
    let mut verified = layer.with_response(bare).layer(support::Merchant);
    let mut request = support::callback(support::stranger(Family::V4, 9));
    request.headers_mut().remove("content-length");
    let taken = count(|| drop(support::serve(&mut verified, request)));
    assert_eq!(taken, OF_THE_REASON + of_metrics);
}

#[test]
fn the_client_behind_proxies_takes_nothing() {
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
fn a_flood_of_strangers_holds_no_memory_of_its_own() {
    let kept = support::kept(16);
    let mut verified = support::verified(&kept.list);
    let mut flood = |from: u32, to: u32| {
        for number in from..to {
            let peer = support::stranger(Family::V4, number);
            support::serve(&mut verified, support::callback(peer));
        }
    };
    flood(0, 1_000);
    // Ten a second are remembered, of those that are logged.
    let held = measure(|| flood(1_000, 50_000)).bytes_current;
    assert!(held < 64 << 10, "{held} bytes");
}

#[test]
fn a_list_of_ten_hosts_is_small() {
    if env::var_os(CHILD).is_some() {
        println!("{HELD}{}", held_by_a_list_of_ten_hosts());
        return;
    }
    // moka tidies up once 300 ms have passed, and holds some 18 KiB for that: a wheel for the times at which
    // entries end. On a busy machine this falls into the measurement. A process for each attempt, since an
    // attempt also frees what earlier ones left to be freed.
    let mut held = Vec::new();
    while held.len() < ATTEMPTS {
        let bytes = in_a_process_of_its_own("a_list_of_ten_hosts_is_small");
        held.push(bytes);
        // Two such sets, two caches of moka's with channels of a fixed size (27 KiB each), and the task.
        if bytes < 177 << 10 {
            return;
        }
    }
    panic!("{held:?} bytes");
}

fn in_a_process_of_its_own(test: &str) -> i64 {
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "--nocapture", test])
        .env(CHILD, "")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let held = said.lines().find_map(|line| line.split_once(HELD));
    let (_, held) = held.unwrap_or_else(|| panic!("{said}"));
    held.trim().parse().unwrap()
}

fn held_by_a_list_of_ten_hosts() -> i64 {
    let runtime = support::runtime();
    let mut list = None;
    let made = measure(|| {
        let zone = support::Zone { addresses: 3 };
        list = Some(runtime.block_on(async {
            let list = support::builder(10).spawn(zone);
            list.ready().await;
            // The task lets go of its questions.
            tokio::task::yield_now().await;
            list
        }));
    });
    let set = list.expect("it was made").snapshot();
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

/// The map of the response's extensions, its table, and the rejection.
const OF_THE_REASON: u64 = 3;

const ATTEMPTS: usize = 10;

/// Set where a test measures, in a process of its own.
const CHILD: &str = "CALLBACK_SOURCE_MEASURES";
const HELD: &str = "held by the list: ";
