use std::net::Ipv4Addr;

use http::HeaderValue;
use proptest::prelude::*;

use super::{entry::quad, *};
use crate::verify::{SocketAddrPeer, UnixConnection};

/// A genuine callback server, an unlisted peer, and two trusted proxies.
const A: &str = "192.0.2.1";
const X: &str = "198.51.100.66";
const P: &str = "10.0.0.7";
const P6: &str = "2001:db8:aaaa::7";

use RejectionKind::{
    ForwardedAllTrusted, ForwardedDuplicate, ForwardedMalformed as Malformed,
    ForwardedMissing as Missing, ForwardedTooManyHops,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn proxies() -> TrustedProxies {
    let networks = ["10.0.0.0/24", "2001:db8:aaaa::/64"];
    TrustedProxies::new(networks.map(|network| network.parse().unwrap())).unwrap()
}

fn xff() -> ForwardedPeer<SocketAddrPeer> {
    ForwardedPeer::x_forwarded_for(SocketAddrPeer, proxies())
}

fn forwarded() -> ForwardedPeer<SocketAddrPeer> {
    ForwardedPeer::forwarded(SocketAddrPeer, proxies())
}

fn real_ip() -> ForwardedPeer<SocketAddrPeer> {
    let name = HeaderName::from_static("x-real-ip");
    ForwardedPeer::header(SocketAddrPeer, proxies(), name)
}

fn headers<'a>(lines: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, HeaderValue::from_bytes(value).unwrap());
    }
    headers
}

/// Returns the client of a connection from the proxy `P` with these lines of one header.
fn from_p(
    source: &ForwardedPeer<SocketAddrPeer>,
    lines: &[&[u8]],
) -> Result<IpAddr, RejectionKind> {
    let name = match &source.source {
        ForwardedSource::XForwardedFor => "x-forwarded-for",
        ForwardedSource::Forwarded => "forwarded",
        ForwardedSource::Single(name) => name.as_str(),
    };
    let headers = headers(lines.iter().map(|line| (name, *line)));
    let client = source.client(ip(P), &headers);
    client.map_err(|rejection| rejection.kind())
}

#[track_caller]
fn check(source: &ForwardedPeer<SocketAddrPeer>, rows: &[Row<'_>]) {
    for (case, lines, expected) in rows {
        let lines: Vec<_> = lines.iter().map(|line| line.as_bytes()).collect();
        let shown: Vec<_> = lines
            .iter()
            .map(|line| String::from_utf8_lossy(line))
            .collect();
        assert_eq!(
            from_p(source, &lines),
            expected.map(ip),
            "case {case}: {shown:?}"
        );
    }
}

/// Label of a case, the lines of the header, and the expected outcome.
type Row<'a> = (&'a str, &'a [&'a str], Result<&'a str, RejectionKind>);

