//! Tests of each fault of a DNS server: the result of the resolver, the verdicts, and the health of the list.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use callback_source::{
    AllowList, Answer, Family, Freshness, Question, RejectionKind, Resolve, ResolveError,
    ResolveErrorKind,
    set::{FamilyHealth, QuestionStatus},
};
use callback_source_testkit::dns::{DnsServer, Fault, Name, Record, RecordType, ResponseCode};
use integration_tests::{
    log::Log,
    merchant::{host_name, tiny_list},
    until, within,
};

use crate::common::assert_rejected;

/// The host whose A records are faulty.
const HOST: &str = "callback-1.psp.example";
/// A host without a fault.
const OTHER: &str = "callback-2.psp.example";
/// The address of HOST before the fault.
const KNOWN: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1));
/// The address of OTHER.
const NEIGHBOUR: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 1, 2));
/// An address in the faulty answers that must never be admitted.
const PLANTED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 66, 6));
const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 6));
const UNLISTED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 77, 7));

#[tokio::test]
async fn servfail_is_a_failure() -> io::Result<()> {
    is_a_failure(
        Fault::Rcode(ResponseCode::ServFail),
        ResolveErrorKind::ServFail,
    )
    .await
}

#[tokio::test]
async fn refused_is_a_failure() -> io::Result<()> {
    is_a_failure(
        Fault::Rcode(ResponseCode::Refused),
        ResolveErrorKind::Refused,
    )
    .await
}

#[tokio::test]
async fn another_error_code_is_a_failure() -> io::Result<()> {
    for code in [
        ResponseCode::NotImp,
        ResponseCode::FormErr,
        ResponseCode::NotAuth,
    ] {
        let failed = outcome(Fault::Rcode(code))
            .await?
            .map_err(|error| error.kind());
        assert_eq!(failed, Err(ResolveErrorKind::ErrorCode), "{code}");
    }
    is_a_failure(
        Fault::Rcode(ResponseCode::NotImp),
        ResolveErrorKind::ErrorCode,
    )
    .await
}

#[tokio::test]
async fn silence_is_a_failure() -> io::Result<()> {
    is_a_failure(Fault::Drop, ResolveErrorKind::Timeout).await
}

#[tokio::test]
async fn garbage_is_a_failure() -> io::Result<()> {
    is_a_failure_of(Fault::Garbage, |kind| {
        [ResolveErrorKind::Timeout, ResolveErrorKind::Malformed].contains(&kind)
    })
    .await
}

#[tokio::test]
async fn an_answer_to_another_id_is_ignored() -> io::Result<()> {
    is_a_failure(Fault::WrongId, ResolveErrorKind::Timeout).await
}

#[tokio::test]
async fn an_answer_to_another_question_is_ignored() -> io::Result<()> {
    is_a_failure_of(Fault::WrongQuestion, |kind| {
        [ResolveErrorKind::Timeout, ResolveErrorKind::Malformed].contains(&kind)
    })
    .await
}

#[tokio::test]
async fn records_of_another_class_are_ignored() -> io::Result<()> {
    is_a_failure_of(Fault::WrongClass, |kind| {
        let kinds = [ResolveErrorKind::Malformed, ResolveErrorKind::BrokenChain];
        kinds.contains(&kind)
    })
    .await
}

#[tokio::test]
async fn a_truncated_answer_without_tcp_is_a_failure() -> io::Result<()> {
    is_a_failure_of(Fault::TruncateNoTcp, |kind| {
        let kinds = [
            ResolveErrorKind::Truncated,
            ResolveErrorKind::Network,
            ResolveErrorKind::Timeout,
            ResolveErrorKind::Malformed,
        ];
        kinds.contains(&kind)
    })
    .await
}

#[tokio::test]
async fn a_loop_of_aliases_is_a_failure() -> io::Result<()> {
    is_a_failure(Fault::CnameLoop, ResolveErrorKind::BrokenChain).await
}

#[tokio::test]
async fn an_alias_without_a_target_is_a_failure() -> io::Result<()> {
    is_a_failure(Fault::CnameToNowhere, ResolveErrorKind::BrokenChain).await
}

