//! Tests with real DNS servers: unbound in front of knot, and nsd.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use callback_source::{
    AllowList, AllowListBuilder, Family, Freshness, HickoryResolver, ResolveErrorKind,
    set::{FamilyHealth, QuestionStatus},
    vipps::Environment,
};
use integration_tests::{
    merchant::{Merchant, tiny_list},
    name_servers::{Knot, Nsd, Unbound, ZONE, dig, dig_addresses},
    servers, until, within,
};
use tokio::{net::UdpSocket, time::Instant};

#[tokio::test]
async fn a_rotation_reaches_the_layer_within_the_ttl_a_second_and_the_jitter() -> io::Result<()> {
    let Some(knot) = Knot::start(&records()).await? else {
        return Ok(());
    };
    let list = production().spawn(ask([knot.addr()]));
    within(list.ready()).await;
    let merchant = Merchant::start(list.clone()).await?;
    for rotation in 1..=4 {
        let took = rotate(&knot, &list, rotation).await?;
        assert!(took < TTL + SECOND + SLACK, "rotation {rotation}: {took:?}");
        let reply = merchant.post(new(rotation), &[], b"").await?;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("x-host"), Some("callback-1.vipps.no"));
    }
    assert_lingering(&merchant, &list).await
}

/// unbound measures the age of a record in whole seconds. It therefore serves a record for up to a second longer than
/// its TTL.
#[tokio::test]
async fn a_rotation_behind_a_resolver_reaches_the_layer_within_the_same_time() -> io::Result<()> {
    let Some((knot, unbound)) = knot_and_unbound().await? else {
        return Ok(());
    };
    let list = production().spawn(ask([unbound.addr()]));
    within(list.ready()).await;
    let merchant = Merchant::start(list.clone()).await?;
    for rotation in 1..=4 {
        let took = rotate(&knot, &list, rotation).await?;
        assert!(took < TTL + SECOND + SLACK, "rotation {rotation}: {took:?}");
        assert_eq!(merchant.post(new(rotation), &[], b"").await?.status, 200);
    }
    assert_lingering(&merchant, &list).await
}

/// Changes the address of the first host. Returns the time until the list admits the new address.
async fn rotate(knot: &Knot, list: &AllowList, rotation: u8) -> io::Result<Duration> {
    // The age of the old answer at the rotation. It differs between two rotations by a third of the TTL.
    let age = Duration::from_millis(330) * u32::from(rotation);
    until(|| {
        let answered = of(list, "callback-1.vipps.no").and_then(|of| of.answered_at);
        answered.is_some_and(|at| age <= Instant::from_std(at).elapsed())
    })
    .await;
    let (seconds, new) = (TTL.as_secs(), new(rotation));
    let change = format!(
        "update delete callback-1.{ZONE}. A\nupdate add callback-1.{ZONE}. {seconds} A {new}"
    );
    knot.update(&change).await?;
    let updated = Instant::now();
    until(|| list.verdict(new).is_allowed()).await;
    let took = updated.elapsed();
    eprintln!("rotation {rotation}: known after {took:?}");
    Ok(took)
}

async fn assert_lingering(merchant: &Merchant, list: &AllowList) -> io::Result<()> {
    let verdict = list.verdict(own(1));
    let freshness = verdict.allowed().map(|allowed| allowed.freshness());
    assert_eq!(freshness, Some(Freshness::Lingering));
    assert_eq!(merchant.post(own(1), &[], b"").await?.status, 200);
    assert_eq!(merchant.post(own(2), &[], b"").await?.status, 200);
    assert_eq!(merchant.post(new(9), &[], b"").await?.status, 403);
    Ok(())
}