#[test]
fn x_forwarded_for_is_walked_from_the_right() {
    check(
        &xff(),
        &[
            ("one entry", &["192.0.2.1"], Ok(A)),
            ("leftmost trap", &["192.0.2.1, 198.51.100.66"], Ok(X)),
            ("lines in order", &["192.0.2.1", "198.51.100.66"], Ok(X)),
            (
                "lines in the other order",
                &["198.51.100.66", "192.0.2.1"],
                Ok(A),
            ),
            (
                "lines of lists",
                &["192.0.2.1, 192.0.2.2", "192.0.2.3, 198.51.100.66"],
                Ok(X),
            ),
            (
                "a trusted line, then further up",
                &["192.0.2.1, 198.51.100.66", "10.0.0.8"],
                Ok(X),
            ),
            (
                "unlisted peer in front of the client",
                &["198.51.100.66, 192.0.2.1"],
                Ok(A),
            ),
            (
                "over a trusted hop",
                &["198.51.100.66, 192.0.2.1, 10.0.0.8"],
                Ok(A),
            ),
            (
                "over trusted hops of both families",
                &["192.0.2.1, 2001:db8:aaaa::9, 10.0.0.8"],
                Ok(A),
            ),
            (
                "garbage where the client should be",
                &["192.0.2.1, garbage"],
                Err(Malformed),
            ),
            (
                "garbage before a trusted hop",
                &["192.0.2.1, garbage, 10.0.0.8"],
                Err(Malformed),
            ),
            ("garbage further left", &["garbage, 192.0.2.1"], Ok(A)),
            (
                "garbage further left in a line",
                &["\u{fffd}\"[(", "192.0.2.1"],
                Ok(A),
            ),
            ("unknown", &["192.0.2.1, unknown"], Err(Malformed)),
            ("null", &["192.0.2.1, (null)"], Err(Malformed)),
            ("dash", &["192.0.2.1, -"], Err(Malformed)),
            ("hidden", &["192.0.2.1, _hidden"], Err(Malformed)),
            (
                "all trusted",
                &["10.0.0.7, 10.0.0.8"],
                Err(ForwardedAllTrusted),
            ),
            (
                "all trusted in lines",
                &["10.0.0.7", "10.0.0.8"],
                Err(ForwardedAllTrusted),
            ),
            ("no header", &[], Err(Missing)),
            ("empty", &[""], Err(Malformed)),
            (
                "empty line after the client",
                &["192.0.2.1", ""],
                Err(Malformed),
            ),
            ("only commas", &[",,,"], Err(Malformed)),
            ("leading comma", &[", 192.0.2.1"], Ok(A)),
            (
                "leading comma that is reached",
                &[", 10.0.0.8"],
                Err(Malformed),
            ),
            ("trailing comma", &["192.0.2.1,"], Err(Malformed)),
            ("trailing comma and space", &["192.0.2.1, "], Err(Malformed)),
            ("empty element", &["192.0.2.1,,10.0.0.8"], Err(Malformed)),
            (
                "tabs and doubled spaces",
                &["198.51.100.66,\t  192.0.2.1\t "],
                Ok(A),
            ),
            (
                "space in an entry",
                &["198.51.100.66 192.0.2.1"],
                Err(Malformed),
            ),
            (
                "no-break space",
                &["198.51.100.66,\u{a0}192.0.2.1"],
                Err(Malformed),
            ),
            (
                "em space",
                &["198.51.100.66,\u{2003}192.0.2.1"],
                Err(Malformed),
            ),
            ("port", &["192.0.2.1:443"], Ok(A)),
            (
                "bracketed with a port",
                &["[2001:db8::1]:443"],
                Ok("2001:db8::1"),
            ),
            ("bracketed", &["[2001:db8::1]"], Ok("2001:db8::1")),
            (
                "bare IPv6 is never cut",
                &["2001:db8::1:443"],
                Ok("2001:db8::1:443"),
            ),
            ("port of a trusted hop", &["192.0.2.1, 10.0.0.8:1"], Ok(A)),
            ("empty port", &["192.0.2.1:"], Err(Malformed)),
            (
                "empty port after brackets",
                &["[2001:db8::1]:"],
                Err(Malformed),
            ),
            ("port out of range", &["192.0.2.1:65536"], Err(Malformed)),
            ("port with a sign", &["192.0.2.1:+80"], Err(Malformed)),
            ("port that is a name", &["192.0.2.1:http"], Err(Malformed)),
            ("text after brackets", &["[2001:db8::1]x"], Err(Malformed)),
            ("text after a port", &["[2001:db8::1]:443x"], Err(Malformed)),
            ("open bracket", &["[2001:db8::1"], Err(Malformed)),
            ("closing bracket", &["2001:db8::1]"], Err(Malformed)),
            ("doubled brackets", &["[[2001:db8::1]]"], Err(Malformed)),
            ("IPv4 in brackets", &["[192.0.2.1]"], Err(Malformed)),
            ("mapped", &["::ffff:192.0.2.1"], Ok(A)),
            ("mapped in capitals", &["::FFFF:192.0.2.1"], Ok(A)),
            ("mapped in hexadecimal", &["::ffff:c000:201"], Ok(A)),
            ("mapped in brackets", &["[::ffff:c000:201]:80"], Ok(A)),
            ("mapped trusted hop", &["192.0.2.1, ::ffff:10.0.0.8"], Ok(A)),
            (
                "IPv4-compatible is another address",
                &["::192.0.2.1"],
                Ok("::192.0.2.1"),
            ),
            (
                "IPv4-compatible form of a proxy is not trusted",
                &["192.0.2.1, ::10.0.0.8"],
                Ok("::10.0.0.8"),
            ),
            (
                "NAT64 is another address",
                &["64:ff9b::192.0.2.1"],
                Ok("64:ff9b::c000:201"),
            ),
            (
                "6to4 is another address",
                &["2002:c000:201::"],
                Ok("2002:c000:201::"),
            ),
            ("zone", &["fe80::1%eth0"], Err(Malformed)),
            ("zone in brackets", &["[fe80::1%25eth0]:80"], Err(Malformed)),
            (
                "zone of an IPv4 address",
                &["192.0.2.1%zone"],
                Err(Malformed),
            ),
            (
                "zone with a colon and a space",
                &["0.0.0.1% :"],
                Err(Malformed),
            ),
            (
                "zone after a mapped prefix",
                &["::fffF:0:1%:"],
                Err(Malformed),
            ),
            (
                "zone of a trusted hop",
                &["192.0.2.1, 2001:db8:aaaa::9%1"],
                Err(Malformed),
            ),
            ("octal", &["0177.0.0.1"], Err(Malformed)),
            ("leading zero", &["010.8.8.8"], Err(Malformed)),
            (
                "leading zeros of a trusted hop",
                &["192.0.2.1, 10.0.0.08"],
                Err(Malformed),
            ),
            ("short", &["127.1"], Err(Malformed)),
            ("a number", &["2130706433"], Err(Malformed)),
            ("hexadecimal", &["0x7f.1"], Err(Malformed)),
            ("other separators", &["10x1x1x1"], Err(Malformed)),
            ("five quads", &["192.0.2.1.1"], Err(Malformed)),
            ("a quad out of range", &["192.0.2.256"], Err(Malformed)),
            ("full-width digits", &["192.0.2.\u{ff11}"], Err(Malformed)),
            ("a network", &["192.0.2.0/24"], Err(Malformed)),
            ("unspecified", &["0.0.0.0"], Err(Malformed)),
            ("unspecified IPv6", &["::"], Err(Malformed)),
            ("unspecified, mapped", &["::ffff:0.0.0.0"], Err(Malformed)),
            ("broadcast", &["255.255.255.255"], Err(Malformed)),
            ("multicast", &["224.0.0.1"], Err(Malformed)),
            ("multicast, mapped", &["::ffff:224.0.0.1"], Err(Malformed)),
            ("multicast IPv6", &["ff02::1"], Err(Malformed)),
            ("a host name", &["callback-1.vipps.no"], Err(Malformed)),
            ("a host name", &["x.oast.fun"], Err(Malformed)),
            ("localhost", &["localhost"], Err(Malformed)),
            (
                "8-bit text",
                &["192.0.2.1, \u{e6}\u{f8}\u{e5}"],
                Err(Malformed),
            ),
            ("quotes", &["\"192.0.2.1\""], Err(Malformed)),
            (
                "an element of the other header",
                &["for=192.0.2.1"],
                Err(Malformed),
            ),
            (
                "a quote that is left open",
                &["\"192.0.2.2, 192.0.2.1"],
                Ok(A),
            ),
        ],
    );
}

