//! Test of the code that reads the entries of a proxy's header. This code runs for every request behind a proxy.

use std::{hint::black_box, net::SocketAddr};

use callback_source::verify::{ForwardedPeer, PeerIp, SocketAddrPeer, TrustedProxies};
use http::{Extensions, HeaderMap, HeaderName};

#[test]
fn a_list_of_32_hops_is_walked_without_an_allocation() {
    let proxies = TrustedProxies::new(["10.0.0.0/24".parse().unwrap()]).unwrap();
    let mut extensions = Extensions::new();
    extensions.insert("10.0.0.7:4711".parse::<SocketAddr>().unwrap());

    let plain = [
        "198.51.100.66, 192.0.2.1",
        &", [::ffff:10.0.0.8]:4711".repeat(31),
    ]
    .concat();
    let elements = [
        "for=198.51.100.66, for=192.0.2.1",
        &", host=\"a, b\";for=\"10.0.0.8:4711\"".repeat(31),
    ]
    .concat();
    for (source, name, list) in [
        (
            ForwardedPeer::x_forwarded_for(SocketAddrPeer, proxies.clone()),
            "x-forwarded-for",
            plain,
        ),
        (
            ForwardedPeer::forwarded(SocketAddrPeer, proxies),
            "forwarded",
            elements,
        ),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static(name), list.parse().unwrap());
        let client = "192.0.2.1".parse().unwrap();
        assert_eq!(source.peer_ip(&headers, &extensions), Ok(client));
        let walk = || drop(black_box(source.peer_ip(&headers, &extensions)));
        assert_eq!(allocation_counter::measure(walk).count_total, 0, "{name}");
    }
}