#[tokio::test]
async fn a_referral_is_a_failure() -> io::Result<()> {
    is_a_failure(Fault::Referral, ResolveErrorKind::Malformed).await
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_denied() -> io::Result<()> {
    is_a_denial(
        Fault::Rcode(ResponseCode::NXDomain),
        ResolveErrorKind::NxDomain,
    )
    .await
}

#[tokio::test]
async fn no_data_is_a_denial() -> io::Result<()> {
    is_a_denial(Fault::NoData, ResolveErrorKind::NoData).await
}

#[tokio::test]
async fn no_data_without_an_soa_is_a_denial() -> io::Result<()> {
    is_a_denial(Fault::NoDataWithoutSoa, ResolveErrorKind::NoData).await
}

#[tokio::test]
async fn a_denial_is_valid_for_the_ttl_of_its_soa() -> io::Result<()> {
    let with_soa = outcome(Fault::NoData).await?;
    let ttl = with_soa.map_err(|error| error.negative_ttl());
    assert_eq!(ttl, Err(Some(Duration::from_secs(30))));
    let without = outcome(Fault::NoDataWithoutSoa).await?;
    assert_eq!(without.map_err(|error| error.negative_ttl()), Err(None));
    Ok(())
}

#[tokio::test]
async fn a_denial_at_the_end_of_a_chain_is_valid_no_longer_than_the_chain() -> io::Result<()> {
    for follow in [true, false] {
        for (negative, cname, expected) in [
            (Some(30), 7, Some(7)),
            (Some(5), 7, Some(5)),
            (None, 7, Some(7)),
            // The denial is valid for 60 s, as without an alias.
            (None, 3600, Some(60)),
        ] {
            let dns = DnsServer::start().await?;
            dns.set_negative_ttl(negative);
            dns.set_cname(HOST, 3600, "alias.example");
            dns.set_cname("alias.example", cname, "end.example");
            dns.set("end.example", 60, &[V6]);
            dns.follow_cnames(follow);
            let question = Question {
                host: host_name(HOST),
                family: Family::V4,
            };
            let denied = within(dns.resolver().resolve(question)).await;
            let denied = denied.map_err(|error| (error.kind(), error.negative_ttl()));
            let expected = expected.map(Duration::from_secs);
            assert_eq!(denied, Err((ResolveErrorKind::NoData, expected)));
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_truncated_answer_is_fetched_over_tcp() -> io::Result<()> {
    is_an_answer(Fault::TruncateUdp).await
}

#[tokio::test]
async fn a_server_that_forgets_the_spelling_still_answers() -> io::Result<()> {
    is_an_answer(Fault::LowerCaseEcho).await
}

#[tokio::test]
async fn an_answer_after_400_ms_is_used() -> io::Result<()> {
    is_an_answer(Fault::Delay(Duration::from_millis(450))).await
}

#[tokio::test]
async fn an_answer_after_more_than_a_second_is_used() -> io::Result<()> {
    is_an_answer(Fault::Delay(Duration::from_millis(1200))).await
}

#[tokio::test]
async fn an_answer_that_takes_longer_than_2_s_is_a_failure() -> io::Result<()> {
    is_a_failure(
        Fault::Delay(Duration::from_secs(4)),
        ResolveErrorKind::Timeout,
    )
    .await
}

#[tokio::test]
async fn an_answer_of_records_off_the_chain_only_is_a_failure() -> io::Result<()> {
    let dns = two_hosts().await?;
    let list = known(&dns).await;

    plant_off_the_chain(&dns)?;
    dns.set(HOST, 1, &[]);
    let family = failing(&list).await;

    assert_eq!(kind_of(&family), Some(ResolveErrorKind::BrokenChain));
    assert_rejected(&list, PLANTED, RejectionKind::NotListed);
    still_known(&list);
    Ok(())
}

#[tokio::test]
async fn an_answer_of_4000_addresses_is_refused_whole() -> io::Result<()> {
    let log = Log::capture();
    let dns = two_hosts().await?;
    let list = known(&dns).await;

    let crowd = crowd(4000);
    dns.set(HOST, 1, &crowd);
    let family = failing(&list).await;

    assert_eq!(kind_of(&family), Some(ResolveErrorKind::TooManyAddresses));
    for peer in [crowd[0], crowd[255], crowd[3999]] {
        assert_rejected(&list, peer, RejectionKind::NotListed);
    }
    still_known(&list);
    assert_eq!(log.lines("WARN", &["too-many-addresses", HOST]).len(), 1);
    Ok(())
}

#[tokio::test]
async fn an_answer_of_256_addresses_is_accepted_whole() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    let crowd = crowd(256);
    dns.set(HOST, 60, &crowd);
    let list = tiny_list(&[HOST]).spawn(dns.resolver());
    within(list.ready()).await;
    assert!(crowd.iter().all(|peer| list.verdict(*peer).is_allowed()));
    Ok(())
}

#[tokio::test]
async fn an_answer_of_257_addresses_is_refused_whole() -> io::Result<()> {
    let dns = two_hosts().await?;
    let list = known(&dns).await;
    let crowd = crowd(257);
    dns.set(HOST, 1, &crowd);
    let family = failing(&list).await;

    assert_eq!(kind_of(&family), Some(ResolveErrorKind::TooManyAddresses));
    for peer in &crowd {
        assert_rejected(&list, *peer, RejectionKind::NotListed);
    }
    still_known(&list);
    Ok(())
}

#[tokio::test]
async fn a_ttl_of_zero_is_refreshed_once_per_interval_floor() -> io::Result<()> {
    asked_once_a_floor(0).await
}

#[tokio::test]
async fn a_ttl_with_the_top_bit_set_is_refreshed_once_per_interval_floor() -> io::Result<()> {
    asked_once_a_floor(1 << 31).await
}

#[tokio::test]
async fn the_greatest_ttl_is_clamped_to_the_bound() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, (1 << 31) - 1, &[KNOWN]);
    let second = Duration::from_secs(1);
    let list = tiny_list(&[HOST])
        .ttl_bounds(second, second)
        .map_err(io::Error::other)?
        .spawn(dns.resolver());
    within(list.ready()).await;

    within(dns.asked_at_least(HOST, RecordType::A, 2)).await;

    let ttl = list.health()[0].families[0].ttl;
    assert_eq!(ttl, Some(Duration::from_secs((1 << 31) - 1)));
    Ok(())
}

#[tokio::test]
async fn special_addresses_are_dropped_from_an_answer() -> io::Result<()> {
    let log = Log::capture();
    let dns = DnsServer::start().await?;
    let public = IpAddr::from([51, 105, 122, 55]);
    let mut addresses = vec![public];
    addresses.extend(SPECIAL.map(IpAddr::from));
    dns.set(HOST, 60, &addresses);
    let list = strict(&dns);
    within(list.ready()).await;

    assert!(list.verdict(public).is_allowed());
    for special in SPECIAL.map(IpAddr::from) {
        assert!(!list.verdict(special).is_allowed(), "{special}");
    }
    let health = list.health();
    assert_eq!(health[0].families[0].dropped.len(), SPECIAL.len());
    assert_eq!(health[0].addresses.len(), 1);
    assert_eq!(log.lines("WARN", &["special-purpose", HOST]).len(), 1);
    Ok(())
}

#[tokio::test]
async fn an_answer_of_special_addresses_only_is_a_failure() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &SPECIAL.map(IpAddr::from));
    let list = strict(&dns);
    within(list.attempted()).await;

    let family = list.health().remove(0).families[0].clone();
    assert_eq!(family.state, QuestionStatus::Failing);
    assert_eq!(
        kind_of(&family),
        Some(ResolveErrorKind::OnlySpecialAddresses)
    );
    for special in SPECIAL.map(IpAddr::from) {
        assert_rejected(&list, special, RejectionKind::Unresolved);
    }
    assert!(!list.is_ready());
    Ok(())
}

