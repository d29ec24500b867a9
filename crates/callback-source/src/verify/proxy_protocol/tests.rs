use std::{io, net::SocketAddr, time::Duration};

use axum::serve::Listener;
use ppp::v2;
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufWriter, DuplexStream, duplex},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{Instant, timeout},
};

use super::{
    listener::{HEADER_TIMEOUT, MAX_PENDING, Unread},
    *,
};
use crate::verify::TrustedProxies;

use HeaderError::{Malformed, Missing, NoAddress, TooLong};

const PROXY: &str = "10.0.0.7:4711";
const UNTRUSTED: &str = "198.51.100.66:4711";
const V1: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.80 5000 443\r\n";
const CLIENT: &str = "192.0.2.1:5000";

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A header of version 2 whose length field differs from the true length by `claimed` bytes.
fn lying(command: u8, family: u8, block: &[u8], claimed: i32) -> Vec<u8> {
    let length = u16::try_from(i32::try_from(block.len()).unwrap() + claimed).unwrap();
    let fixed = [
        v2::PROTOCOL_PREFIX,
        &[command, family],
        &length.to_be_bytes(),
    ]
    .concat();
    [&fixed, block].concat()
}

fn version_2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    lying(command, family, block, 0)
}

fn v4(source: [u8; 4]) -> Vec<u8> {
    [source.as_slice(), &[192, 0, 2, 80, 0x13, 0x88, 1, 0xbb]].concat()
}

fn v6(source: &str) -> Vec<u8> {
    let source: std::net::Ipv6Addr = source.parse().unwrap();
    [source.octets().as_slice(), &[0; 16], &[0x13, 0x88, 1, 0xbb]].concat()
}

#[test]
fn headers_of_version_1_name_the_client() {
    for (header, expected) in [
        (
            "PROXY TCP4 192.0.2.1 192.0.2.80 5000 443\r\n",
            Ok(Some(CLIENT)),
        ),
        (
            "PROXY TCP6 2001:db8::1 ::1 5000 443\r\n",
            Ok(Some("[2001:db8::1]:5000")),
        ),
        (
            "PROXY TCP6 ::ffff:192.0.2.1 ::1 5000 443\r\n",
            Ok(Some(CLIENT)),
        ),
        (
            "PROXY TCP6 ::192.0.2.1 ::1 5000 443\r\n",
            Ok(Some("[::192.0.2.1]:5000")),
        ),
        ("PROXY UNKNOWN\r\n", Ok(None)),
        ("PROXY UNKNOWN 192.0.2.1 192.0.2.80 5000 443\r\n", Ok(None)),
        ("PROXY TCP4 2001:db8::1 ::1 5000 443\r\n", Err(Malformed)),
        (
            "PROXY TCP6 192.0.2.1 192.0.2.80 5000 443\r\n",
            Err(Malformed),
        ),
        ("PROXY TCP6 fe80::1%eth0 ::1 5000 443\r\n", Err(Malformed)),
        (
            "PROXY TCP4 192.0.2.01 192.0.2.80 5000 443\r\n",
            Err(Malformed),
        ),
        (
            "PROXY TCP4 192.0.2.1 192.0.2.80 5000 65536\r\n",
            Err(Malformed),
        ),
        ("PROXY TCP4 192.0.2.1 192.0.2.80 5000\r\n", Err(Malformed)),
        (
            "PROXY TCP4 192.0.2.1 192.0.2.80 5000 443 1\r\n",
            Err(Malformed),
        ),
        (
            "PROXY TCP4  192.0.2.1 192.0.2.80 5000 443\r\n",
            Err(Malformed),
        ),
        ("PROXY TCP4 192.0.2.1 192.0.2.80 5000 443\n", Err(Malformed)),
        (
            "PROXY TCP4 192.0.2.1 192.0.2.80 5000 443\rX\n",
            Err(Malformed),
        ),
        (
            "PROXY TCP4 callback-1.vipps.no 192.0.2.80 5000 443\r\n",
            Err(Malformed),
        ),
        (
            "PROXY UDP4 192.0.2.1 192.0.2.80 5000 443\r\n",
            Err(Malformed),
        ),
        ("PROXY \r\n", Err(Malformed)),
        ("PROXY UNKNOWNS\r\n", Err(Malformed)),
        ("PROXY TCP4 0.0.0.0 192.0.2.80 5000 443\r\n", Err(NoAddress)),
        (
            "PROXY TCP4 255.255.255.255 192.0.2.80 5000 443\r\n",
            Err(NoAddress),
        ),
        ("PROXY TCP6 ff02::1 ::1 5000 443\r\n", Err(NoAddress)),
        ("PROXY  TCP4\r\n", Err(Malformed)),
        ("proxy TCP4 192.0.2.1 192.0.2.80 5000 443\r\n", Err(Missing)),
        ("PROXYTCP4 192.0.2.1 192.0.2.80 5000 443\r\n", Err(Missing)),
        ("POST / HTTP/1.1\r\n", Err(Missing)),
        ("PRI * HTTP/2.0\r\n", Err(Missing)),
        ("\r\nPROXY UNKNOWN\r\n", Err(Missing)),
    ] {
        let read = Header::parse(header.as_bytes()).map(|read| read.expect("complete"));
        let client = read.map(|read| read.client());
        assert_eq!(
            client,
            expected.map(|client| client.map(addr)),
            "{header:?}"
        );
        if let Ok(read) = read {
            assert_eq!(read.length(), header.len());
        }
    }
}

