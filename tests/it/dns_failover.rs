//! Tests with several DNS servers, and of the questions that each server receives.

use std::{io, net::IpAddr, time::Duration};

use callback_source::{
    Answer, Family, HickoryResolver, Question, Resolve, ResolveError, ResolveErrorKind,
};
use callback_source_testkit::dns::{DnsServer, Fault, FaultScope, RecordType, ResponseCode};
use integration_tests::{merchant::tiny_list, within};
use tokio::time::Instant;

use crate::common::{HOST, ONE, TWO, a};

#[tokio::test]
async fn the_second_server_answers_when_the_first_is_silent() -> io::Result<()> {
    let (first, second) = two_servers().await?;
    first.set_fault(FaultScope::Everything, Fault::Drop);

    let (answer, took) = ask(&[&first, &second]).await;

    assert_eq!(answer.map_err(io::Error::other)?.addresses(), [TWO]);
    assert!(took >= Duration::from_millis(400), "{took:?}");
    // The answer arrives before the time limit of the first server.
    assert!(took < Duration::from_millis(1900), "{took:?}");
    Ok(())
}

#[tokio::test]
async fn the_second_server_answers_when_the_first_does_not_exist() -> io::Result<()> {
    let (mut first, second) = two_servers().await?;
    first.pause().await;
    let (answer, _) = ask(&[&first, &second]).await;
    assert_eq!(answer.map_err(io::Error::other)?.addresses(), [TWO]);
    Ok(())
}