#[tokio::test]
async fn aaaa_records_synthesized_by_a_dns64_are_treated_as_no_record() -> io::Result<()> {
    let public = IpAddr::from([51, 105, 122, 55]);
    let native: IpAddr = "2a01:111::7".parse().map_err(io::Error::other)?;
    for made_up in [
        "64:ff9b::3369:7a37",
        // This address embeds an IPv4 address that the A answer lacks, as after a rotation.
        "64:ff9b::92d:11c7",
        "64:ff9b:1::3369:7a37",
    ] {
        let made_up: IpAddr = made_up.parse().map_err(io::Error::other)?;
        let log = Log::capture();
        let dns = DnsServer::start().await?;
        dns.set(HOST, 60, &[public, made_up]);
        let list = strict(&dns);
        within(list.ready()).await;

        let health = list.health();
        assert_eq!(health[0].families[0].state, QuestionStatus::Answered);
        assert_eq!(health[0].families[1].state, QuestionStatus::Denied);
        assert!(health[0].families[1].dropped.is_empty());
        assert!(list.verdict(public).is_allowed());
        assert_rejected(&list, made_up, RejectionKind::NotListed);
        assert_rejected(&list, V6, RejectionKind::NotListed);
        assert!(log.lines("WARN", &[]).is_empty());

        // If the answer also has a genuine record, the synthesized record is dropped without a log line.
        dns.set(HOST, 60, &[public, native, made_up]);
        let list = strict(&dns);
        within(list.ready()).await;
        let health = list.health();
        assert_eq!(health[0].families[1].state, QuestionStatus::Answered);
        assert!(health[0].families[1].dropped.is_empty());
        assert!(list.verdict(native).is_allowed());
        assert_rejected(&list, made_up, RejectionKind::NotListed);

        // The synthesized record is dropped even if the list accepts special-purpose addresses.
        let list = tiny_list(&[HOST]).spawn(dns.resolver());
        within(list.ready()).await;
        assert_rejected(&list, made_up, RejectionKind::NotListed);
    }
    Ok(())
}