#[test]
fn headers_of_version_1_end_after_107_bytes() {
    let line = |len: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(len - 16));
    assert!(Header::parse(line(107).as_bytes()).unwrap().is_some());
    assert_eq!(Header::parse(line(108).as_bytes()), Err(TooLong));
    let endless = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
    assert_eq!(Header::parse(&endless[..106]), Ok(None));
    assert_eq!(Header::parse(&endless[..107]), Err(TooLong));
}

#[test]
fn headers_of_version_2_name_the_client() {
    let listed = v4([192, 0, 2, 1]);
    let tlv = |tlv: &[u8]| [listed.as_slice(), tlv].concat();
    for (case, header, expected) in [
        ("IPv4", version_2(0x21, 0x11, &listed), Ok(Some(CLIENT))),
        (
            "IPv6",
            version_2(0x21, 0x21, &v6("2001:db8::1")),
            Ok(Some("[2001:db8::1]:5000")),
        ),
        (
            "mapped",
            version_2(0x21, 0x21, &v6("::ffff:192.0.2.1")),
            Ok(Some(CLIENT)),
        ),
        (
            "with a field",
            version_2(0x21, 0x11, &tlv(&[4, 0, 1, 0])),
            Ok(Some(CLIENT)),
        ),
        (
            "with a field longer than the header",
            version_2(0x21, 0x11, &tlv(&[4, 0xff, 0xff])),
            Ok(Some(CLIENT)),
        ),
        (
            "with many fields",
            version_2(0x21, 0x11, &tlv(&[4; 4000])),
            Ok(Some(CLIENT)),
        ),
        ("local", version_2(0x20, 0, &[]), Ok(None)),
        (
            "local with addresses",
            version_2(0x20, 0x11, &listed),
            Ok(None),
        ),
        (
            "local with half an address",
            version_2(0x20, 0x11, &listed[..3]),
            Ok(None),
        ),
        (
            "local with any family",
            version_2(0x20, 0xff, b"anything"),
            Ok(None),
        ),
        ("unspecified family", version_2(0x21, 0, &[]), Ok(None)),
        (
            "unspecified family with a block",
            version_2(0x21, 0, &listed),
            Ok(None),
        ),
        ("datagram", version_2(0x21, 0x12, &listed), Err(NoAddress)),
        (
            "Unix socket",
            version_2(0x21, 0x31, &[b'/'; 216]),
            Err(NoAddress),
        ),
        (
            "Unix socket with a field",
            version_2(0x21, 0x31, &[4; 219]),
            Err(NoAddress),
        ),
        (
            "family without protocol",
            version_2(0x21, 0x10, &listed),
            Err(NoAddress),
        ),
        (
            "protocol without family",
            version_2(0x21, 0x01, &listed),
            Err(NoAddress),
        ),
        (
            "half an address",
            version_2(0x21, 0x11, &listed[..6]),
            Err(Malformed),
        ),
        (
            "IPv4 as IPv6",
            version_2(0x21, 0x21, &listed),
            Err(Malformed),
        ),
        (
            "half a path",
            version_2(0x21, 0x31, &[b'/'; 215]),
            Err(Malformed),
        ),
        ("no addresses", version_2(0x21, 0x11, &[]), Err(Malformed)),
        (
            "unknown family",
            version_2(0x21, 0x41, &listed),
            Err(Malformed),
        ),
        (
            "unknown protocol",
            version_2(0x21, 0x13, &listed),
            Err(Malformed),
        ),
        (
            "unknown command",
            version_2(0x22, 0x11, &listed),
            Err(Malformed),
        ),
        (
            "version 1 in binary",
            version_2(0x11, 0x11, &listed),
            Err(Malformed),
        ),
        ("version 3", version_2(0x31, 0x11, &listed), Err(Malformed)),
        (
            "unspecified address",
            version_2(0x21, 0x11, &v4([0; 4])),
            Err(NoAddress),
        ),
        (
            "multicast",
            version_2(0x21, 0x21, &v6("ff02::1")),
            Err(NoAddress),
        ),
        ("too long", lying(0x21, 0x11, &listed, 4069), Err(TooLong)),
        (
            "too long and local",
            lying(0x20, 0x11, &listed, 4069),
            Err(TooLong),
        ),
        (
            "the maximum length",
            lying(0x21, 0x11, &listed, 0xffff - 12),
            Err(TooLong),
        ),
    ] {
        let read = Header::parse(&header).map(|read| read.expect(case));
        let client = read.map(|read| read.client());
        assert_eq!(client, expected.map(|client| client.map(addr)), "{case}");
        if let Ok(read) = read {
            assert_eq!(read.length(), header.len(), "{case}");
        }
    }
}