#[tokio::test]
async fn the_second_server_answers_at_once_when_the_first_fails() -> io::Result<()> {
    for fault in [
        Fault::Rcode(ResponseCode::ServFail),
        Fault::Rcode(ResponseCode::Refused),
        Fault::Rcode(ResponseCode::NotImp),
        Fault::Referral,
    ] {
        let (first, second) = two_servers().await?;
        first.set_fault(FaultScope::Everything, fault);
        let (answer, took) = ask(&[&first, &second]).await;
        assert_eq!(
            answer.map_err(io::Error::other)?.addresses(),
            [TWO],
            "{fault:?}"
        );
        assert!(took < Duration::from_millis(1900), "{fault:?}: {took:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_denial_of_the_first_server_is_final() -> io::Result<()> {
    for (fault, kind) in [
        (
            Fault::Rcode(ResponseCode::NXDomain),
            ResolveErrorKind::NxDomain,
        ),
        (Fault::NoData, ResolveErrorKind::NoData),
    ] {
        let (first, second) = two_servers().await?;
        first.set_fault(FaultScope::Everything, fault);
        let (answer, took) = ask(&[&first, &second]).await;
        assert_eq!(answer.map_err(|error| error.kind()), Err(kind));
        assert!(second.total() == 0 || took >= SILENCE);
    }
    Ok(())
}

#[tokio::test]
async fn the_second_server_is_not_asked_when_the_first_answers() -> io::Result<()> {
    let (first, second) = two_servers().await?;
    let (answer, took) = ask(&[&first, &second]).await;
    assert_eq!(answer.map_err(io::Error::other)?.addresses(), [ONE]);
    assert!(second.total() == 0 || took >= SILENCE);

    let (answer, took) = ask(&[&second, &first]).await;
    assert_eq!(answer.map_err(io::Error::other)?.addresses(), [TWO]);
    assert!(first.total() == 1 || took >= SILENCE);
    Ok(())
}

#[tokio::test]
async fn a_late_answer_of_the_first_server_is_still_used() -> io::Result<()> {
    let (first, second) = two_servers().await?;
    first.set_fault(
        FaultScope::Everything,
        Fault::Delay(Duration::from_millis(800)),
    );
    second.set_fault(FaultScope::Everything, Fault::Rcode(ResponseCode::ServFail));
    let (answer, _) = ask(&[&first, &second]).await;
    assert_eq!(answer.map_err(io::Error::other)?.addresses(), [ONE]);
    Ok(())
}

#[tokio::test]
async fn one_good_server_of_four_is_enough() -> io::Result<()> {
    let good = DnsServer::start().await?;
    good.set(HOST, 60, &[ONE]);
    let bad = [
        Fault::Rcode(ResponseCode::ServFail),
        Fault::Drop,
        Fault::Garbage,
    ];
    let mut servers = Vec::new();
    for fault in bad {
        let server = DnsServer::start().await?;
        server.set(HOST, 60, &[TWO]);
        server.set_fault(FaultScope::Everything, fault);
        servers.push(server);
    }
    servers.push(good);
    let (answer, _) = ask(&servers.iter().collect::<Vec<_>>()).await;
    assert_eq!(answer.map_err(io::Error::other)?.addresses(), [ONE]);
    Ok(())
}

#[tokio::test]
async fn an_error_response_is_reported_even_if_another_server_is_silent() -> io::Result<()> {
    let (first, second) = two_servers().await?;
    first.set_fault(FaultScope::Everything, Fault::Drop);
    second.set_fault(FaultScope::Everything, Fault::Rcode(ResponseCode::ServFail));
    for servers in [[&first, &second], [&second, &first]] {
        let (answer, _) = ask(&servers).await;
        let kind = answer.map_err(|error| error.kind());
        assert_eq!(kind, Err(ResolveErrorKind::ServFail));
    }
    Ok(())
}

#[tokio::test]
async fn silence_of_all_servers_ends_within_the_time_limit() -> io::Result<()> {
    let mut silent = Vec::new();
    for _ in 0..12 {
        let server = DnsServer::start().await?;
        server.set_fault(FaultScope::Everything, Fault::Drop);
        silent.push(server);
    }
    let servers = silent.iter().map(DnsServer::addr);
    let resolver = HickoryResolver::from_servers(servers).map_err(io::Error::other)?;
    let start = Instant::now();
    let list = tiny_list(&[HOST]).spawn(resolver);
    within(list.attempted()).await;

    // The lookups end after 5 s by design. The rest of the limit allows for a machine under load.
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
    let failed = list.health()[0].families[0].last_error.clone();
    let kind = failed.map(|error| error.kind());
    assert_eq!(kind, Some(ResolveErrorKind::Timeout));
    Ok(())
}

#[tokio::test]
async fn an_alias_is_followed_across_servers() -> io::Result<()> {
    let (first, second) = two_servers().await?;
    first.set_cname(HOST, 60, "b.example");
    first.follow_cnames(false);
    first.set_fault("b.example", Fault::Rcode(ResponseCode::ServFail));
    second.set("b.example", 60, &[TWO]);
    let (answer, _) = ask(&[&first, &second]).await;
    assert_eq!(answer.map_err(io::Error::other)?.addresses(), [TWO]);
    Ok(())
}

#[tokio::test]
async fn a_lost_packet_is_sent_again() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[ONE]);
    dns.set_fault(FaultScope::Everything, Fault::Drop);
    let resolver = dns.resolver();
    let heal = async {
        dns.asked_at_least(HOST, RecordType::A, 1).await;
        dns.clear_faults();
    };
    let (answer, ()) = within(async { tokio::join!(resolver.resolve(a(HOST)), heal) }).await;
    assert_eq!(answer.map_err(io::Error::other)?.addresses(), [ONE]);
    Ok(())
}

#[tokio::test]
async fn questions_are_spelled_in_random_case() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[ONE]);
    let resolver = dns.resolver();
    for _ in 0..8 {
        let answer = within(resolver.resolve(a(HOST))).await;
        assert_eq!(answer.map_err(io::Error::other)?.addresses(), [ONE]);
    }
    let asked = dns.questions();
    let spellings: std::collections::HashSet<_> =
        asked.iter().map(|asked| &asked.spelled).collect();
    // With fifteen letters, the eight questions have the same spelling only once in 2^105 runs.
    assert!(spellings.len() > 1, "{spellings:?}");
    assert!(asked.iter().all(|asked| asked.name == HOST));
    Ok(())
}

#[tokio::test]
async fn only_the_exact_name_is_ever_asked() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set("callback-9.vipps.no.corp.local", 60, &[ONE]);
    dns.set("callback-9.vipps.no.example", 60, &[ONE]);
    for host in ["callback-9.vipps.no", "short.name"] {
        for fault in [
            Some(ResponseCode::NXDomain),
            Some(ResponseCode::ServFail),
            None,
        ] {
            dns.clear_log();
            if let Some(code) = fault {
                dns.set_fault(host, Fault::Rcode(code));
            }
            let answer = within(dns.resolver().resolve(a(host))).await;
            assert!(answer.is_err());
            assert!(dns.questions().iter().all(|asked| asked.name == host));
            assert!(dns.total() >= 1);
            dns.clear_faults();
        }
    }
    Ok(())
}