#[tokio::test]
async fn an_authority_that_is_down_refuses_no_callback() -> io::Result<()> {
    let Some((mut knot, unbound)) = knot_and_unbound().await? else {
        return Ok(());
    };
    let list = production().spawn(ask([unbound.addr()]));
    within(list.ready()).await;
    let merchant = Merchant::start(list.clone()).await?;

    knot.stop();
    until(|| all_are(&list, QuestionStatus::Failing)).await;
    for number in 1..=8 {
        assert_eq!(merchant.post(own(number), &[], b"").await?.status, 200);
        let verdict = list.verdict(own(number));
        let freshness = verdict.allowed().map(|allowed| allowed.freshness());
        assert_eq!(freshness, Some(Freshness::Stale));
    }
    assert_eq!(merchant.post(new(9), &[], b"").await?.status, 403);

    knot.restart().await?;
    let change = format!("update add callback-1.{ZONE}. 1 A {}", new(1));
    knot.update(&change).await?;
    until(|| list.verdict(new(1)).is_allowed()).await;
    until(|| all_are(&list, QuestionStatus::Answered)).await;
    assert_eq!(merchant.post(new(1), &[], b"").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_resolver_that_is_down_refuses_no_callback() -> io::Result<()> {
    let Some((knot, mut unbound)) = knot_and_unbound().await? else {
        return Ok(());
    };
    let list = production().spawn(ask([unbound.addr()]));
    within(list.ready()).await;
    let merchant = Merchant::start(list.clone()).await?;

    unbound.stop();
    until(|| all_are(&list, QuestionStatus::Failing)).await;
    for number in 1..=8 {
        assert_eq!(merchant.post(own(number), &[], b"").await?.status, 200);
    }
    let change = format!("update add callback-1.{ZONE}. 1 A {}", new(1));
    knot.update(&change).await?;

    unbound.restart().await?;
    until(|| list.verdict(new(1)).is_allowed()).await;
    until(|| all_are(&list, QuestionStatus::Answered)).await;
    assert_eq!(merchant.post(new(1), &[], b"").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn one_good_resolver_of_two_is_enough() -> io::Result<()> {
    let Some((knot, good)) = knot_and_unbound().await? else {
        return Ok(());
    };
    let localhost = Ipv4Addr::LOCALHOST.into();
    let silent = servers::on_free_port(localhost, UdpSocket::bind).await?;
    let bad = silent.local_addr()?;
    let list = production().spawn(ask([bad, good.addr()]));
    within(list.ready()).await;
    assert!(list.verdict(own(1)).is_allowed());

    let change = format!("update add callback-1.{ZONE}. 1 A {}", new(1));
    knot.update(&change).await?;
    until(|| list.verdict(new(1)).is_allowed()).await;
    assert!(all_are(&list, QuestionStatus::Answered));

    drop(silent);
    let Some(failing) = Unbound::start_failing(bad, knot.addr()).await? else {
        return Ok(());
    };
    let header = dig(failing.addr(), &["callback-1.vipps.no", "A"]).await?;
    assert!(header.contains("status: SERVFAIL"), "{header}");
    let change = format!("update add callback-2.{ZONE}. 1 A {}", new(2));
    knot.update(&change).await?;
    let updated = Instant::now();
    until(|| list.verdict(new(2)).is_allowed()).await;
    let took = updated.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(all_are(&list, QuestionStatus::Answered));
    Ok(())
}

#[tokio::test]
async fn a_host_that_is_withdrawn_lingers_and_is_removed() -> io::Result<()> {
    let Some((knot, unbound)) = knot_and_unbound().await? else {
        return Ok(());
    };
    let list = production()
        .linger(Duration::from_secs(2))
        .spawn(ask([unbound.addr()]));
    within(list.ready()).await;
    let merchant = Merchant::start(list.clone()).await?;

    knot.update(&format!("update delete callback-4.{ZONE}. A"))
        .await?;
    until(|| state(&list, "callback-4.vipps.no") == Some(QuestionStatus::Denied)).await;
    until(|| !list.verdict(own(4)).is_allowed()).await;
    assert_eq!(merchant.post(own(4), &[], b"").await?.status, 403);
    assert_eq!(merchant.post(own(3), &[], b"").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_zone_without_its_names_removes_no_address() -> io::Result<()> {
    let Some((knot, unbound)) = knot_and_unbound().await? else {
        return Ok(());
    };
    let list = production()
        .linger(Duration::from_secs(1))
        .spawn(ask([unbound.addr()]));
    within(list.ready()).await;
    let merchant = Merchant::start(list.clone()).await?;

    let gone = Environment::Production.hosts();
    let gone: String = gone
        .map(|host| format!("update delete {host}.\n"))
        .collect();
    knot.update(&gone).await?;
    until(|| {
        let health = list.health();
        let mut questions = health.iter().map(|host| &host.families[0]);
        questions.all(|of| {
            let error = of.last_error.as_ref().map(|error| error.kind());
            of.state == QuestionStatus::Failing && error == Some(ResolveErrorKind::NxDomain)
        })
    })
    .await;
    // The questions fail for longer than an address would linger.
    until(|| {
        let health = list.health();
        let mut since = health.iter().map(|host| host.families[0].failing_since);
        since
            .all(|since| since.is_some_and(|since| 2 * SECOND < Instant::from_std(since).elapsed()))
    })
    .await;
    for number in 1..=8 {
        assert_eq!(merchant.post(own(number), &[], b"").await?.status, 200);
    }
    Ok(())
}

#[tokio::test]
async fn an_authority_without_the_zone_removes_no_address() -> io::Result<()> {
    let Some((mut knot, unbound)) = knot_and_unbound().await? else {
        return Ok(());
    };
    let list = production()
        .linger(Duration::from_secs(1))
        .spawn(ask([unbound.addr()]));
    within(list.ready()).await;

    knot.restart_without_zone().await?;
    let refused = dig(knot.addr(), &["callback-1.vipps.no", "A"]).await?;
    assert!(refused.contains("status: REFUSED"), "{refused}");
    until(|| all_are(&list, QuestionStatus::Failing)).await;
    let kinds: Vec<_> = list
        .health()
        .iter()
        .filter_map(|host| host.families[0].last_error.as_ref())
        .map(|error| error.kind())
        .collect();
    assert!(
        kinds.contains(&ResolveErrorKind::ServFail),
        "a resolver answers so for a lame authority: {kinds:?}"
    );
    assert!((1..=8).all(|number| list.verdict(own(number)).is_allowed()));

    knot.restart().await?;
    until(|| all_are(&list, QuestionStatus::Answered)).await;
    Ok(())
}

#[tokio::test]
async fn a_large_answer_comes_over_tcp() -> io::Result<()> {
    let Some((knot, unbound)) = knot_and_unbound().await? else {
        return Ok(());
    };
    let many = (1..=200).map(|last| format!("update add callback-1.{ZONE}. 1 A 127.0.3.{last}\n"));
    knot.update(&many.collect::<String>()).await?;
    let over_udp = dig(unbound.addr(), &["+ignore", "callback-1.vipps.no", "A"]).await?;
    let flags = over_udp.lines().find(|line| line.contains("flags:"));
    assert!(
        flags.is_some_and(|flags| flags.contains(" tc")),
        "{over_udp}"
    );

    let list = production().spawn(ask([unbound.addr()]));
    within(list.ready()).await;
    for last in 1..=200 {
        let address = Ipv4Addr::new(127, 0, 3, last).into();
        assert!(list.verdict(address).is_allowed(), "{address}");
    }
    assert!(list.verdict(own(1)).is_allowed());
    Ok(())
}

#[tokio::test]
async fn a_resolver_without_udp_is_asked_over_tcp() -> io::Result<()> {
    let Some(knot) = Knot::start(&records()).await? else {
        return Ok(());
    };
    let Some(unbound) = Unbound::start_over_tcp(knot.addr()).await? else {
        return Ok(());
    };
    let list = production().spawn(ask([unbound.addr()]));
    within(list.ready()).await;
    for number in 1..=8 {
        assert!(list.verdict(own(number)).is_allowed());
    }
    let change = format!("update add callback-1.{ZONE}. 1 A {}", new(1));
    knot.update(&change).await?;
    until(|| list.verdict(new(1)).is_allowed()).await;
    assert!(all_are(&list, QuestionStatus::Answered));
    Ok(())
}

#[tokio::test]
async fn the_list_has_the_addresses_that_dig_prints() -> io::Result<()> {
    let Some((knot, unbound)) = knot_and_unbound().await? else {
        return Ok(());
    };
    let more = format!(
        "update add callback-1.{ZONE}. 1 A {}\n\
         update add callback-2.{ZONE}. 1 AAAA ::1\n\
         update delete callback-3.{ZONE}. A\n\
         update add callback-3.{ZONE}. 1 CNAME pool.{ZONE}.\n\
         update add pool.{ZONE}. 1 A {}\n\
         update delete callback-4.{ZONE}. A",
        new(1),
        new(3)
    );
    knot.update(&more).await?;
    let list = production().spawn(ask([unbound.addr()]));
    within(list.ready()).await;

    let names: Vec<_> = Environment::Production.hosts().collect();
    let by_dig = dig_addresses(unbound.addr(), names.iter().map(|name| name.as_str())).await?;
    let listed: Vec<_> = list
        .snapshot()
        .addresses(Instant::now().into_std())
        .into_iter()
        .collect();
    assert_eq!(listed, by_dig);
    assert!(listed.contains(&new(3)) && listed.contains(&"::1".parse().map_err(io::Error::other)?));
    assert_eq!(listed.len(), 9);
    Ok(())
}

#[tokio::test]
async fn a_list_follows_nsd_without_a_resolver_in_between() -> io::Result<()> {
    let Some(mut nsd) = Nsd::start(&records()).await? else {
        return Ok(());
    };
    let list = production().spawn(ask([nsd.addr()]));
    within(list.ready()).await;
    let merchant = Merchant::start(list.clone()).await?;
    for number in 1..=8 {
        assert_eq!(merchant.post(own(number), &[], b"").await?.status, 200);
    }
    nsd.replace(&records().replace(&own(1).to_string(), &new(1).to_string()))
        .await?;
    let replaced = Instant::now();
    until(|| list.verdict(new(1)).is_allowed()).await;
    assert!(replaced.elapsed() < TTL + SECOND + SLACK);
    assert_eq!(merchant.post(new(1), &[], b"").await?.status, 200);
    assert_eq!(merchant.post(new(9), &[], b"").await?.status, 403);
    Ok(())
}

async fn knot_and_unbound() -> io::Result<Option<(Knot, Unbound)>> {
    let Some(knot) = Knot::start(&records()).await? else {
        return Ok(None);
    };
    let unbound = Unbound::start(knot.addr()).await?;
    Ok(unbound.map(|unbound| (knot, unbound)))
}

/// Returns records with a different address for each host of production.
fn records() -> String {
    let hosts = Environment::Production.hosts().zip(1..);
    let record = hosts.map(|(host, number)| format!("{host}. 1 A {}\n", own(number)));
    record.collect()
}

fn production() -> AllowListBuilder {
    tiny_list(&[]).environment(Environment::Production)
}

fn ask(servers: impl IntoIterator<Item = std::net::SocketAddr>) -> HickoryResolver {
    HickoryResolver::from_servers(servers).expect("one server is given")
}

/// Returns the address of the host with this number.
fn own(number: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 1, number).into()
}

/// Returns an address that no host has initially.
fn new(number: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 2, number).into()
}

fn all_are(list: &AllowList, state: QuestionStatus) -> bool {
    let health = list.health();
    health
        .iter()
        .all(|host| host.families[Family::V4 as usize].state == state)
}

fn state(list: &AllowList, name: &str) -> Option<QuestionStatus> {
    of(list, name).map(|of| of.state)
}

/// Returns the status of the question for a host's IPv4 addresses.
fn of(list: &AllowList, name: &str) -> Option<FamilyHealth> {
    let health = list.health();
    let host = health.iter().find(|host| host.host.as_str() == name)?;
    Some(host.families[Family::V4 as usize].clone())
}

/// The TTL of each record, and the minimum TTL of the list under test.
const TTL: Duration = Duration::from_secs(1);
const SECOND: Duration = Duration::from_secs(1);
/// The jitter, which is a tenth of the TTL, plus the delay of a busy machine.
const SLACK: Duration = Duration::from_millis(400);
