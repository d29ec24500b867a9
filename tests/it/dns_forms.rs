//! Tests with DNS servers that do not support EDNS, mixed case or UDP.

use std::{collections::HashSet, io, net::Ipv4Addr, time::Duration};

use callback_source::{Answer, HickoryResolver, Resolve, ResolveError, ResolveErrorKind};
use callback_source_testkit::dns::{
    Asked, DnsServer, Fault, FaultScope, RecordType, ResponseCode, Transport,
};
use hickory_proto::{
    op::{Message, MessageType},
    rr::Record,
};
use integration_tests::{log::Log, merchant::tiny_list, within};
use tokio::{net::UdpSocket, time::Instant};

use crate::common::{HOST, ONE, a, aaaa};

#[tokio::test]
async fn a_server_that_refuses_edns_is_asked_without_edns() -> io::Result<()> {
    for code in [
        ResponseCode::FormErr,
        ResponseCode::NotImp,
        ResponseCode::BADVERS,
    ] {
        for transport in [Transport::Both, Transport::UdpOnly] {
            let dns = server(Fault::RefuseEdns(code)).await?;
            dns.set_transport(transport);
            let resolver = dns.resolver();
            answers(&resolver).await?;

            let asked = dns.questions();
            assert_eq!(asked.len(), 2, "{code}: {asked:?}");
            assert!(asked[0].edns && !asked[1].edns, "{code}: {asked:?}");
            // Random case still works, so the question must not be sent over TCP, where it is in lower case.
            assert!(asked.iter().all(|asked| !asked.tcp), "{code}: {asked:?}");

            dns.clear_log();
            let mut spelled = HashSet::new();
            for _ in 0..4 {
                answers(&resolver).await?;
                let asked = dns.questions().pop().expect("it was asked");
                assert!(!asked.edns && !asked.tcp, "{code}: {asked:?}");
                spelled.insert(asked.spelled);
            }
            // The form is remembered: there is one question for each lookup, in random case.
            assert_eq!(dns.total(), 4);
            assert!(spelled.len() > 1, "{spelled:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_refuses_edns_in_twelve_bytes_is_asked_without_edns() -> io::Result<()> {
    for transport in [
        Transport::Both,
        Transport::UdpOnly,
        Transport::UdpOnlyTcpSilent,
    ] {
        let dns = server(Fault::RefuseEdnsBriefly(ResponseCode::FormErr)).await?;
        dns.set_transport(transport);
        let resolver = dns.resolver();
        let start = Instant::now();
        answers(&resolver).await?;
        assert!(
            start.elapsed() < Duration::from_millis(600),
            "{transport:?}"
        );

        let first = dns.questions();
        assert!(first.iter().all(|asked| !asked.tcp), "{first:?}");
        dns.clear_log();
        answers(&resolver).await?;
        let asked = dns.questions();
        assert!(
            asked.len() == 1 && !asked[0].edns && !asked[0].tcp,
            "{asked:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn the_form_that_a_server_needs_is_found_well_within_a_second() -> io::Result<()> {
    let works = Fault::Delay(Duration::ZERO);
    for fault in [
        works,
        Fault::DropEdns,
        Fault::DropMixedCase,
        Fault::RefuseEdns(ResponseCode::FormErr),
        Fault::RefuseEdnsBriefly(ResponseCode::FormErr),
        Fault::RefuseEdnsBriefly(ResponseCode::NotImp),
        Fault::LowerCaseEcho,
        Fault::LowerCaseOnly(ResponseCode::NXDomain),
        Fault::LowerCaseOnly(ResponseCode::NoError),
        Fault::LowerCaseOnly(ResponseCode::Refused),
        Fault::LowerCaseOnly(ResponseCode::ServFail),
    ] {
        for transport in [
            Transport::Both,
            Transport::UdpOnly,
            Transport::UdpOnlyTcpSilent,
            Transport::TcpOnly,
        ] {
            let case = format!("{fault:?} {transport:?}");
            let dns = server(fault).await?;
            dns.set_transport(transport);
            let start = Instant::now();
            answers(&dns.resolver()).await?;
            let took = start.elapsed();
            assert!(took < Duration::from_millis(900), "{case}: {took:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_refuses_connections_is_asked_at_once_in_the_next_form() -> io::Result<()> {
    // No socket listens for TCP at this address.
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let resolver =
        HickoryResolver::from_servers([socket.local_addr()?]).map_err(io::Error::other)?;
    let serve = async {
        let mut packet = [0; 512];
        loop {
            let (length, peer) = socket.recv_from(&mut packet).await?;
            let mut message = Message::from_vec(&packet[..length]).map_err(io::Error::other)?;
            let name = message.queries[0].name().clone();
            let spelled = name.to_ascii();
            if message.edns.is_none() && spelled == spelled.to_ascii_lowercase() {
                message.metadata.message_type = MessageType::Response;
                let record = Record::from_rdata(name, 60, ONE.into());
                message.add_answer(record);
                let answer = message.to_vec().map_err(io::Error::other)?;
                socket.send_to(&answer, peer).await?;
            }
        }
    };
    let ask = async {
        let start = Instant::now();
        answers(&resolver).await?;
        let took = start.elapsed();
        // The resolver tries TCP after 400 ms. After TCP is refused, it sends the next form at once, not 200 ms later.
        assert!(took < Duration::from_millis(550), "{took:?}");
        Ok(())
    };
    tokio::select! {
        done = ask => done,
        failed = serve => failed,
    }
}

#[tokio::test]
async fn a_server_that_ignores_a_part_of_a_question_is_asked_without_it() -> io::Result<()> {
    for fault in [Fault::DropEdns, Fault::DropMixedCase] {
        for transport in [
            Transport::Both,
            Transport::UdpOnly,
            Transport::UdpOnlyTcpSilent,
        ] {
            let dns = server(fault).await?;
            dns.set_transport(transport);
            let resolver = dns.resolver();
            answers(&resolver).await?;

            dns.clear_log();
            let start = Instant::now();
            answers(&resolver).await?;
            assert!(start.elapsed() < SILENCE, "{fault:?} {transport:?}");
            let asked = dns.questions();
            assert!(asked.len() <= 2, "{fault:?} {transport:?}: {asked:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_server_behind_a_firewall_that_drops_udp_is_asked_over_tcp() -> io::Result<()> {
    let log = Log::capture();
    let dns = server(Fault::Delay(Duration::ZERO)).await?;
    dns.set_transport(Transport::TcpOnly);
    let resolver = dns.resolver();
    answers(&resolver).await?;
    assert!(dns.questions().iter().any(|asked| asked.tcp));

    dns.clear_log();
    answers(&resolver).await?;
    let asked = dns.questions();
    assert!(asked.len() == 1 && asked[0].tcp, "{asked:?}");
    let lines = log.lines("INFO", &["not over UDP", &dns.addr().to_string()]);
    assert_eq!(lines.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_server_that_knows_only_lower_case_names_is_asked_in_lower_case() -> io::Result<()> {
    for code in [
        ResponseCode::NXDomain,
        // With this code, the response is a denial: no such record.
        ResponseCode::NoError,
        ResponseCode::Refused,
        ResponseCode::ServFail,
        ResponseCode::NotAuth,
    ] {
        for transport in [
            Transport::Both,
            Transport::UdpOnly,
            Transport::UdpOnlyTcpSilent,
        ] {
            let dns = server(Fault::LowerCaseOnly(code)).await?;
            dns.set_transport(transport);
            let resolver = dns.resolver();
            answers(&resolver).await?;

            dns.clear_log();
            answers(&resolver).await?;
            let asked = dns.questions();
            assert!(
                asked.iter().all(|asked| asked.spelled == HOST),
                "{code} {transport:?}: {asked:?}"
            );
            match transport {
                Transport::Both => assert!(asked.len() == 1 && asked[0].tcp, "{asked:?}"),
                // Two answers must agree, because a single answer is easier to forge if the question is not in mixed
                // case.
                _ => {
                    assert_eq!(asked.len(), 2, "{asked:?}");
                    assert!(asked.iter().all(|asked| !asked.tcp), "{asked:?}");
                }
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_log_reports_a_server_that_knows_only_lower_case_names() -> io::Result<()> {
    let log = Log::capture();
    let dns = server(Fault::LowerCaseOnly(ResponseCode::NXDomain)).await?;
    let list = tiny_list(&[HOST]).spawn(dns.resolver());
    within(list.ready()).await;
    assert!(list.verdict(ONE).is_allowed());
    let lines = log.lines("INFO", &["not in lower case", &dns.addr().to_string()]);
    assert_eq!(lines.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_denial_is_believed_after_one_more_question() -> io::Result<()> {
    for (fault, kind) in [
        (
            Fault::Rcode(ResponseCode::NXDomain),
            ResolveErrorKind::NxDomain,
        ),
        (Fault::NoData, ResolveErrorKind::NoData),
    ] {
        let dns = server(fault).await?;
        let resolver = dns.resolver();
        for _ in 0..3 {
            dns.clear_log();
            let denied = within(resolver.resolve(a(HOST))).await;
            assert_eq!(denied.map_err(|error| error.kind()), Err(kind));
            let asked = dns.questions();
            assert_eq!(asked.len(), 2, "{asked:?}");
            assert!(asked[1].tcp && asked[1].spelled == HOST, "{asked:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_denial_is_believed_at_once_when_the_other_family_has_an_answer() -> io::Result<()> {
    for fault in [
        Fault::Rcode(ResponseCode::NXDomain),
        Fault::NoDataWithoutSoa,
    ] {
        let dns = DnsServer::start().await?;
        dns.set(HOST, 60, &[ONE]);
        dns.set_fault((HOST, RecordType::AAAA), fault);
        let resolver = dns.resolver();
        let (one, other) = tokio::join!(resolver.resolve(aaaa(HOST)), resolver.resolve(a(HOST)));
        assert!(one.is_err_and(|error| error.is_denial()) && other.is_ok());
        assert_eq!(dns.total(), 2);
        assert!(within(resolver.resolve(aaaa(HOST))).await.is_err());
        assert_eq!(dns.total(), 3);
    }
    Ok(())
}

#[tokio::test]
async fn a_denial_that_the_server_does_not_repeat_is_a_failure() -> io::Result<()> {
    // The server responds with NXDOMAIN to the first question, which is in mixed case, and is silent afterwards.
    let dns = DnsServer::start().await?;
    dns.set_transport(Transport::UdpOnly);
    let silent = async {
        dns.asked_at_least(HOST, RecordType::A, 1).await;
        dns.set_fault(FaultScope::Everything, Fault::Drop);
    };
    dns.set_fault(
        FaultScope::Everything,
        Fault::Delay(Duration::from_millis(50)),
    );
    let resolver = dns.resolver();
    let (outcome, ()) = within(async { tokio::join!(resolver.resolve(a(HOST)), silent) }).await;
    assert_eq!(
        outcome.map_err(|error| error.kind()),
        Err(ResolveErrorKind::Timeout)
    );
    Ok(())
}

#[tokio::test]
async fn a_form_that_stops_working_is_replaced_by_the_full_one() -> io::Result<()> {
    let dns = server(Fault::Delay(Duration::ZERO)).await?;
    dns.set_transport(Transport::TcpOnly);
    let resolver = dns.resolver();
    answers(&resolver).await?;

    for gone in [Transport::UdpOnly, Transport::UdpOnlyTcpSilent] {
        dns.set_transport(gone);
        answers(&resolver).await?;
        dns.clear_log();
        answers(&resolver).await?;
        let asked = dns.questions();
        assert!(
            asked.len() == 1 && asked[0].edns && !asked[0].tcp,
            "{asked:?}"
        );
        dns.set_transport(Transport::TcpOnly);
        answers(&resolver).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_form_that_a_server_needs_is_remembered_for_longer_than_a_ttl() -> io::Result<()> {
    for (fault, transport) in [
        (Fault::DropEdns, Transport::UdpOnlyTcpSilent),
        (Fault::DropMixedCase, Transport::UdpOnlyTcpSilent),
        (Fault::DropMixedCase, Transport::Both),
        (
            Fault::LowerCaseOnly(ResponseCode::NXDomain),
            Transport::UdpOnlyTcpSilent,
        ),
        (Fault::Delay(Duration::ZERO), Transport::TcpOnly),
    ] {
        let case = format!("{fault:?} {transport:?}");
        let dns = server(fault).await?;
        dns.set_transport(transport);
        let resolver = dns.resolver();
        answers(&resolver).await?;

        for _ in 0..3 {
            an_hour_passes().await;
            dns.clear_log();
            let start = Instant::now();
            answers(&resolver).await?;
            let took = start.elapsed();
            assert!(took < Duration::from_millis(150), "{case}: {took:?}");
            // The full form may be tried once in addition to the remembered form.
            let asked = dns.questions();
            let full = asked.iter().filter(|asked| asked.edns).count();
            assert!(full <= 1, "{case}: {asked:?}");
        }

        dns.clear_faults();
        dns.set_transport(Transport::Both);
        // The full form competes with the remembered form. The full form may lose, but not five times. The additional
        // question makes sure that all packets of the fifth question have arrived before the log is cleared.
        for _ in 0..5 {
            an_hour_passes().await;
            answers(&resolver).await?;
        }
        answers(&resolver).await?;
        dns.clear_log();
        answers(&resolver).await?;
        let asked = dns.questions();
        assert!(
            asked.len() == 1 && asked[0].edns && !asked[0].tcp,
            "{case}: {asked:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_that_falls_silent_in_another_form_does_not_block_later_questions()
-> io::Result<()> {
    let needed = [
        (Fault::RefuseEdns(ResponseCode::FormErr), Transport::Both),
        (Fault::DropMixedCase, Transport::UdpOnly),
        (Fault::Delay(Duration::ZERO), Transport::TcpOnly),
    ];
    for (fault, transport) in needed {
        let dns = server(fault).await?;
        dns.set_transport(transport);
        let resolver = dns.resolver();
        answers(&resolver).await?;

        dns.set_fault(FaultScope::Everything, Fault::Drop);
        // The lookup runs in a separate task. A deadlock would block its thread, and a time limit on the same thread
        // would never end the test.
        let asking = tokio::spawn({
            let resolver = resolver.clone();
            async move { resolver.resolve(a(HOST)).await }
        });
        let outcome = within(asking).await.map_err(io::Error::other)?;
        let kind = outcome.map_err(|error| error.kind());
        assert_eq!(kind, Err(ResolveErrorKind::Timeout), "{fault:?}");

        dns.set_fault(FaultScope::Everything, fault);
        answers(&resolver).await?;
    }
    Ok(())
}

#[tokio::test]
async fn no_question_costs_more_than_nine_packets_and_a_connection() -> io::Result<()> {
    let faults = [
        Fault::Drop,
        Fault::Garbage,
        Fault::WrongId,
        Fault::WrongQuestion,
        Fault::WrongClass,
        Fault::TruncateNoTcp,
        Fault::Referral,
        Fault::NoData,
        Fault::LowerCaseEcho,
        Fault::DropEdns,
        Fault::DropMixedCase,
        Fault::RefuseEdnsBriefly(ResponseCode::FormErr),
        Fault::Rcode(ResponseCode::FormErr),
        Fault::Rcode(ResponseCode::ServFail),
        Fault::Rcode(ResponseCode::Refused),
        Fault::Rcode(ResponseCode::NXDomain),
        Fault::LowerCaseOnly(ResponseCode::FormErr),
        Fault::LowerCaseOnly(ResponseCode::ServFail),
        Fault::Delay(Duration::from_millis(1500)),
    ];
    let transports = [
        Transport::Both,
        Transport::UdpOnly,
        Transport::UdpOnlyTcpSilent,
        Transport::TcpOnly,
    ];
    let cases = faults
        .into_iter()
        .flat_map(|fault| transports.map(|transport| (fault, transport)));
    let mut servers = Vec::new();
    for (fault, transport) in cases {
        let dns = server(fault).await?;
        dns.set_transport(transport);
        servers.push((format!("{fault:?} {transport:?}"), dns.resolver(), dns));
    }
    for attempt in 1..=3 {
        if attempt == 3 {
            // The full form is tried again.
            an_hour_passes().await;
        }
        let asking = servers.iter().map(async |(case, resolver, dns)| {
            dns.clear_log();
            let start = Instant::now();
            let _ = within(resolver.resolve(a(HOST))).await;
            let took = start.elapsed();
            let (tcp, udp): (Vec<Asked>, Vec<_>) =
                dns.questions().into_iter().partition(|asked| asked.tcp);
            assert!(udp.len() <= 9, "{case}, question {attempt}: {udp:?}");
            assert!(tcp.len() <= 1, "{case}, question {attempt}: {tcp:?}");
            // The lookup ends after 2 s by design. The rest of the limit allows for a machine under load.
            assert!(
                took < Duration::from_secs(4),
                "{case}, question {attempt}: {took:?}"
            );
        });
        futures_util::future::join_all(asking).await;
    }
    Ok(())
}

/// Advances the time by an hour. A form is remembered for longer than an hour, and the full form is tried again after
/// less than an hour.
async fn an_hour_passes() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3600)).await;
    tokio::time::resume();
}

async fn server(fault: Fault) -> io::Result<DnsServer> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[ONE]);
    dns.set_fault(FaultScope::Everything, fault);
    Ok(dns)
}

async fn answers(resolver: &impl Resolve) -> io::Result<()> {
    let answer: Result<Answer, ResolveError> = within(resolver.resolve(a(HOST))).await;
    assert_eq!(answer.map_err(io::Error::other)?.addresses(), [ONE]);
    Ok(())
}

/// The silence after which another form would be tried.
const SILENCE: Duration = Duration::from_millis(500);
