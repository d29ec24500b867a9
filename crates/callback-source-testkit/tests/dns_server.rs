//! Tests of the DNS server through a DNS client.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    task::Poll,
    time::Duration,
};

use callback_source_testkit::dns::{
    DnsServer, Fault, FaultScope, Name, RData, Record, RecordType, ResponseCode,
};
use hickory_proto::{
    op::{Edns, Message, OpCode, Query},
    rr::{DNSClass, rdata::CNAME},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

const NAME: &str = "callback-1.example";
const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const OTHER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

#[tokio::test]
async fn answers_with_the_addresses_of_the_family_asked_for() -> io::Result<()> {
    let server = DnsServer::start().await?;
    server.set(NAME, 60, &[V4, V6, OTHER_V4]);

    for tcp in [false, true] {
        let answer = ask_over(tcp, &server, NAME, RecordType::A).await?;
        assert_eq!(addresses(&answer), [(60, V4), (60, OTHER_V4)]);
        let answer = ask_over(tcp, &server, NAME, RecordType::AAAA).await?;
        assert_eq!(addresses(&answer), [(60, V6)]);
    }
    Ok(())
}

#[tokio::test]
async fn echoes_the_spelling_of_the_question() -> io::Result<()> {
    let server = DnsServer::start().await?;
    server.set("Callback-1.EXAMPLE.", 60, &[V4]);

    let answer = ask(&server, "cAlLbAcK-1.eXaMpLe", RecordType::A).await?;

    assert!(answer.queries[0].name.eq_case(&name("cAlLbAcK-1.eXaMpLe")));
    assert!(answer.answers[0].name.eq_case(&name("cAlLbAcK-1.eXaMpLe")));
    let asked = &server.questions()[0];
    assert_eq!(asked.name, NAME);
    assert_eq!(asked.spelled, "cAlLbAcK-1.eXaMpLe");
    Ok(())
}

#[tokio::test]
async fn carries_every_ttl() -> io::Result<()> {
    let server = DnsServer::start().await?;
    let ttls = [0, 1, (1 << 31) - 1, 1 << 31, u32::MAX];
    let records = ttls.map(|ttl| (ttl, V4));
    server.set_records(NAME, &records);

    let answer = ask(&server, NAME, RecordType::A).await?;

    assert_eq!(addresses(&answer), records);
    Ok(())
}

#[tokio::test]
async fn denies_an_unknown_name_with_an_soa() -> io::Result<()> {
    let server = DnsServer::start().await?;
    server.set_negative_ttl(Some(7));

    let answer = ask(&server, NAME, RecordType::A).await?;

    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(negative_ttl(&answer), Some(7));
    assert_eq!(answer.authorities[0].name, name("example"));
    Ok(())
}

#[tokio::test]
async fn denies_a_family_that_the_name_does_not_have() -> io::Result<()> {
    let server = DnsServer::start().await?;
    server.set(NAME, 60, &[V4]);
    server.set("empty.example", 60, &[]);

    for asked in [NAME, "empty.example"] {
        let answer = ask(&server, asked, RecordType::AAAA).await?;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.answers.is_empty());
        assert_eq!(negative_ttl(&answer), Some(30));
    }
    Ok(())
}