#[test]
fn forwarded_is_walked_from_the_right() {
    check(
        &forwarded(),
        &[
            ("one element", &["for=192.0.2.1"], Ok(A)),
            (
                "with more pairs",
                &["by=10.0.0.7;for=192.0.2.1;proto=https;host=shop.test"],
                Ok(A),
            ),
            (
                "leftmost trap",
                &["for=192.0.2.1, for=198.51.100.66"],
                Ok(X),
            ),
            (
                "lines in order",
                &["for=192.0.2.1", "for=198.51.100.66"],
                Ok(X),
            ),
            (
                "over a trusted hop",
                &["for=198.51.100.66, for=192.0.2.1, for=10.0.0.8"],
                Ok(A),
            ),
            (
                "all trusted",
                &["for=10.0.0.7, for=10.0.0.8"],
                Err(ForwardedAllTrusted),
            ),
            ("no header", &[], Err(Missing)),
            (
                "comma in quotes",
                &["for=\"192.0.2.1, 198.51.100.66\""],
                Err(Malformed),
            ),
            (
                "comma in quotes of another pair",
                &["for=192.0.2.1;host=\"a, for=198.51.100.66\""],
                Ok(A),
            ),
            (
                "semicolon in quotes",
                &["for=192.0.2.1;host=\"a;for=198.51.100.66\""],
                Ok(A),
            ),
            (
                "escaped quote in quotes",
                &["for=192.0.2.1;host=\"a\\\", for=198.51.100.66\""],
                Ok(A),
            ),
            (
                "escaped backslash before a quote",
                &["for=198.51.100.66;host=\"a\\\\\", for=192.0.2.1"],
                Ok(A),
            ),
            (
                "escaped quote without quotes",
                &["for=192.0.2.1;host=\\\""],
                Err(Malformed),
            ),
            (
                "quote left open on the left",
                &["for=\"192.0.2.2, for=192.0.2.1"],
                Ok(A),
            ),
            (
                "quote left open, with an escape",
                &["for=\"192.0.2.2\\, for=192.0.2.1"],
                Ok(A),
            ),
            (
                "quote left open in a line before",
                &["for=\"192.0.2.2", "for=192.0.2.1"],
                Ok(A),
            ),
            (
                "quote left open, quotes on the right",
                &["for=\"x, for=\"[2001:db8::1]:4711\""],
                Ok("2001:db8::1"),
            ),
            (
                "quote left open at the decision point",
                &["for=192.0.2.1, for=\"198.51.100.66"],
                Err(Malformed),
            ),
            (
                "quote closed twice",
                &["for=192.0.2.1, for=198.51.100.66\""],
                Err(Malformed),
            ),
            (
                "IPv6 without quotes",
                &["for=[2001:db8::1]"],
                Err(Malformed),
            ),
            (
                "IPv6 without quotes and brackets",
                &["for=2001:db8::1"],
                Err(Malformed),
            ),
            (
                "IPv6 with a port",
                &["for=\"[2001:db8::1]:4711\""],
                Ok("2001:db8::1"),
            ),
            ("IPv6", &["for=\"[2001:db8::1]\""], Ok("2001:db8::1")),
            ("empty port", &["for=\"[::1]:\""], Err(Malformed)),
            ("IPv4 with a port", &["for=\"192.0.2.1:4711\""], Ok(A)),
            (
                "IPv4 with a port without quotes",
                &["for=192.0.2.1:4711"],
                Err(Malformed),
            ),
            (
                "IPv4 with an obfuscated port",
                &["for=\"192.0.2.1:_port\""],
                Ok(A),
            ),
            ("IPv4 in quotes", &["for=\"192.0.2.1\""], Ok(A)),
            ("space in quotes", &["for=\" 192.0.2.1\""], Err(Malformed)),
            ("mapped", &["for=\"[::ffff:192.0.2.1]\""], Ok(A)),
            (
                "`for` twice",
                &["for=192.0.2.1;for=192.0.2.1"],
                Err(Malformed),
            ),
            (
                "`for` twice, in two spellings",
                &["for=192.0.2.1;For=198.51.100.66"],
                Err(Malformed),
            ),
            ("in capitals", &["FOR=192.0.2.1"], Ok(A)),
            ("capitalised", &["For=192.0.2.1"], Ok(A)),
            ("another name", &["fore=192.0.2.1"], Err(Malformed)),
            (
                "another name next to it",
                &["fore=198.51.100.66;for=192.0.2.1"],
                Ok(A),
            ),
            ("space before the sign", &["for =192.0.2.1"], Err(Malformed)),
            ("space after the sign", &["for= 192.0.2.1"], Err(Malformed)),
            (
                "space around the semicolon",
                &["proto=https ; for=192.0.2.1"],
                Ok(A),
            ),
            ("unknown", &["for=192.0.2.1, for=unknown"], Err(Malformed)),
            (
                "unknown with a port",
                &["for=192.0.2.1, for=\"unknown:132\""],
                Err(Malformed),
            ),
            ("obfuscated", &["for=192.0.2.1, for=_obf"], Err(Malformed)),
            (
                "obfuscated with a port",
                &["for=192.0.2.1, for=\"_obf:_port\""],
                Err(Malformed),
            ),
            (
                "unknown further left",
                &["for=unknown, for=192.0.2.1"],
                Ok(A),
            ),
            ("no `for`", &["for=192.0.2.1, proto=https"], Err(Malformed)),
            (
                "no `for` on the way",
                &["for=192.0.2.1, proto=https, for=10.0.0.8"],
                Err(Malformed),
            ),
            ("escape", &["for=\"\\192.0.2.1\""], Err(Malformed)),
            (
                "escape of another pair",
                &["for=192.0.2.1;host=\"\\a\""],
                Ok(A),
            ),
            ("empty value", &["for="], Err(Malformed)),
            ("empty quoted value", &["for=\"\""], Err(Malformed)),
            ("one quote as value", &["for=\""], Err(Malformed)),
            ("empty", &[""], Err(Malformed)),
            ("only commas", &[",,"], Err(Malformed)),
            ("trailing comma", &["for=192.0.2.1,"], Err(Malformed)),
            ("leading comma", &[",for=192.0.2.1"], Ok(A)),
            ("only semicolons", &[";;"], Err(Malformed)),
            ("empty pairs", &[";;for=192.0.2.1;;"], Ok(A)),
            ("trailing semicolon", &["for=192.0.2.1;"], Ok(A)),
            (
                "pair without a sign",
                &["for=192.0.2.1;secure"],
                Err(Malformed),
            ),
            ("pair without a name", &["for=192.0.2.1;=x"], Err(Malformed)),
            ("8-bit text", &["for=192.0.2.1;host=\u{e6}"], Err(Malformed)),
            (
                "8-bit text in quotes",
                &["for=192.0.2.1;host=\"\u{e6}\""],
                Err(Malformed),
            ),
            ("host name", &["for=callback-1.vipps.no"], Err(Malformed)),
            (
                "bare quotes in quotes",
                &["for=192.0.2.1;host=\"a\"\"b\""],
                Err(Malformed),
            ),
            (
                "an entry of the other header",
                &["192.0.2.1"],
                Err(Malformed),
            ),
        ],
    );
}

