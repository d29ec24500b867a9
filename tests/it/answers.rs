//! Tests of the addresses and the TTL of an answer.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use callback_source::{AllowList, Resolve};
use callback_source_testkit::dns::{DnsServer, Name, RData, Record, RecordType};
use integration_tests::{merchant::tiny_list, within};

use crate::common::{HOST, ONE, TWO, UNLISTED, a};

const SIX: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 6));

#[tokio::test]
async fn all_addresses_of_a_name_are_admitted() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    let many: Vec<IpAddr> = (1..=30).map(|last| [127, 0, 2, last].into()).collect();
    dns.set(HOST, 60, &many);
    let list = known(&dns).await;

    assert!(many.iter().all(|peer| list.verdict(*peer).is_allowed()));
    assert!(!list.verdict([127, 0, 2, 31].into()).is_allowed());
    Ok(())
}

#[tokio::test]
async fn both_families_of_a_name_are_admitted() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[ONE, SIX]);
    let list = known(&dns).await;

    assert!(list.verdict(ONE).is_allowed() && list.verdict(SIX).is_allowed());
    assert_eq!(list.snapshot().addresses(now()).len(), 2);
    Ok(())
}

#[tokio::test]
async fn an_aaaa_record_with_a_mapped_address_is_the_ipv4_address() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(
        HOST,
        60,
        &[Ipv4Addr::new(127, 0, 1, 1).to_ipv6_mapped().into()],
    );
    let list = known(&dns).await;

    assert!(list.verdict(ONE).is_allowed());
    Ok(())
}

#[tokio::test]
async fn an_alias_chain_in_one_answer_is_followed() -> io::Result<()> {
    let dns = chain().await?;
    let list = known(&dns).await;

    assert!(list.verdict(ONE).is_allowed());
    assert_eq!(dns.count("b.example", RecordType::A), 0);
    assert_eq!(dns.count("c.example", RecordType::A), 0);
    Ok(())
}

#[tokio::test]
async fn an_alias_without_its_target_is_followed_by_another_question() -> io::Result<()> {
    let dns = chain().await?;
    dns.follow_cnames(false);
    let list = known(&dns).await;

    assert!(list.verdict(ONE).is_allowed());
    assert_eq!(list.health()[0].families[0].ttl, Some(secs(5)));
    assert_eq!(dns.count("b.example", RecordType::A), 1);
    assert_eq!(dns.count("c.example", RecordType::A), 1);
    Ok(())
}

#[tokio::test]
async fn the_ttl_is_the_lowest_along_the_chain() -> io::Result<()> {
    let dns = chain().await?;
    assert_eq!(ttl(&dns).await, secs(5));

    dns.set_cname(HOST, 500, "b.example");
    assert_eq!(ttl(&dns).await, secs(9));

    dns.set_records("c.example", &[(7, ONE), (300, TWO)]);
    assert_eq!(ttl(&dns).await, secs(7));

    dns.follow_cnames(false);
    assert_eq!(ttl(&dns).await, secs(7));
    Ok(())
}

#[tokio::test]
async fn a_ttl_with_the_top_bit_set_is_zero() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    for (sent, understood) in [
        (0, 0),
        (1, 1),
        ((1 << 31) - 1, (1 << 31) - 1),
        (1 << 31, 0),
        (u32::MAX, 0),
    ] {
        dns.set(HOST, sent, &[ONE]);
        assert_eq!(ttl(&dns).await, secs(understood), "{sent}");
    }
    dns.set_cname(HOST, 1 << 31, "b.example");
    dns.set("b.example", 300, &[ONE]);
    assert_eq!(ttl(&dns).await, secs(0));
    Ok(())
}

#[tokio::test]
async fn eight_aliases_are_followed_but_not_nine() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    for at in 0..9 {
        dns.set_cname(
            &format!("n{at}.example"),
            60,
            &format!("n{}.example", at + 1),
        );
    }
    dns.set("n9.example", 60, &[ONE]);
    for follow in [true, false] {
        dns.follow_cnames(follow);
        let eight = within(dns.resolver().resolve(a("n1.example"))).await;
        assert_eq!(eight.map_err(io::Error::other)?.addresses(), [ONE]);
        let nine = within(dns.resolver().resolve(a("n0.example"))).await;
        assert!(nine.is_err_and(|error| error.kind().as_str() == "broken-chain"));
    }
    Ok(())
}

#[tokio::test]
async fn the_case_of_names_does_not_matter() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set_cname("CALLBACK-1.Example", 60, "Target.EXAMPLE");
    dns.set("tARGET.example", 60, &[ONE]);
    let list = tiny_list(&["Callback-1.eXAMPLE."]).spawn(dns.resolver());
    within(list.ready()).await;

    assert!(list.verdict(ONE).is_allowed());
    assert_eq!(list.health()[0].host.as_str(), HOST);
    Ok(())
}

#[tokio::test]
async fn records_of_other_owners_are_ignored() -> io::Result<()> {
    let dns = chain().await?;
    for owner in ["evil.example", "example", "d.callback-1.example"] {
        let record = Record::from_rdata(name(owner)?, 60, UNLISTED.into());
        dns.append(HOST, RecordType::A, record);
    }
    let list = known(&dns).await;

    assert!(list.verdict(ONE).is_allowed());
    assert!(!list.verdict(UNLISTED).is_allowed());
    assert_eq!(list.health()[0].addresses.len(), 1);
    Ok(())
}

#[tokio::test]
async fn addresses_of_the_other_family_are_ignored() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[ONE]);
    dns.append(
        HOST,
        RecordType::A,
        Record::from_rdata(name(HOST)?, 60, SIX.into()),
    );
    let list = known(&dns).await;

    assert!(list.verdict(ONE).is_allowed());
    assert!(!list.verdict(SIX).is_allowed());
    Ok(())
}

#[tokio::test]
async fn records_of_another_type_are_ignored() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[ONE]);
    let text = RData::TXT(hickory_txt("v=spf1 ip4:127.0.66.6 -all"));
    dns.append(
        HOST,
        RecordType::A,
        Record::from_rdata(name(HOST)?, 1, text),
    );
    let list = known(&dns).await;

    assert!(list.verdict(ONE).is_allowed());
    assert!(!list.verdict(UNLISTED).is_allowed());
    Ok(())
}

/// Starts a server with a chain of two aliases that ends at [`ONE`]. The TTLs are 5, 9 and 300 s.
async fn chain() -> io::Result<DnsServer> {
    let dns = DnsServer::start().await?;
    dns.set_cname(HOST, 5, "b.example");
    dns.set_cname("b.example", 9, "c.example");
    dns.set("c.example", 300, &[ONE]);
    Ok(dns)
}

async fn known(dns: &DnsServer) -> AllowList {
    let list = tiny_list(&[HOST]).spawn(dns.resolver());
    within(list.ready()).await;
    list
}

async fn ttl(dns: &DnsServer) -> Duration {
    let answer = within(dns.resolver().resolve(a(HOST))).await;
    answer.expect("the server answers").ttl()
}

fn name(text: &str) -> io::Result<Name> {
    let mut name = Name::from_ascii(text).map_err(io::Error::other)?;
    name.set_fqdn(true);
    Ok(name)
}

fn hickory_txt(text: &str) -> hickory_proto::rr::rdata::TXT {
    hickory_proto::rr::rdata::TXT::new(vec![text.to_owned()])
}

fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
