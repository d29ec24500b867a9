//! Fuzz target for forwarding headers. For any header, the result is an error or a client that is not a trusted proxy.
//! Entries to the left of the client do not change the client.

#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use callback_source::verify::{ForwardedPeer, SocketAddrPeer, TrustedProxies};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use libfuzzer_sys::fuzz_target;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Header {
    XForwardedFor,
    Forwarded,
    Single,
}

// Format of the input: a letter that selects the header, the entries that the client writes itself, and the lines of
// the header. A line feed precedes each line.
fuzz_target!(|input: &[u8]| {
    let (header, input) = match input {
        [b'x', input @ ..] => (Header::XForwardedFor, input),
        [b'f', input @ ..] => (Header::Forwarded, input),
        [b's', input @ ..] => (Header::Single, input),
        _ => return,
    };
    let mut parts = input.split(|byte| *byte == b'\n');
    let junk = parts.next().unwrap_or_default();
    let lines: Vec<_> = parts
        .filter_map(|line| HeaderValue::from_bytes(line).ok())
        .collect();
    let networks = ["10.0.0.0/8", "2001:db8::/32", "::ffff:192.168.0.0/112"];
    let networks = networks.map(|network| network.parse().expect("they are networks"));
    let proxies = TrustedProxies::new(networks).expect("they are narrow");
    let name = match header {
        Header::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
        Header::Forwarded => header::FORWARDED,
        Header::Single => HeaderName::from_static("x-real-ip"),
    };
    let peer = ForwardedPeer::header(SocketAddrPeer, proxies.clone(), name.clone());
    let headers = |lines: &[HeaderValue]| {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name.clone(), line.clone());
        }
        headers
    };
    let mut hops = Vec::new();
    let proxy = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    let client = peer.walk(proxy, &headers(&lines), |hop, trusted| {
        hops.push((hop, trusted))
    });

    let untrusted = IpAddr::V4(Ipv4Addr::new(9, 9, 9, 9));
    assert_eq!(peer.client(untrusted, &headers(&lines)), Ok(untrusted));
    assert_eq!(hops.first(), Some(&(proxy, true)));
    assert!(hops.len() <= 33);
    let Ok(client) = client else {
        return;
    };
    assert!(!proxies.contains(client));
    assert_eq!(client, client.to_canonical());
    assert!(!client.is_unspecified() && !client.is_multicast());
    assert_ne!(client, IpAddr::V4(Ipv4Addr::BROADCAST));
    let (last, before) = hops.split_last().expect("it is not empty");
    assert_eq!(*last, (client, false));
    assert!(before.iter().all(|(_, trusted)| *trusted));

    if header == Header::Single {
        assert_eq!(lines.len(), 1);
        return;
    }
    let Ok(junk) = HeaderValue::from_bytes(junk) else {
        return;
    };
    let mut above = vec![junk.clone()];
    above.extend(lines.iter().cloned());
    assert_eq!(peer.client(proxy, &headers(&above)), Ok(client));
    let joined = [junk.as_bytes(), b",", lines[0].as_bytes()].concat();
    let mut left = lines;
    left[0] = HeaderValue::from_bytes(&joined).expect("both parts are values");
    assert_eq!(peer.client(proxy, &headers(&left)), Ok(client));
});