#[test]
fn an_obfuscated_port_is_a_port() {
    let long = format!("for=\"192.0.2.1:_{}\"", "x".repeat(200));
    check(
        &forwarded(),
        &[
            ("IPv4", &["for=\"192.0.2.1:_gazonk\""], Ok(A)),
            ("every byte of it", &["for=\"192.0.2.1:_aZ09._-\""], Ok(A)),
            ("a long one", &[&long], Ok(A)),
            ("IPv6", &["for=\"[2001:db8::7]:_p\""], Ok("2001:db8::7")),
            (
                "a trusted hop",
                &["for=192.0.2.1, for=\"10.0.0.8:_p\""],
                Ok(A),
            ),
            (
                "with other pairs",
                &["proto=http;for=\"192.0.2.1:_p\";by=_x"],
                Ok(A),
            ),
            ("without quotes", &["for=192.0.2.1:_p"], Err(Malformed)),
            (
                "nothing after the byte",
                &["for=\"192.0.2.1:_\""],
                Err(Malformed),
            ),
            ("without its byte", &["for=\"192.0.2.1:p\""], Err(Malformed)),
            ("another byte", &["for=\"192.0.2.1:_p+\""], Err(Malformed)),
            ("another colon", &["for=\"192.0.2.1:_p:1\""], Err(Malformed)),
            ("a comma in it", &["for=\"192.0.2.1:_p,q\""], Err(Malformed)),
            ("an escape", &["for=\"192.0.2.1:\\_p\""], Err(Malformed)),
            ("two ports", &["for=\"192.0.2.1:80:_p\""], Err(Malformed)),
            (
                "two ports of IPv6",
                &["for=\"[2001:db8::7]:80:_p\""],
                Err(Malformed),
            ),
            (
                "IPv6 without brackets",
                &["for=\"2001:db8::7:_p\""],
                Err(Malformed),
            ),
            ("no colon", &["for=\"192.0.2.1_p\""], Err(Malformed)),
            ("no address", &["for=\":_p\""], Err(Malformed)),
            ("unknown", &["for=\"unknown:_p\""], Err(Malformed)),
            ("hidden", &["for=\"_hidden:_p\""], Err(Malformed)),
            ("no client", &["for=\"0.0.0.0:_p\""], Err(Malformed)),
        ],
    );
    check(
        &forwarded(),
        &[
            ("five digits", &["for=\"192.0.2.1:00443\""], Ok(A)),
            ("six digits", &["for=\"192.0.2.1:000443\""], Err(Malformed)),
            (
                "six digits of IPv6",
                &["for=\"[2001:db8::7]:000443\""],
                Err(Malformed),
            ),
            ("no port", &["for=\"192.0.2.1:65536\""], Err(Malformed)),
            ("an empty port", &["for=\"192.0.2.1:\""], Err(Malformed)),
        ],
    );
    // Only the standard for `Forwarded` defines obfuscated ports.
    check(
        &xff(),
        &[("in a plain list", &["192.0.2.1:_p"], Err(Malformed))],
    );
}

