//! What a request may take from the allocator, by path.

#[path = "../benches/support/mod.rs"]
mod support;

use std::net::IpAddr;

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
fn a_stranger_takes_the_two_boxes_of_the_response_headers() {
    let kept = support::kept(16);
    let mut verified = support::verified(&kept.list);
    support::exhaust_log(&mut verified, &kept);
    let request = support::callback(support::stranger(Family::V4, 9));
    // `metrics` has one, for a label that is not known when compiling.
    let of_metrics = u64::from(cfg!(feature = "metrics"));
    // `http::HeaderMap` has two, one for the index and one for the entries, for one header as for two.
    let taken = count(|| drop(support::serve(&mut verified, request)));
    assert_eq!(taken, 2 + of_metrics);

    let bare = |_: &Rejection| Response::new("");
    let layer = VerifySourceLayer::rejecting(kept.list.clone(), ConnectInfoPeer);
    let mut verified = layer.with_response(bare).layer(support::Merchant);
    let mut request = support::callback(support::stranger(Family::V4, 9));
    request.headers_mut().remove("content-length");
    let taken = count(|| drop(support::serve(&mut verified, request)));
    assert_eq!(taken, of_metrics);
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
    assert!(set.is_ready(Instant::now()));
    let mut published = None;
    let of_set = measure(|| published = Some(AllowSet::clone(&set)));
    assert!(of_set.bytes_current < 21 << 10, "{of_set:?}");
    // Two such sets, two caches of moka's with channels of a fixed size (27 KiB each), and the task.
    assert!(made.bytes_current < 177 << 10, "{made:?}");
}

fn count(work: impl FnOnce()) -> u64 {
    let AllocationInfo { count_total, .. } = measure(work);
    count_total
}