/// If the hosts file of the machine contains only names without a dot, this test checks nothing.
#[tokio::test]
async fn the_hosts_file_is_not_read() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let names = hosts
        .lines()
        .filter_map(|line| line.split('#').next())
        .flat_map(|line| line.split_whitespace().skip(1))
        .filter_map(|name| name.parse::<callback_source::HostName>().ok());
    for host in names {
        dns.set(host.as_str(), 60, &[TWO]);
        let question = Question {
            host: host.clone(),
            family: Family::V4,
        };
        let answer = within(dns.resolver().resolve(question)).await;
        assert_eq!(
            answer.map_err(io::Error::other)?.addresses(),
            [TWO],
            "{host}"
        );
        assert!(dns.count(host.as_str(), RecordType::A) >= 1);
    }
    Ok(())
}

#[tokio::test]
async fn nothing_is_cached_below_the_list() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    let resolver = dns.resolver();
    dns.set(HOST, 3600, &[ONE]);
    let answer = within(resolver.resolve(a(HOST))).await;
    assert_eq!(answer.map_err(io::Error::other)?.addresses(), [ONE]);
    dns.set(HOST, 3600, &[TWO]);
    let answer = within(resolver.resolve(a(HOST))).await;
    assert_eq!(answer.map_err(io::Error::other)?.addresses(), [TWO]);
    dns.remove(HOST);
    let answer = within(resolver.resolve(a(HOST))).await;
    assert_eq!(
        answer.map_err(|error| error.kind()),
        Err(ResolveErrorKind::NxDomain)
    );
    Ok(())
}

#[tokio::test]
async fn each_family_of_a_name_is_a_question_of_its_own() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[ONE]);
    let list = tiny_list(&[HOST]).spawn(dns.resolver());
    within(list.attempted()).await;
    assert!(dns.count(HOST, RecordType::A) == 1 && dns.count(HOST, RecordType::AAAA) == 1);
    Ok(())
}

/// The loopback interface cannot show whether packets are sent on the correct link.
#[tokio::test]
async fn a_server_keeps_its_zone() -> io::Result<()> {
    let dns = DnsServer::bind("[::1]:0".parse().map_err(io::Error::other)?).await?;
    dns.set(HOST, 60, &[ONE]);
    let server = format!("[::1%1]:{}", dns.addr().port());
    let addr = callback_source::parse_dns_server(&server).map_err(io::Error::other)?;
    let resolver = HickoryResolver::from_servers([addr]).map_err(io::Error::other)?;
    assert!(format!("{resolver:?}").contains(&server), "{resolver:?}");
    let answer = within(resolver.resolve(a(HOST))).await;
    assert_eq!(answer.map_err(io::Error::other)?.addresses(), [ONE]);
    Ok(())
}

#[tokio::test]
async fn the_unspecified_address_stands_for_this_machine() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[ONE]);
    for ip in ["0.0.0.0", "::ffff:0.0.0.0", "::ffff:127.0.0.1"] {
        let ip: IpAddr = ip.parse().map_err(io::Error::other)?;
        let servers = [(ip, dns.addr().port()).into()];
        let resolver = HickoryResolver::from_servers(servers).map_err(io::Error::other)?;
        let answer = within(resolver.resolve(a(HOST))).await;
        assert_eq!(answer.map_err(io::Error::other)?.addresses(), [ONE], "{ip}");
    }
    Ok(())
}

#[test]
fn a_resolver_without_a_server_is_an_error() {
    assert!(HickoryResolver::from_servers([]).is_err());
}

async fn two_servers() -> io::Result<(DnsServer, DnsServer)> {
    let (first, second) = (DnsServer::start().await?, DnsServer::start().await?);
    first.set(HOST, 60, &[ONE]);
    second.set(HOST, 60, &[TWO]);
    Ok((first, second))
}

async fn ask(servers: &[&DnsServer]) -> (Result<Answer, ResolveError>, Duration) {
    let addresses = servers.iter().map(|server| server.addr());
    let resolver = HickoryResolver::from_servers(addresses).expect("there are servers");
    let start = Instant::now();
    let answer = within(resolver.resolve(a(HOST))).await;
    (answer, start.elapsed())
}

/// The silence after which the next server is asked as well.
const SILENCE: Duration = Duration::from_millis(400);