#[test]
fn a_hop_at_a_unix_socket_is_walked_over_if_that_is_trusted() {
    let trusting = || proxies().with_unix_sockets();
    let plain = ForwardedPeer::x_forwarded_for(SocketAddrPeer, trusting());
    check(
        &plain,
        &[
            ("the last hop", &["192.0.2.1, unix:"], Ok(A)),
            ("several lines", &["192.0.2.1", " unix:\t"], Ok(A)),
            (
                "among others",
                &["192.0.2.1, 10.0.0.8, unix:, 10.0.0.9"],
                Ok(A),
            ),
            ("twice", &["192.0.2.1,unix:,unix:"], Ok(A)),
            (
                "entries further left do not matter",
                &["192.0.2.1, unix:, 198.51.100.66, unix:"],
                Ok(X),
            ),
            (
                "everything to its right must be trusted",
                &["192.0.2.1, unix:, 198.51.100.66"],
                Ok(X),
            ),
            ("never the client", &["unix:"], Err(ForwardedAllTrusted)),
            (
                "nor in front of hops",
                &["unix:, 10.0.0.8"],
                Err(ForwardedAllTrusted),
            ),
            ("with a path", &["192.0.2.1, unix:/run/a"], Err(Malformed)),
            ("without its colon", &["192.0.2.1, unix"], Err(Malformed)),
            ("in capitals", &["192.0.2.1, Unix:"], Err(Malformed)),
            ("with a port", &["192.0.2.1, unix::80"], Err(Malformed)),
            ("in quotes", &["192.0.2.1, \"unix:\""], Err(Malformed)),
            (
                "something else",
                &["192.0.2.1, unix:, unknown"],
                Err(Malformed),
            ),
            ("nothing at all", &["192.0.2.1, unix:,"], Err(Malformed)),
        ],
    );
    let many = format!("192.0.2.1{}", ", unix:".repeat(32));
    check(
        &plain,
        &[
            (
                "32 entries",
                &[&many["192.0.2.1, ".len()..]],
                Err(ForwardedAllTrusted),
            ),
            ("33 entries", &[&many], Err(ForwardedTooManyHops)),
        ],
    );
    check(
        &ForwardedPeer::forwarded(SocketAddrPeer, trusting()),
        &[
            ("the last hop", &["for=192.0.2.1, for=\"unix:\""], Ok(A)),
            (
                "with other pairs",
                &["for=192.0.2.1, proto=http;FOR=\"unix:\";by=_x"],
                Ok(A),
            ),
            (
                "without quotes",
                &["for=192.0.2.1, for=unix:"],
                Err(Malformed),
            ),
            (
                "`for` twice",
                &["for=192.0.2.1, for=\"unix:\";for=\"unix:\""],
                Err(Malformed),
            ),
            (
                "with an address next to it",
                &["for=192.0.2.1, for=\"unix:\";for=10.0.0.8"],
                Err(Malformed),
            ),
            ("an open quote", &["\", for=\"unix:\""], Err(Malformed)),
            (
                "another name",
                &["for=192.0.2.1, by=\"unix:\""],
                Err(Malformed),
            ),
            (
                "never the client",
                &["for=\"unix:\""],
                Err(ForwardedAllTrusted),
            ),
        ],
    );
    let name = HeaderName::from_static("x-real-ip");
    check(
        &ForwardedPeer::header(SocketAddrPeer, trusting(), name),
        &[("a header with one address", &["unix:"], Err(Malformed))],
    );
    for source in [xff(), forwarded(), real_ip()] {
        for line in ["unix:", "192.0.2.1, unix:", "for=192.0.2.1, for=\"unix:\""] {
            let client = from_p(&source, &[line.as_bytes()]);
            assert_eq!(client, Err(Malformed), "{line}: not trusted");
        }
    }
}

#[test]
fn trusting_unix_sockets_trusts_no_peer_and_no_address() {
    let trusting = TrustedProxies::none().with_unix_sockets();
    for peer in [P, P6, "127.0.0.1", "::1", "0.0.0.0"] {
        assert!(!trusting.contains(ip(peer)), "{peer}");
    }
    let list = headers([("x-forwarded-for", b"192.0.2.1, unix:".as_slice())]);
    let plain = ForwardedPeer::x_forwarded_for(SocketAddrPeer, trusting.clone());
    assert_eq!(plain.client(ip(P), &list), Ok(ip(P)));

    let behind = ForwardedPeer::x_forwarded_for(UnixPeer, trusting);
    let mut hops = Vec::new();
    let client = behind.walk_behind_socket(&list, |hop, trusted| hops.push((hop, trusted)));
    assert_eq!((client, hops), (Ok(ip(A)), vec![(ip(A), false)]));
}

#[test]
fn the_port_of_cloudfront_is_never_part_of_an_ipv6_address() {
    let name = HeaderName::from_static("cloudfront-viewer-address");
    let proxies = TrustedProxies::new(["10.0.0.0/8".parse().unwrap()]).unwrap();
    let peer = ForwardedPeer::header(SocketAddrPeer, proxies, name.clone());
    let client = |value: &'static str| {
        let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static(value))]);
        peer.client(ip("10.0.0.1"), &headers).ok()
    };
    assert_eq!(client("192.0.2.1:443"), Some(ip("192.0.2.1")));
    assert_eq!(client("2001:db8::1:443"), Some(ip("2001:db8::1")));
    assert_eq!(
        client("2001:db8:1:2:3:4:5:6:443"),
        Some(ip("2001:db8:1:2:3:4:5:6"))
    );
    assert_eq!(client("[2001:db8::1]:443"), Some(ip("2001:db8::1")));
    for value in [
        "192.0.2.1",
        "192.0.2.1:80:443",
        "192.0.2.1:",
        "192.0.2.1:65536",
        "2001:db8::1:beef",
        "443",
        "",
    ] {
        assert_eq!(client(value), None, "{value}");
    }
}

#[test]
fn a_single_value_header_names_the_client() {
    check(
        &real_ip(),
        &[
            ("an address", &["192.0.2.1"], Ok(A)),
            ("spaces around it", &[" 192.0.2.1\t"], Ok(A)),
            ("with a port", &["192.0.2.1:443"], Ok(A)),
            ("mapped", &["::ffff:192.0.2.1"], Ok(A)),
            ("no header", &[], Err(Missing)),
            (
                "twice",
                &["192.0.2.1", "198.51.100.66"],
                Err(ForwardedDuplicate),
            ),
            (
                "twice the same",
                &["192.0.2.1", "192.0.2.1"],
                Err(ForwardedDuplicate),
            ),
            (
                "twice, and the first is none",
                &["garbage", "192.0.2.1"],
                Err(ForwardedDuplicate),
            ),
            ("a list", &["192.0.2.1, 198.51.100.66"], Err(Malformed)),
            ("empty", &[""], Err(Malformed)),
            ("a proxy", &["10.0.0.8"], Err(ForwardedAllTrusted)),
            ("a name", &["callback-1.vipps.no"], Err(Malformed)),
            ("unspecified", &["0.0.0.0"], Err(Malformed)),
        ],
    );
}