#[tokio::test]
async fn omits_the_soa_when_configured() -> io::Result<()> {
    let server = DnsServer::start().await?;
    server.set(NAME, 60, &[V4]);
    server.set_negative_ttl(None);

    for asked in [NAME, "unknown.example"] {
        let answer = ask(&server, asked, RecordType::AAAA).await?;
        assert!(answer.authorities.is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn answers_with_the_whole_cname_chain() -> io::Result<()> {
    let server = chain().await?;

    let answer = ask(&server, NAME, RecordType::A).await?;

    let owners: Vec<_> = answer.answers.iter().map(|record| &record.name).collect();
    assert_eq!(
        owners,
        [&name(NAME), &name("b.example"), &name("c.example")]
    );
    let ttls: Vec<_> = answer.answers.iter().map(|record| record.ttl).collect();
    assert_eq!(ttls, [5, 9, 300]);
    assert_eq!(addresses(&answer), [(300, V4)]);
    Ok(())
}

#[tokio::test]
async fn answers_with_the_first_cname_only_when_configured() -> io::Result<()> {
    let server = chain().await?;
    server.follow_cnames(false);

    let answer = ask(&server, NAME, RecordType::A).await?;

    assert_eq!(answer.answers, [cname(NAME, 5, "b.example")]);
    assert!(answer.authorities.is_empty());
    Ok(())
}

#[tokio::test]
async fn ends_a_cname_loop() -> io::Result<()> {
    let server = DnsServer::start().await?;
    server.set_cname(NAME, 5, "b.example");
    server.set_cname("b.example", 5, NAME);

    let answer = ask(&server, NAME, RecordType::A).await?;

    assert_eq!(answer.answers.len(), 2);
    assert!(addresses(&answer).is_empty());
    Ok(())
}

#[tokio::test]
async fn denies_the_missing_end_of_a_cname_chain() -> io::Result<()> {
    let server = chain().await?;
    server.remove("c.example");

    let answer = ask(&server, NAME, RecordType::A).await?;

    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(answer.answers.len(), 2);
    assert_eq!(negative_ttl(&answer), Some(30));
    Ok(())
}

#[tokio::test]
async fn appends_records_of_other_owners() -> io::Result<()> {
    let server = chain().await?;
    let stray = Record::from_rdata(name("stray.example"), 60, OTHER_V4.into());
    server.append(NAME, RecordType::A, stray.clone());

    let answer = ask(&server, NAME, RecordType::A).await?;
    assert_eq!(answer.answers.len(), 4);
    assert_eq!(answer.answers.last(), Some(&stray));

    let answer = ask(&server, NAME, RecordType::AAAA).await?;
    assert!(!answer.answers.contains(&stray));
    Ok(())
}

#[tokio::test]
async fn rotates_while_it_runs() -> io::Result<()> {
    let server = DnsServer::start().await?;
    server.set(NAME, 60, &[V4]);
    let answer = ask(&server, NAME, RecordType::A).await?;
    assert_eq!(addresses(&answer), [(60, V4)]);

    server.set(NAME, 30, &[OTHER_V4]);
    let answer = ask(&server, NAME, RecordType::A).await?;
    assert_eq!(addresses(&answer), [(30, OTHER_V4)]);

    server.remove(NAME);
    let answer = ask(&server, NAME, RecordType::A).await?;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    Ok(())
}

#[tokio::test]
async fn answers_over_tcp_when_the_udp_answer_is_truncated() -> io::Result<()> {
    let server = DnsServer::start().await?;
    // 4,000 addresses nearly fill a message of the maximum length, 65,535 bytes.
    for count in [400, 4_000] {
        let many = many(count);
        server.set(NAME, 60, &many);

        let answer = ask(&server, NAME, RecordType::A).await?;
        assert!(answer.metadata.truncation);
        assert!(answer.answers.len() < 35, "what fits into 512 bytes");

        let answer = ask_over(true, &server, NAME, RecordType::A).await?;
        assert!(!answer.metadata.truncation);
        let received = addresses(&answer);
        assert!(received.iter().map(|(_, address)| address).eq(&many));
    }
    Ok(())
}

#[tokio::test]
async fn truncates_at_the_size_the_client_advertises() -> io::Result<()> {
    let server = DnsServer::start().await?;
    server.set(NAME, 60, &many(60));
    let mut request = question(NAME, RecordType::A);

    for (size, truncated) in [(900, true), (1232, false)] {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        request.set_edns(edns);

        let answer = exchange_udp(server.addr(), &request).await?;

        assert_eq!(answer.metadata.truncation, truncated, "{size} bytes");
        assert!(answer.edns.is_some());
    }
    Ok(())
}

#[tokio::test]
async fn truncates_what_is_too_large_for_tcp() -> io::Result<()> {
    let server = DnsServer::start().await?;
    server.set(NAME, 60, &many(5_000));
    let answer = ask_over(true, &server, NAME, RecordType::A).await?;
    assert!(answer.metadata.truncation);
    assert!(answer.answers.len() > 4_000);
    Ok(())
}

#[tokio::test]
async fn comes_back_on_the_same_port_with_zone_and_log() -> io::Result<()> {
    let mut server = DnsServer::start().await?;
    server.set(NAME, 60, &[V4]);
    ask(&server, NAME, RecordType::A).await?;
    let mut kept = TcpStream::connect(server.addr()).await?;
    exchange_tcp(&mut kept, &question(NAME, RecordType::A)).await?;

    for _ in 0..3 {
        server.pause().await;
        server.set(NAME, 60, &[OTHER_V4]);
        let refused = TcpStream::connect(server.addr()).await;
        assert_eq!(kind(refused), Some(io::ErrorKind::ConnectionRefused));
        let mut rest = Vec::new();
        assert_eq!(kept.read_to_end(&mut rest).await.unwrap_or(0), 0);

        server.resume().await?;
        server.resume().await?;
        for tcp in [false, true] {
            let answer = ask_over(tcp, &server, NAME, RecordType::A).await?;
            assert_eq!(addresses(&answer), [(60, OTHER_V4)]);
        }
    }
    assert_eq!(server.count(NAME, RecordType::A), 8);
    Ok(())
}

#[tokio::test]
async fn frees_its_port_when_stopped() -> io::Result<()> {
    let server = DnsServer::start().await?;
    let addr = server.addr();
    assert_eq!(
        kind(DnsServer::bind(addr).await),
        Some(io::ErrorKind::AddrInUse)
    );

    server.set_fault(
        FaultScope::Everything,
        Fault::Delay(Duration::from_secs(3600)),
    );
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    send_udp(&client, addr, &question(NAME, RecordType::A)).await?;
    server.asked_at_least(NAME, RecordType::A, 1).await;
    server.stop().await;

    assert_eq!(DnsServer::bind(addr).await?.addr(), addr);
    Ok(())
}

#[tokio::test]
async fn applies_the_fault_of_the_narrowest_scope() -> io::Result<()> {
    let server = DnsServer::start().await?;
    server.set(NAME, 60, &[V4]);
    server.set_fault(FaultScope::Everything, Fault::Rcode(ResponseCode::ServFail));
    server.set_fault("CALLBACK-1.example.", Fault::Rcode(ResponseCode::Refused));
    server.set_fault(
        (NAME, RecordType::AAAA),
        Fault::Rcode(ResponseCode::FormErr),
    );
    let rcode = async |name, record_type| {
        let answer = ask(&server, name, record_type).await?;
        io::Result::Ok(answer.metadata.response_code)
    };

    assert_eq!(rcode(NAME, RecordType::AAAA).await?, ResponseCode::FormErr);
    assert_eq!(rcode(NAME, RecordType::A).await?, ResponseCode::Refused);
    assert_eq!(
        rcode("b.example", RecordType::A).await?,
        ResponseCode::ServFail
    );

    server.clear_fault(NAME);
    assert_eq!(rcode(NAME, RecordType::A).await?, ResponseCode::ServFail);
    server.clear_faults();
    assert_eq!(rcode(NAME, RecordType::A).await?, ResponseCode::NoError);
    Ok(())
}

#[tokio::test]
async fn shows_each_fault_that_has_an_answer() -> io::Result<()> {
    type Check = fn(&Message) -> bool;
    let faults: [(Fault, Check); 16] = [
        (Fault::Rcode(ResponseCode::ServFail), |answer| {
            answer.metadata.response_code == ResponseCode::ServFail && answer.answers.is_empty()
        }),
        (Fault::Rcode(ResponseCode::NXDomain), |answer| {
            answer.metadata.response_code == ResponseCode::NXDomain && answer.authorities.is_empty()
        }),
        // The name in the question contains capital letters. The question has no EDNS.
        (Fault::LowerCaseOnly(ResponseCode::NXDomain), |answer| {
            answer.metadata.response_code == ResponseCode::NXDomain && answer.answers.is_empty()
        }),
        (Fault::RefuseEdns(ResponseCode::FormErr), |answer| {
            answer.answers.len() == 2
        }),
        (Fault::DropEdns, |answer| answer.answers.len() == 2),
        (Fault::WrongId, |answer| {
            answer.metadata.id != ID && answer.answers.len() == 2
        }),
        (Fault::WrongQuestion, |answer| {
            answer.queries[0].name == name("example") && answer.answers[0].name == name(NAME)
        }),
        (Fault::LowerCaseEcho, |answer| {
            answer.queries[0].name.eq_case(&name(NAME)) && answer.answers.len() == 2
        }),
        (Fault::WrongClass, |answer| {
            let mut answers = answer.answers.iter();
            answers.all(|record| record.dns_class == DNSClass::CH)
        }),
        (Fault::TruncateUdp, |answer| {
            answer.metadata.truncation && answer.answers.is_empty()
        }),
        (Fault::TruncateNoTcp, |answer| {
            answer.metadata.truncation && answer.answers.len() == 1
        }),
        (Fault::NoData, |answer| {
            answer.metadata.response_code == ResponseCode::NoError
                && answer.answers.is_empty()
                && negative_ttl(answer) == Some(30)
        }),
        (Fault::NoDataWithoutSoa, |answer| {
            answer.metadata.response_code == ResponseCode::NoError
                && answer.answers.is_empty()
                && answer.authorities.is_empty()
        }),
        (Fault::CnameLoop, |answer| {
            answer.answers == [cname(NAME, 60, NAME)]
        }),
        (Fault::CnameToNowhere, |answer| {
            answer.metadata.response_code == ResponseCode::NXDomain
                && answer.answers == [cname(NAME, 60, "nowhere.invalid")]
        }),
        (Fault::Referral, |answer| {
            let authorities = &answer.authorities;
            answer.answers.is_empty()
                && !answer.metadata.authoritative
                && matches!(authorities.as_slice(), [record] if record.record_type() == RecordType::NS)
        }),
    ];
    let server = DnsServer::start().await?;
    server.set(NAME, 60, &[V4, OTHER_V4]);

    for (fault, shows) in faults {
        server.set_fault(NAME, fault);
        let answer = ask(&server, "CALLBACK-1.example", RecordType::A).await?;
        assert!(shows(&answer), "{fault:?}: {answer}");
    }
    Ok(())
}

#[tokio::test]
async fn answers_with_garbage() -> io::Result<()> {
    let server = DnsServer::start().await?;
    server.set_fault(NAME, Fault::Garbage);
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;

    send_udp(&client, server.addr(), &question(NAME, RecordType::A)).await?;
    let mut packet = [0; 512];
    let length = client.recv(&mut packet).await?;

    assert_eq!(packet[..2], ID.to_be_bytes());
    assert!(Message::from_vec(&packet[..length]).is_err());
    Ok(())
}

#[tokio::test]
async fn answers_in_full_over_tcp_after_a_forced_truncation() -> io::Result<()> {
    let server = DnsServer::start().await?;
    server.set(NAME, 60, &[V4]);
    server.set_fault(NAME, Fault::TruncateUdp);
    let answer = ask_over(true, &server, NAME, RecordType::A).await?;
    assert_eq!(addresses(&answer), [(60, V4)]);
    assert!(!answer.metadata.truncation);
    Ok(())
}

#[tokio::test]
async fn closes_the_tcp_connection_when_configured() -> io::Result<()> {
    let server = DnsServer::start().await?;
    server.set(NAME, 60, &[V4]);
    server.set_fault(NAME, Fault::TruncateNoTcp);
    let answer = ask_over(true, &server, NAME, RecordType::A).await;
    assert_eq!(kind(answer), Some(io::ErrorKind::UnexpectedEof));
    assert!(server.questions()[0].tcp);
    Ok(())
}

#[tokio::test]
async fn serves_others_while_one_answer_is_dropped_or_late() -> io::Result<()> {
    let server = DnsServer::start().await?;
    server.set(NAME, 60, &[V4]);
    server.set_fault("dropped.example", Fault::Drop);
    server.set_fault("late.example", Fault::Delay(Duration::from_secs(3600)));
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let mut tcp = TcpStream::connect(server.addr()).await?;

    for unanswered in ["dropped.example", "late.example"] {
        let request = question(unanswered, RecordType::A);
        send_udp(&udp, server.addr(), &request).await?;
        send_tcp(&mut tcp, &request).await?;
        server.asked_at_least(unanswered, RecordType::A, 2).await;
    }

    let request = question(NAME, RecordType::A);
    send_udp(&udp, server.addr(), &request).await?;
    assert_eq!(addresses(&receive_udp(&udp).await?), [(60, V4)]);
    let answer = exchange_tcp(&mut tcp, &request).await?;
    assert_eq!(addresses(&answer), [(60, V4)]);
    Ok(())
}

#[tokio::test]
async fn answers_late_with_the_addresses_of_that_moment() -> io::Result<()> {
    let server = DnsServer::start().await?;
    server.set(NAME, 60, &[V4]);
    server.set_fault(NAME, Fault::Delay(Duration::from_millis(20)));
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;

    let asked = tokio::time::Instant::now();
    send_udp(&client, server.addr(), &question(NAME, RecordType::A)).await?;
    server.asked_at_least(NAME, RecordType::A, 1).await;
    server.set(NAME, 60, &[OTHER_V4]);

    let answer = receive_udp(&client).await?;
    assert!(asked.elapsed() >= Duration::from_millis(20));
    assert_eq!(addresses(&answer), [(60, OTHER_V4)]);
    Ok(())
}

#[tokio::test]
async fn logs_and_counts_each_question() -> io::Result<()> {
    let server = DnsServer::start().await?;
    ask(&server, NAME, RecordType::A).await?;
    ask(&server, NAME, RecordType::AAAA).await?;
    ask_over(true, &server, "Callback-1.Example", RecordType::A).await?;

    assert_eq!(server.count("CALLBACK-1.example.", RecordType::A), 2);
    assert_eq!(server.count(NAME, RecordType::AAAA), 1);
    assert_eq!(server.count("b.example", RecordType::A), 0);
    assert_eq!(server.total(), 3);
    let questions = server.questions();
    assert!(questions.is_sorted_by_key(|asked| asked.at));
    assert_eq!(
        questions.iter().map(|asked| asked.tcp).collect::<Vec<_>>(),
        [false, false, true]
    );

    server.clear_log();
    assert_eq!(server.total(), 0);
    Ok(())
}

#[tokio::test]
async fn wakes_a_waiter_for_a_question() -> io::Result<()> {
    let server = DnsServer::start().await?;
    let mut waiting = pin!(server.asked_at_least(NAME, RecordType::A, 2));

    for _ in 0..2 {
        let pending = poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_pending()));
        assert!(pending.await);
        ask(&server, NAME, RecordType::A).await?;
    }

    waiting.await;
    Ok(())
}

#[tokio::test]
async fn survives_invalid_questions() -> io::Result<()> {
    let server = DnsServer::start().await?;
    server.set(NAME, 60, &[V4]);
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;

    let response = Message::response(ID, OpCode::Query)
        .to_vec()
        .map_err(io::Error::other)?;
    for silent in [b"".as_slice(), b"x", &[0xff; 64], &response] {
        client.send_to(silent, server.addr()).await?;
    }
    let mut notify = question(NAME, RecordType::A);
    notify.metadata.op_code = OpCode::Notify;
    let answer = exchange_udp(server.addr(), &notify).await?;
    assert_eq!(answer.metadata.response_code, ResponseCode::NotImp);
    let mut none = question(NAME, RecordType::A);
    none.queries.clear();
    let answer = exchange_udp(server.addr(), &none).await?;
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);

    send_udp(&client, server.addr(), &question(NAME, RecordType::A)).await?;
    assert_eq!(addresses(&receive_udp(&client).await?), [(60, V4)]);
    assert_eq!(server.total(), 1);
    Ok(())
}