#[test]
fn a_header_that_claims_more_bytes_than_arrived_is_incomplete() {
    let header = lying(0x21, 0x11, &v4([192, 0, 2, 1]), 1);
    assert_eq!(Header::parse(&header), Ok(None));
    let longest = lying(0x21, 0x11, &v4([192, 0, 2, 1]), 4068);
    assert_eq!(Header::parse(&longest), Ok(None));
}

#[test]
fn a_header_that_claims_fewer_bytes_than_arrived_leaves_the_rest() {
    let header = lying(
        0x21,
        0x11,
        &[v4([192, 0, 2, 1]), b"GET /".to_vec()].concat(),
        -5,
    );
    let read = Header::parse(&header).unwrap().unwrap();
    assert_eq!(&header[read.length()..], b"GET /");
}

fn header() -> impl Strategy<Value = Vec<u8>> {
    let any_bytes = || prop::collection::vec(any::<u8>(), 0..300);
    let text = "PROXY (TCP4|TCP6|UNKNOWN|[A-Z0-9]{0,7}) [0-9a-f:. \r\n]{0,120}\r?\n";
    let binary = (any::<u8>(), any::<u8>(), any_bytes(), -5..5_i32);
    let usual = prop::sample::select(&[0x20, 0x21_u8][..]);
    let family = prop::sample::select(&[0x00, 0x11, 0x12, 0x21, 0x31_u8][..]);
    prop_oneof![
        any_bytes(),
        text.prop_map(String::into_bytes),
        binary.prop_map(|(command, family, block, lie)| {
            let lie = lie.max(-i32::try_from(block.len()).unwrap());
            lying(command, family, &block, lie)
        }),
        (usual, family, any_bytes()).prop_map(|(c, f, block)| version_2(c, f, &block)),
        Just(V1.to_vec()),
    ]
}