#[test]
fn the_names_of_the_list_headers_are_read_as_lists() {
    for (name, last) in [("x-forwarded-for", X), ("forwarded", "for=198.51.100.66")] {
        let name = HeaderName::from_static(name);
        let peer = ForwardedPeer::header(SocketAddrPeer, proxies(), name);
        let lines = [b"garbage".as_slice(), last.as_bytes()];
        assert_eq!(from_p(&peer, &lines), Ok(ip(X)));
    }
}

#[test]
fn a_peer_that_is_not_trusted_is_the_client_whatever_it_sends() {
    let forged = headers([
        ("x-forwarded-for", A.as_bytes()),
        ("forwarded", b"for=192.0.2.1"),
        ("x-real-ip", A.as_bytes()),
    ]);
    for source in [xff(), forwarded(), real_ip()] {
        for peer in [
            X,
            "127.0.0.1",
            "::1",
            "10.0.1.7",
            "::10.0.0.7",
            "2001:db8:aaab::7",
        ] {
            assert_eq!(source.client(ip(peer), &forged), Ok(ip(peer)));
        }
    }
    let trusting_none = ForwardedPeer::x_forwarded_for(SocketAddrPeer, TrustedProxies::none());
    assert_eq!(trusting_none.client(ip(P), &forged), Ok(ip(P)));
}

#[test]
fn a_peer_is_judged_in_its_canonical_form() {
    let named = headers([("x-forwarded-for", A.as_bytes())]);
    for proxy in [P, "::ffff:10.0.0.7", "::ffff:a00:7", P6] {
        assert_eq!(xff().client(ip(proxy), &named), Ok(ip(A)), "{proxy}");
    }
    assert_eq!(xff().client(ip("::ffff:198.51.100.66"), &named), Ok(ip(X)));
}

#[test]
fn proxies_may_be_written_as_mapped_networks() {
    let mapped = TrustedProxies::new(["::ffff:10.0.0.0/120".parse().unwrap()]).unwrap();
    let source = ForwardedPeer::x_forwarded_for(SocketAddrPeer, mapped);
    assert_eq!(from_p(&source, &[b"192.0.2.1, 10.0.0.8"]), Ok(ip(A)));
}

#[test]
fn trusting_every_address_is_refused() {
    for all in [
        &["0.0.0.0/0"][..],
        &["::/0"],
        &["::ffff:0:0/96"],
        &["0.0.0.0/1", "128.0.0.0/1"],
    ] {
        let networks = all.iter().map(|network| network.parse().unwrap());
        assert!(TrustedProxies::new(networks).is_err(), "{all:?}");
    }
}

#[test]
fn only_the_configured_header_is_read() {
    let all = headers([
        ("x-forwarded-for", b"192.0.2.11".as_slice()),
        ("forwarded", b"for=192.0.2.12"),
        ("x-real-ip", b"192.0.2.13"),
    ]);
    assert_eq!(xff().client(ip(P), &all), Ok(ip("192.0.2.11")));
    assert_eq!(forwarded().client(ip(P), &all), Ok(ip("192.0.2.12")));
    assert_eq!(real_ip().client(ip(P), &all), Ok(ip("192.0.2.13")));

    let others = headers([
        ("x_forwarded_for", A.as_bytes()),
        ("x-forwarded_for", A.as_bytes()),
        ("x_real_ip", A.as_bytes()),
        ("x-client-ip", A.as_bytes()),
        ("x-forwarded", A.as_bytes()),
        ("forwarded-for", A.as_bytes()),
    ]);
    for source in [xff(), forwarded(), real_ip()] {
        let rejection = source.client(ip(P), &others).unwrap_err();
        assert_eq!(rejection.kind(), Missing);
        assert_eq!(rejection.peer(), Some(ip(P)));
    }
}

#[test]
fn a_header_that_the_client_had_stripped_is_missing() {
    let stripped = headers([(
        "connection",
        b"X-Forwarded-For, X-Real-IP, Forwarded".as_slice(),
    )]);
    for source in [xff(), forwarded(), real_ip()] {
        let rejection = source.client(ip(P), &stripped).unwrap_err();
        assert_eq!(rejection.kind(), Missing);
    }
}

#[test]
fn a_request_without_a_peer_is_refused() {
    let named = headers([("x-forwarded-for", A.as_bytes())]);
    let rejection = xff().peer_ip(&named, &Extensions::new()).unwrap_err();
    assert_eq!(rejection.kind(), RejectionKind::NoPeer);
}

#[test]
fn at_most_32_entries_are_walked() {
    let list = |hops: usize| [vec![A], vec!["10.0.0.8"; hops]].concat().join(", ");
    assert_eq!(from_p(&xff(), &[list(31).as_bytes()]), Ok(ip(A)));
    assert_eq!(
        from_p(&xff(), &[list(32).as_bytes()]),
        Err(ForwardedTooManyHops)
    );
    let trusted = vec!["10.0.0.8"; 32].join(",");
    assert_eq!(
        from_p(&xff(), &[trusted.as_bytes()]),
        Err(ForwardedAllTrusted)
    );

    let lines = |hops: usize| [vec![A.as_bytes()], vec![b"10.0.0.8".as_slice(); hops]].concat();
    assert_eq!(from_p(&xff(), &lines(31)), Ok(ip(A)));
    assert_eq!(from_p(&xff(), &lines(32)), Err(ForwardedTooManyHops));
}