async fn chain() -> io::Result<DnsServer> {
    let server = DnsServer::start().await?;
    server.set_cname(NAME, 5, "b.example");
    server.set_cname("b.example", 9, "c.example");
    server.set("c.example", 300, &[V4]);
    Ok(server)
}

async fn ask(server: &DnsServer, name: &str, record_type: RecordType) -> io::Result<Message> {
    ask_over(false, server, name, record_type).await
}

async fn ask_over(
    tcp: bool,
    server: &DnsServer,
    name: &str,
    record_type: RecordType,
) -> io::Result<Message> {
    let request = question(name, record_type);
    if tcp {
        let mut connection = TcpStream::connect(server.addr()).await?;
        exchange_tcp(&mut connection, &request).await
    } else {
        exchange_udp(server.addr(), &request).await
    }
}

fn question(asked: &str, record_type: RecordType) -> Message {
    let mut request = Message::query();
    request.metadata.id = ID;
    request.add_query(Query::query(name(asked), record_type));
    request
}

async fn exchange_udp(server: SocketAddr, request: &Message) -> io::Result<Message> {
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    send_udp(&client, server, request).await?;
    receive_udp(&client).await
}

async fn send_udp(client: &UdpSocket, server: SocketAddr, request: &Message) -> io::Result<()> {
    let packet = request.to_vec().map_err(io::Error::other)?;
    client.send_to(&packet, server).await?;
    Ok(())
}