/// Synthesized records show that the DNS64 got an answer to the A question, but the list did not get an answer to it.
#[tokio::test]
async fn synthesized_aaaa_records_without_a_records_leave_ipv6_undecided() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    let made_up = "64:ff9b::3369:7a37".parse().map_err(io::Error::other)?;
    dns.set(HOST, 60, &[made_up]);
    dns.set_fault((HOST, RecordType::A), Fault::Rcode(ResponseCode::ServFail));
    let list = strict(&dns);
    within(list.attempted()).await;
    assert_rejected(&list, V6, RejectionKind::Unresolved);
    assert_rejected(&list, made_up, RejectionKind::Unresolved);
    assert!(!list.is_ready());
    Ok(())
}

#[tokio::test]
async fn a_mapped_private_address_in_an_aaaa_record_is_dropped() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    let mapped = Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped();
    dns.set(HOST, 60, &[IpAddr::from([51, 105, 122, 55]), mapped.into()]);
    let list = strict(&dns);
    within(list.attempted()).await;

    assert!(!list.verdict(mapped.into()).is_allowed());
    assert!(!list.verdict([10, 0, 0, 1].into()).is_allowed());
    assert!(list.verdict([51, 105, 122, 55].into()).is_allowed());
    Ok(())
}

#[tokio::test]
async fn a_failing_aaaa_does_not_hurt_ipv4_servers() -> io::Result<()> {
    for code in [ResponseCode::ServFail, ResponseCode::Refused] {
        let dns = DnsServer::start().await?;
        dns.set(HOST, 1, &[KNOWN]);
        dns.set_fault((HOST, RecordType::AAAA), Fault::Rcode(code));
        let list = tiny_list(&[HOST]).spawn(dns.resolver());
        within(list.attempted()).await;
        assert!(list.is_ready());
        // The same must hold after a refresh.
        within(dns.asked_at_least(HOST, RecordType::A, 2)).await;

        let verdict = list.verdict(KNOWN);
        let freshness = verdict.allowed().map(|allowed| allowed.freshness());
        assert_eq!(freshness, Some(Freshness::Fresh));
        assert_rejected(&list, UNLISTED, RejectionKind::NotListed);
        assert_rejected(&list, V6, RejectionKind::Unresolved);
        let health = list.health();
        assert_eq!(health[0].families[0].state, QuestionStatus::Answered);
        assert_eq!(health[0].families[1].state, QuestionStatus::Failing);
    }
    Ok(())
}

#[tokio::test]
async fn a_failing_a_does_not_hurt_ipv6_servers() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 1, &[KNOWN, V6]);
    let list = tiny_list(&[HOST]).spawn(dns.resolver());
    within(list.ready()).await;

    dns.set_fault((HOST, RecordType::A), Fault::Rcode(ResponseCode::ServFail));
    failing(&list).await;
    dns.clear_log();
    within(dns.asked_at_least(HOST, RecordType::AAAA, 2)).await;

    let freshness = |peer| {
        list.verdict(peer)
            .allowed()
            .map(|allowed| allowed.freshness())
    };
    assert_eq!(freshness(V6), Some(Freshness::Fresh));
    assert_eq!(freshness(KNOWN), Some(Freshness::Stale));
    Ok(())
}