proptest! {
    #[test]
    fn more_bytes_never_change_what_was_read(header in header(), more in any::<[u8; 8]>()) {
        let all = [header.as_slice(), &more].concat();
        let read = Header::parse(&all);
        let mut settled = None;
        for end in 0..=all.len() {
            match (settled, Header::parse(&all[..end])) {
                (None, Ok(None)) => {}
                (None, found) => settled = Some(found),
                (Some(before), found) => prop_assert_eq!(before, found),
            }
        }
        prop_assert_eq!(settled.unwrap_or(Ok(None)), read);
        if let Ok(Some(read)) = read {
            prop_assert!(read.length() <= all.len());
        }
    }
}

/// A listener that accepts connections from the test.
#[derive(Debug)]
struct Network(UnboundedReceiver<(DuplexStream, SocketAddr)>);

impl Listener for Network {
    type Io = DuplexStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (DuplexStream, SocketAddr) {
        match self.0.recv().await {
            Some(connection) => connection,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(addr("10.0.0.1:80"))
    }
}

struct World {
    network: UnboundedSender<(DuplexStream, SocketAddr)>,
    listener: ProxyProtocolListener<Network>,
}

impl World {
    fn new() -> Self {
        let (network, accepted) = unbounded_channel();
        let proxies = TrustedProxies::new(["10.0.0.0/24".parse().unwrap()]).unwrap();
        let listener = ProxyProtocolListener::new(Network(accepted), proxies);
        Self { network, listener }
    }

    /// Connects from `peer`, sends these bytes, and returns the peer's end of the connection.
    async fn connect(&self, peer: &str, sent: &[u8]) -> DuplexStream {
        let (mut far, near) = duplex(64 * 1024);
        far.write_all(sent).await.unwrap();
        self.network.send((near, addr(peer))).unwrap();
        far
    }

    /// Accepts the next connection. Returns its peer and its first `bytes` bytes, which must arrive.
    async fn accept(&mut self, bytes: usize) -> (SocketAddr, Vec<u8>) {
        let (mut io, peer) = self.listener.accept().await;
        let mut read = vec![0; bytes];
        io.read_exact(&mut read).await.unwrap();
        (peer, read)
    }