#[test]
fn entries_beyond_the_client_do_not_use_up_the_limit() {
    let long = format!("{}198.51.100.66", "192.0.2.1, ".repeat(10_000));
    assert_eq!(from_p(&xff(), &[long.as_bytes()]), Ok(ip(X)));
    let lines = [vec![A.as_bytes(); 5_000], vec![X.as_bytes()]].concat();
    assert_eq!(from_p(&xff(), &lines), Ok(ip(X)));

    let garbage = [b"\"\\\",;=".repeat(10_000), b", for=198.51.100.66".to_vec()].concat();
    assert_eq!(from_p(&forwarded(), &[&garbage]), Ok(ip(X)));
}

#[test]
fn an_entry_has_at_most_64_bytes() {
    for (length, expected) in [(63, Ok(ip(A))), (64, Ok(ip(A))), (65, Err(Malformed))] {
        let entry = format!("{A}:{:0width$}", 80, width = length - A.len() - 1);
        assert_eq!(entry.len(), length);
        assert_eq!(from_p(&xff(), &[entry.as_bytes()]), expected, "{entry}");
    }
}

#[test]
fn an_overlong_entry_is_malformed_whatever_it_consists_of() {
    for fill in [
        b"1".as_slice(),
        b":",
        b"[",
        b"\"",
        b"\\\"",
        b" ",
        b";",
        b"=",
        b"a=\"\\",
    ] {
        let entry = fill.repeat(64 * 1024);
        assert_eq!(from_p(&xff(), &[&entry]), Err(Malformed));
        assert_eq!(from_p(&forwarded(), &[&entry]), Err(Malformed));
    }
}

#[test]
fn the_walk_reports_its_hops_nearest_first() {
    let mut hops = Vec::new();
    let list = headers([(
        "x-forwarded-for",
        b"192.0.2.9, 192.0.2.1, 10.0.0.8".as_slice(),
    )]);
    let client = xff().walk(ip(P), &list, |hop, trusted| hops.push((hop, trusted)));
    assert_eq!(client, Ok(ip(A)));
    assert_eq!(
        hops,
        [(ip(P), true), (ip("10.0.0.8"), true), (ip(A), false)]
    );
}

#[test]
fn the_peer_of_a_unix_socket_is_a_proxy() {
    let source = ForwardedPeer::x_forwarded_for(UnixPeer, proxies());
    let list = headers([(
        "x-forwarded-for",
        b"198.51.100.66, 192.0.2.1, 10.0.0.8".as_slice(),
    )]);
    let mut socket = Extensions::new();
    socket.insert(UnixConnection::new());
    assert_eq!(source.peer_ip(&list, &socket), Ok(ip(A)));

    let nothing = source.peer_ip(&HeaderMap::new(), &socket);
    assert_eq!(nothing.unwrap_err().kind(), Missing);
    let mut hops = Vec::new();
    let client = source.walk_behind_socket(&list, |hop, trusted| hops.push((hop, trusted)));
    assert_eq!(client, Ok(ip(A)));
    assert_eq!(hops, [(ip("10.0.0.8"), true), (ip(A), false)]);
}

#[test]
fn a_request_that_did_not_come_over_the_unix_socket_has_no_peer() {
    let source = ForwardedPeer::x_forwarded_for(UnixPeer, proxies());
    let list = headers([("x-forwarded-for", A.as_bytes())]);
    let mut tcp = Extensions::new();
    tcp.insert::<std::net::SocketAddr>("10.0.0.7:4711".parse().unwrap());
    for extensions in [tcp, Extensions::new()] {
        let rejection = source.peer_ip(&list, &extensions).unwrap_err();
        assert_eq!(rejection.kind(), RejectionKind::NoPeer);
    }
}

/// The text of an entry, and the address in that text.
#[derive(Clone, Debug)]
struct Entry {
    text: String,
    address: Option<IpAddr>,
}

fn entry((text, address): (&str, Option<&str>)) -> Entry {
    Entry {
        text: text.to_owned(),
        address: address.map(ip),
    }
}

fn plain() -> impl Strategy<Value = Entry> {
    prop_oneof![
        4 => prop::sample::select(&[
            ("10.0.0.8", Some("10.0.0.8")),
            ("[2001:db8:aaaa::8]:1", Some("2001:db8:aaaa::8")),
            ("::ffff:10.0.0.9", Some("10.0.0.9")),
        ][..]),
        1 => prop::sample::select(&[
            ("192.0.2.1", Some(A)),
            ("198.51.100.66:443", Some(X)),
            ("2001:db8::1", Some("2001:db8::1")),
            ("::10.0.0.8", Some("::10.0.0.8")),
            ("unknown", None),
            ("", None),
            ("10.0.0.08", None),
            ("\"10.0.0.8\"", None),
        ][..]),
    ]
    .prop_map(entry)
}

fn element() -> impl Strategy<Value = Entry> {
    prop_oneof![
        4 => prop::sample::select(&[
            ("for=10.0.0.8", Some("10.0.0.8")),
            ("FOR=\"[2001:db8:aaaa::8]:1\";by=_x", Some("2001:db8:aaaa::8")),
            ("host=\"a, for=192.0.2.1;\";for=10.0.0.9", Some("10.0.0.9")),
            ("for=10.0.0.9;host=\"\\\"; for=192.0.2.1, \\\\\"", Some("10.0.0.9")),
        ][..]),
        1 => prop::sample::select(&[
            ("for=192.0.2.1;proto=http", Some(A)),
            ("proto=http;for=\"198.51.100.66:443\"", Some(X)),
            ("for=unknown", None),
            ("", None),
            ("proto=http", None),
            ("for=10.0.0.8;for=10.0.0.8", None),
            ("for=\"10.0.0.8, 192.0.2.1\"", None),
        ][..]),
    ]
    .prop_map(entry)
}