#[tokio::test]
async fn the_list_recovers_fully_when_a_fault_ends() -> io::Result<()> {
    let log = Log::capture();
    let dns = two_hosts().await?;
    let list = known(&dns).await;
    let question = (HOST, RecordType::A);
    dns.set_fault(question, Fault::Rcode(ResponseCode::ServFail));
    failing(&list).await;

    dns.clear_faults();
    until(|| list.health()[0].families[0].state == QuestionStatus::Answered).await;

    let family = list.health().remove(0).families[0].clone();
    assert!(family.last_error.is_none() && family.failing_since.is_none());
    let verdict = list.verdict(KNOWN);
    let freshness = verdict.allowed().map(|allowed| allowed.freshness());
    assert_eq!(freshness, Some(Freshness::Fresh));
    assert_eq!(log.lines("WARN", &["lookup failed", "servfail"]).len(), 1);
    assert_eq!(log.lines("INFO", &["lookup works again"]).len(), 1);
    Ok(())
}

/// Asserts that this fault causes a failure, which removes no address and admits no peer.
async fn is_a_failure(fault: Fault, expected: ResolveErrorKind) -> io::Result<()> {
    is_a_failure_of(fault, |kind| kind == expected).await
}

async fn is_a_failure_of(
    fault: Fault,
    expected: impl Fn(ResolveErrorKind) -> bool,
) -> io::Result<()> {
    let later = async {
        let dns = two_hosts().await?;
        let list = known(&dns).await;
        dns.set(HOST, 1, &[PLANTED]);
        dns.set_fault((HOST, RecordType::A), fault);
        let family = failing(&list).await;

        assert_eq!(family.state, QuestionStatus::Failing);
        assert!(kind_of(&family).is_some_and(&expected), "{family:?}");
        assert_eq!(family.addresses, [KNOWN]);
        still_known(&list);
        assert_rejected(&list, PLANTED, RejectionKind::NotListed);
        assert_rejected(&list, UNLISTED, RejectionKind::NotListed);
        io::Result::Ok(())
    };
    let from_the_start = async {
        let dns = two_hosts().await?;
        dns.set(HOST, 1, &[PLANTED]);
        dns.set_fault((HOST, RecordType::A), fault);
        let list = tiny_list(&[HOST, OTHER]).spawn(dns.resolver());
        within(list.attempted()).await;

        let family = list.health().remove(0).families[0].clone();
        assert_eq!(family.state, QuestionStatus::Failing);
        assert!(kind_of(&family).is_some_and(&expected), "{family:?}");
        for peer in [KNOWN, PLANTED, UNLISTED] {
            assert_rejected(&list, peer, RejectionKind::Unresolved);
        }
        assert!(list.verdict(NEIGHBOUR).is_allowed());
        assert!(
            list.is_ready(),
            "one failing host must not make a replica unready"
        );
        io::Result::Ok(())
    };
    let direct = async {
        let failed = outcome(fault).await?.map_err(|error| error.kind());
        assert!(
            failed.as_ref().is_err_and(|kind| expected(*kind)),
            "{failed:?}"
        );
        io::Result::Ok(())
    };
    let (later, from_the_start, direct) = tokio::join!(later, from_the_start, direct);
    later.and(from_the_start).and(direct)
}

/// Asserts that this fault causes a denial. The denial is believed while another host has an answer, and the old
/// address lingers.
async fn is_a_denial(fault: Fault, expected: ResolveErrorKind) -> io::Result<()> {
    let later = async {
        let dns = two_hosts().await?;
        let list = known(&dns).await;
        dns.set(HOST, 1, &[PLANTED]);
        dns.set_fault((HOST, RecordType::A), fault);
        until(|| list.health()[0].families[0].state == QuestionStatus::Denied).await;

        let verdict = list.verdict(KNOWN);
        let freshness = verdict.allowed().map(|allowed| allowed.freshness());
        assert_eq!(freshness, Some(Freshness::Lingering));
        assert!(list.verdict(NEIGHBOUR).is_allowed());
        assert_rejected(&list, PLANTED, RejectionKind::NotListed);
        assert_rejected(&list, UNLISTED, RejectionKind::NotListed);
        io::Result::Ok(())
    };
    let alone = async {
        let dns = DnsServer::start().await?;
        dns.set(HOST, 1, &[KNOWN]);
        let list = tiny_list(&[HOST]).spawn(dns.resolver());
        within(list.ready()).await;
        dns.set_fault((HOST, RecordType::A), fault);
        let family = failing(&list).await;

        assert_eq!(kind_of(&family), Some(expected));
        still_known_of(&list, KNOWN);
        io::Result::Ok(())
    };
    let direct = async {
        let failed = outcome(fault).await?.map_err(|error| error.kind());
        assert_eq!(failed, Err(expected));
        io::Result::Ok(())
    };
    let (later, alone, direct) = tokio::join!(later, alone, direct);
    later.and(alone).and(direct)
}