async fn receive_udp(client: &UdpSocket) -> io::Result<Message> {
    let mut packet = [0; 4096];
    let length = client.recv(&mut packet).await?;
    Message::from_vec(&packet[..length]).map_err(io::Error::other)
}

async fn exchange_tcp(connection: &mut TcpStream, request: &Message) -> io::Result<Message> {
    send_tcp(connection, request).await?;
    let length = connection.read_u16().await?;
    let mut packet = vec![0; usize::from(length)];
    connection.read_exact(&mut packet).await?;
    Message::from_vec(&packet).map_err(io::Error::other)
}

async fn send_tcp(connection: &mut TcpStream, request: &Message) -> io::Result<()> {
    let packet = request.to_vec().map_err(io::Error::other)?;
    let length = u16::try_from(packet.len()).map_err(io::Error::other)?;
    connection.write_u16(length).await?;
    connection.write_all(&packet).await
}

fn addresses(answer: &Message) -> Vec<(u32, IpAddr)> {
    let records = answer.answers.iter();
    records
        .filter_map(|record| Some((record.ttl, record.data.ip_addr()?)))
        .collect()
}

fn negative_ttl(answer: &Message) -> Option<u32> {
    answer
        .authorities
        .iter()
        .find_map(|record| match &record.data {
            RData::SOA(soa) if soa.minimum == record.ttl => Some(soa.minimum),
            _ => None,
        })
}

fn cname(owner: &str, ttl: u32, target: &str) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
}

fn many(count: u32) -> Vec<IpAddr> {
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 0));
    let address = |n| IpAddr::V4(Ipv4Addr::from(first + n));
    (0..count).map(address).collect()
}

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).expect("a domain name");
    name.set_fqdn(true);
    name
}

fn kind<T>(result: io::Result<T>) -> Option<io::ErrorKind> {
    result.err().map(|error| error.kind())
}

const ID: u16 = 4711;