/// Generates the lines of a list header from entries.
fn lines(entry: impl Strategy<Value = Entry>) -> impl Strategy<Value = Vec<Vec<Entry>>> {
    prop::collection::vec(prop::collection::vec(entry, 1..24), 0..4)
}

/// Second implementation of the walk, over all entries in one list.
fn reference(lines: &[Vec<Entry>]) -> Result<IpAddr, RejectionKind> {
    let entries = lines.concat();
    if entries.is_empty() {
        return Err(Missing);
    }
    for entry in entries.iter().rev().take(32) {
        match entry.address {
            None => return Err(Malformed),
            Some(address) if !proxies().contains(address) => return Ok(address),
            Some(_) => {}
        }
    }
    Err(if entries.len() > 32 {
        ForwardedTooManyHops
    } else {
        ForwardedAllTrusted
    })
}

fn written(lines: &[Vec<Entry>], separator: &str) -> Vec<String> {
    let line = |entries: &Vec<Entry>| {
        let texts: Vec<_> = entries.iter().map(|entry| entry.text.as_str()).collect();
        texts.join(separator)
    };
    lines.iter().map(line).collect()
}

fn client(
    source: &ForwardedPeer<SocketAddrPeer>,
    lines: &[String],
) -> Result<IpAddr, RejectionKind> {
    let lines: Vec<_> = lines.iter().map(String::as_bytes).collect();
    from_p(source, &lines)
}

/// Generates values that a client can send in a header.
fn anything() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop_oneof![
        prop::sample::select(&b"\",;=\\[]:. \t019afor%_"[..]),
        b' '..=b'~',
        0x80..=0xff_u8,
    ];
    prop::collection::vec(bytes, 0..80)
}

proptest! {
    #[test]
    fn walks_as_the_reference_does(
        plain in lines(plain()),
        elements in lines(element()),
        separator in prop::sample::select(&[",", ", ", " \t,\t "][..]),
    ) {
        prop_assert_eq!(client(&xff(), &written(&plain, separator)), reference(&plain));
        prop_assert_eq!(client(&forwarded(), &written(&elements, separator)), reference(&elements));
    }

    #[test]
    fn entries_of_the_client_never_hide_those_that_the_proxy_appends(sent in anything(), lines in any::<bool>()) {
        for (source, appended) in [
            (xff(), "198.51.100.66"),
            (forwarded(), "for=198.51.100.66"),
            (forwarded(), "for=\"198.51.100.66:4711\";proto=https;host=\"a, b\""),
        ] {
            let merged = [&sent, b", ".as_slice(), appended.as_bytes()].concat();
            let separate = [sent.as_slice(), appended.as_bytes()];
            let client = if lines { from_p(&source, &separate) } else { from_p(&source, &[&merged]) };
            prop_assert_eq!(client, Ok(ip(X)));
        }
    }

    #[test]
    fn a_client_is_never_a_proxy_or_an_unusable_address(lines in prop::collection::vec(anything(), 0..4)) {
        let lines: Vec<_> = lines.iter().map(Vec::as_slice).collect();
        for source in [xff(), forwarded(), real_ip()] {
            if let Ok(client) = from_p(&source, &lines) {
                prop_assert!(!proxies().contains(client));
                prop_assert!(!client.is_unspecified() && !client.is_multicast());
                prop_assert_eq!(client, client.to_canonical());
            }
        }
    }
}

fn quad_is_read_as_by_the_standard_library(text: &[u8]) {
    let read = str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    assert_eq!(quad(text), read, "{}", text.escape_ascii());
}

#[test]
fn every_octet_is_read_as_by_the_standard_library_at_every_position() {
    let digits = b"0123456789";
    let others = b".+- /:xf\0\xb2";
    let alphabet: Vec<u8> = digits.iter().chain(others).copied().collect();
    let mut octets = vec![Vec::new()];
    for length in 0..4 {
        let longest: Vec<_> = octets
            .iter()
            .filter(|octet| octet.len() == length)
            .cloned()
            .collect();
        // Numbers of four digits are long enough, because a valid number has at most three digits.
        let next = if length < 3 { &alphabet[..] } else { digits };
        octets.extend(
            longest
                .iter()
                .flat_map(|octet| next.iter().map(|byte| [&octet[..], &[*byte]].concat())),
        );
    }
    for octet in &octets {
        for place in 0..4 {
            let mut parts = [&b"10"[..], b"200", b"3", b"77"];
            parts[place] = octet;
            quad_is_read_as_by_the_standard_library(&parts.join(&b'.'));
        }
    }
}

proptest! {
    #[test]
    fn every_text_is_read_as_by_the_standard_library(
        bytes in prop::collection::vec(any::<u8>(), 0..20),
        digits in "[0-9.]{0,20}",
        parts in prop::collection::vec(0..400_u16, 0..7),
        address: u32,
    ) {
        quad_is_read_as_by_the_standard_library(&bytes);
        quad_is_read_as_by_the_standard_library(digits.as_bytes());
        let parts: Vec<_> = parts.iter().map(ToString::to_string).collect();
        quad_is_read_as_by_the_standard_library(parts.join(".").as_bytes());
        let address = Ipv4Addr::from_bits(address);
        prop_assert_eq!(quad(address.to_string().as_bytes()), Some(address));
    }
}