async fn is_an_answer(fault: Fault) -> io::Result<()> {
    let answer = outcome(fault).await?.map_err(io::Error::other)?;
    assert_eq!(answer.addresses(), [PLANTED]);
    let dns = two_hosts().await?;
    dns.set_fault((HOST, RecordType::A), fault);
    let list = tiny_list(&[HOST, OTHER]).spawn(dns.resolver());
    within(list.ready()).await;
    assert!(list.verdict(KNOWN).is_allowed());
    assert_eq!(list.health()[0].families[0].state, QuestionStatus::Answered);
    Ok(())
}

async fn asked_once_a_floor(ttl: u32) -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, ttl, &[KNOWN]);
    let list = tiny_list(&[HOST]).spawn(dns.resolver());
    within(list.ready()).await;
    within(dns.asked_at_least(HOST, RecordType::A, 3)).await;

    assert!(list.verdict(KNOWN).is_allowed());
    let asked = dns.questions();
    let times = asked
        .iter()
        .filter(|asked| asked.record_type == RecordType::A);
    let times: Vec<_> = times.map(|asked| asked.at).collect();
    for pair in times.windows(2) {
        // The test measures the arrivals of questions. The network can shorten the interval between two arrivals.
        assert!(pair[1] - pair[0] >= Duration::from_millis(900), "{times:?}");
    }
    Ok(())
}

/// Returns the result of the resolver for a faulty answer that contains [`PLANTED`].
async fn outcome(fault: Fault) -> io::Result<Result<Answer, ResolveError>> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[PLANTED]);
    dns.set_fault((HOST, RecordType::A), fault);
    let question = Question {
        host: host_name(HOST),
        family: Family::V4,
    };
    Ok(within(dns.resolver().resolve(question)).await)
}

async fn two_hosts() -> io::Result<DnsServer> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 1, &[KNOWN]);
    dns.set(OTHER, 1, &[NEIGHBOUR]);
    Ok(dns)
}

async fn known(dns: &DnsServer) -> AllowList {
    let list = tiny_list(&[HOST, OTHER]).spawn(dns.resolver());
    within(list.ready()).await;
    assert!(list.verdict(KNOWN).is_allowed() && list.verdict(NEIGHBOUR).is_allowed());
    list
}

/// Creates a list that drops special-purpose addresses.
fn strict(dns: &DnsServer) -> AllowList {
    AllowList::builder()
        .host(host_name(HOST))
        .spawn(dns.resolver())
}

/// Waits until the A question of the first host has failed.
async fn failing(list: &AllowList) -> FamilyHealth {
    until(|| list.health()[0].families[0].last_error.is_some()).await;
    list.health().remove(0).families[0].clone()
}

fn kind_of(family: &FamilyHealth) -> Option<ResolveErrorKind> {
    family.last_error.as_ref().map(ResolveError::kind)
}

fn still_known(list: &AllowList) {
    still_known_of(list, KNOWN);
    still_known_of(list, NEIGHBOUR);
}

fn still_known_of(list: &AllowList, peer: IpAddr) {
    let verdict = list.verdict(peer);
    let freshness = verdict.allowed().map(|allowed| allowed.freshness());
    let good = [Some(Freshness::Fresh), Some(Freshness::Stale)];
    assert!(good.contains(&freshness), "{verdict:?}");
}

fn plant_off_the_chain(dns: &DnsServer) -> io::Result<()> {
    let mut owner = Name::from_ascii("evil.example").map_err(io::Error::other)?;
    owner.set_fqdn(true);
    let record = Record::from_rdata(owner, 60, PLANTED.into());
    dns.append(HOST, RecordType::A, record);
    Ok(())
}

fn crowd(count: u32) -> Vec<IpAddr> {
    let first = u32::from(Ipv4Addr::new(127, 9, 0, 0));
    (first..first + count)
        .map(|bits| Ipv4Addr::from(bits).into())
        .collect()
}

const SPECIAL: [[u8; 4]; 12] = [
    [0, 0, 0, 0],
    [10, 0, 0, 1],
    [100, 64, 0, 1],
    [127, 0, 0, 1],
    [169, 254, 169, 254],
    [172, 16, 0, 1],
    [192, 0, 2, 1],
    [192, 168, 1, 1],
    [198, 18, 0, 1],
    [203, 0, 113, 1],
    [224, 0, 0, 1],
    [255, 255, 255, 255],
];