    /// Returns the time until the listener closes a connection. The listener must not return that connection.
    async fn closed_after(&mut self, far: &mut DuplexStream) -> Duration {
        let start = Instant::now();
        tokio::select! {
            _ = self.listener.accept() => panic!("accepted"),
            closed = is_closed(far) => assert!(closed),
        }
        start.elapsed()
    }
}

/// Returns `true` if the listener's end is closed.
async fn is_closed(far: &mut DuplexStream) -> bool {
    matches!(far.read(&mut [0]).await, Ok(0))
}

#[tokio::test(start_paused = true)]
async fn the_client_is_the_peer_and_the_rest_is_handed_on() {
    let mut world = World::new();
    let _far = world.connect(PROXY, &[V1, b"GET /"].concat()).await;
    assert_eq!(world.accept(5).await, (addr(CLIENT), b"GET /".to_vec()));

    let binary = version_2(0x21, 0x11, &v4([192, 0, 2, 1]));
    let _far = world
        .connect(PROXY, &[&binary, b"GET /".as_slice()].concat())
        .await;
    assert_eq!(world.accept(5).await, (addr(CLIENT), b"GET /".to_vec()));

    let _far = world
        .connect("[::ffff:10.0.0.7]:4711", &[V1, b"GET /"].concat())
        .await;
    assert_eq!(world.accept(5).await, (addr(CLIENT), b"GET /".to_vec()));
}

#[tokio::test(start_paused = true)]
async fn a_long_request_after_the_header_arrives_whole() {
    let mut world = World::new();
    let request: Vec<u8> = (0..20_000_u16).flat_map(u16::to_be_bytes).collect();
    let _far = world.connect(PROXY, &[V1, &request].concat()).await;
    assert_eq!(world.accept(request.len()).await, (addr(CLIENT), request));
}

#[tokio::test(start_paused = true)]
async fn a_header_may_come_byte_by_byte() {
    let tlv = [v4([192, 0, 2, 1]), vec![4; 3000]].concat();
    for header in [V1.to_vec(), version_2(0x21, 0x11, &tlv)] {
        let mut world = World::new();
        let mut far = world.connect(PROXY, b"").await;
        let sending = tokio::spawn(async move {
            for byte in [&header, b"GET /".as_slice()].concat() {
                far.write_all(&[byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            far
        });
        assert_eq!(world.accept(5).await, (addr(CLIENT), b"GET /".to_vec()));
        drop(sending.await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_header_of_an_untrusted_peer_is_part_of_its_request() {
    let mut world = World::new();
    for sent in [V1.to_vec(), version_2(0x21, 0x11, &v4([192, 0, 2, 1]))] {
        let _far = world.connect(UNTRUSTED, &sent).await;
        assert_eq!(world.accept(sent.len()).await, (addr(UNTRUSTED), sent));
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_of_the_proxy_itself_has_the_proxy_as_its_peer() {
    let mut world = World::new();
    for sent in [
        b"PROXY UNKNOWN 192.0.2.1 192.0.2.80 5000 443\r\n".to_vec(),
        version_2(0x20, 0x11, &v4([192, 0, 2, 1])),
    ] {
        let _far = world
            .connect(PROXY, &[&sent, b"GET /".as_slice()].concat())
            .await;
        assert_eq!(world.accept(5).await, (addr(PROXY), b"GET /".to_vec()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxy_without_a_valid_header_is_closed() {
    let unix = version_2(0x21, 0x31, &[b'/'; 216]);
    let long = lying(0x21, 0x11, &v4([192, 0, 2, 1]), 0x7fff);
    for sent in [
        b"GET / HTTP/1.1\r\n".as_slice(),
        b"PROXY TCP4 x\r\n",
        &unix,
        &long,
    ] {
        let mut world = World::new();
        let mut bad = world.connect(PROXY, sent).await;
        assert_eq!(world.closed_after(&mut bad).await, Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_header_that_breaks_off_is_closed() {
    for sent in [
        b"".as_slice(),
        b"P",
        &V1[..20],
        &version_2(0x21, 0x11, &[0; 12])[..20],
    ] {
        let mut world = World::new();
        let mut bad = world.connect(PROXY, sent).await;
        bad.shutdown().await.unwrap();
        assert_eq!(world.closed_after(&mut bad).await, Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_proxy_is_closed_after_the_time_limit() {
    for sent in [
        b"".as_slice(),
        b"PROXY TCP4 192.",
        &v2::PROTOCOL_PREFIX[..11],
    ] {
        let mut world = World::new();
        let mut silent = world.connect(PROXY, sent).await;
        assert_eq!(world.closed_after(&mut silent).await, HEADER_TIMEOUT);
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_sends_single_bytes_gets_no_more_time() {
    let mut world = World::new();
    world.listener = world.listener.header_timeout(Duration::from_secs(1));
    let mut slow = world.connect(PROXY, b"").await;
    let start = Instant::now();
    let drip = async {
        for byte in V1.iter().cycle() {
            tokio::time::sleep(Duration::from_millis(300)).await;
            if slow.write_all(&[*byte]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = world.listener.accept() => panic!("accepted"),
        () = drip => {}
    }
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_silent_proxy_delays_no_other_connection() {
    let mut world = World::new();
    let start = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(world.connect(PROXY, b"PROXY").await);
    }
    let _proxied = world.connect(PROXY, &[V1, b"GET /"].concat()).await;
    assert_eq!(world.accept(5).await.0, addr(CLIENT));
    let _direct = world.connect(UNTRUSTED, b"GET /").await;
    assert_eq!(world.accept(5).await.0, addr(UNTRUSTED));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_oldest_silent_connection_is_closed_for_a_new_one() {
    let mut world = World::new();
    let start = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..MAX_PENDING {
        silent.push(world.connect(PROXY, b"").await);
    }
    let _proxied = world.connect(PROXY, &[V1, b"GET /"].concat()).await;
    assert_eq!(world.accept(5).await.0, addr(CLIENT));
    assert!(is_closed(&mut silent[0]).await);
    assert_eq!(start.elapsed(), Duration::ZERO);
    silent[1].write_all(&[V1, b"GET /"].concat()).await.unwrap();
    assert_eq!(world.accept(5).await.0, addr(CLIENT));
}

#[tokio::test(start_paused = true)]
async fn many_connections_leave_nothing_behind() {
    let mut world = World::new();
    let _silent = world.connect(PROXY, b"").await;
    for _ in 0..3 * MAX_PENDING {
        let _far = world.connect(PROXY, &[V1, b"GET /"].concat()).await;
        assert_eq!(world.accept(5).await.0, addr(CLIENT));
    }
    assert_eq!(world.listener.pending.len(), 1);
    assert!(world.listener.arrived.len() <= 2 * MAX_PENDING);
}

#[tokio::test(start_paused = true)]
async fn the_proxy_is_the_peer_if_an_optional_header_is_missing() {
    let mut world = World::new();
    world.listener = world.listener.insecure_header_optional();
    let _far = world.connect(PROXY, b"POST /").await;
    assert_eq!(world.accept(6).await, (addr(PROXY), b"POST /".to_vec()));
    let _far = world.connect(PROXY, &[V1, b"POST /"].concat()).await;
    assert_eq!(world.accept(6).await, (addr(CLIENT), b"POST /".to_vec()));

    let mut malformed = world.connect(PROXY, b"PROXY TCP4 x\r\n").await;
    world.closed_after(&mut malformed).await;
}

#[tokio::test]
async fn a_header_is_read_for_other_servers_and_the_bytes_after_it_are_left() {
    let at = V1.len() - 9;
    for (ahead, sent) in [
        (&b""[..], [V1, b"POST /"].concat()),
        (&V1[..at], [&V1[at..], b"POST /"].concat()),
        (&[V1, b"POST /"].concat(), Vec::new()),
    ] {
        let mut ahead = ahead.to_vec();
        let header = Header::read(&mut &sent[..], &mut ahead).await.unwrap();
        assert_eq!(header.unwrap().client(), Some(addr(CLIENT)));
        assert_eq!(ahead, b"POST /");
    }

    let mut ahead = Vec::new();
    let none = Header::read(&mut &b"POST /"[..], &mut ahead).await.unwrap();
    assert_eq!(none.unwrap_err(), Missing);
    for ended in [&b""[..], &V1[..at]] {
        let mut ahead = Vec::new();
        let error = Header::read(&mut &ended[..], &mut ahead).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(ahead, ended);
    }
}

#[tokio::test]
async fn written_bytes_and_the_end_reach_the_other_side() {
    let (near, mut far) = duplex(64);
    let mut stream = ProxiedStream::new(BufWriter::new(near), Vec::new());
    stream.write_all(b"ab").await.unwrap();
    let parts = [b"cd", b"ef"].map(|part| io::IoSlice::new(part));
    assert_eq!(stream.write_vectored(&parts).await.unwrap(), 4);
    stream.flush().await.unwrap();
    let mut read = [0; 6];
    timeout(Duration::from_secs(5), far.read_exact(&mut read))
        .await
        .expect("it was flushed")
        .unwrap();
    assert_eq!(&read, b"abcdef");
    stream.shutdown().await.unwrap();
    let end = timeout(Duration::from_secs(5), far.read(&mut read)).await;
    assert_eq!(end.expect("it was shut down").unwrap(), 0);
}

#[test]
fn each_reason_has_a_label_of_its_own() {
    let labels =
        [Missing, Malformed, TooLong, NoAddress].map(|error| Unread::Header(error).as_str());
    assert_eq!(labels, ["missing", "malformed", "too-long", "no-address"]);
    assert_eq!(Unread::Closed(1).as_str(), "closed");
    assert_eq!(Unread::TimedOut.as_str(), "timed-out");
}
