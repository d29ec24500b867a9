//! Tests of the peers whose callbacks are admitted.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

#[cfg(target_os = "linux")]
use axum::Router;
#[cfg(target_os = "linux")]
use callback_source::verify::{ConnectInfoPeer, ForwardedPeer, TrustedProxies, VerifySourceLayer};
use callback_source::{AllowList, vipps::Environment};
use callback_source_testkit::dns::{DnsServer, RecordType};
use integration_tests::{
    http::{Client, Reply},
    merchant::{Merchant, tiny_list},
    within,
};

use crate::common::{HOST, ONE, UNLISTED};

#[tokio::test]
async fn every_production_and_recovery_server_is_admitted_on_a_production_route() -> io::Result<()>
{
    let dns = vipps_zone().await?;
    let merchant = merchant_of(&dns, &[Environment::Production]).await?;

    for (at, host) in Environment::Production.hosts().enumerate() {
        let reply = post(&merchant, production(at)).await?;
        assert_eq!(reply.status, 200, "{host}");
        assert_eq!(reply.header("x-host"), Some(host.as_str()));
        assert_eq!(reply.header("x-peer"), Some(&*production(at).to_string()));
        assert_eq!(reply.header("x-freshness"), Some("fresh"));
    }
    assert_eq!(merchant.handled(), 8);
    Ok(())
}

#[tokio::test]
async fn a_test_server_is_refused_on_a_production_route() -> io::Result<()> {
    let dns = vipps_zone().await?;
    let merchant = merchant_of(&dns, &[Environment::Production]).await?;

    for (at, host) in Environment::Test.hosts().enumerate() {
        let reply = post(&merchant, test(at)).await?;
        assert_eq!(reply.status, 403, "{host}");
        // An unlisted peer may trigger one lookup of the watched test servers.
        assert!(dns.count(host.as_str(), RecordType::A) <= 1, "{host}");
    }
    assert_eq!(merchant.handled(), 0);
    Ok(())
}

#[tokio::test]
async fn a_production_server_is_refused_on_a_test_route() -> io::Result<()> {
    let dns = vipps_zone().await?;
    let merchant = merchant_of(&dns, &[Environment::Test]).await?;

    for at in 0..2 {
        assert_eq!(post(&merchant, test(at)).await?.status, 200);
    }
    for at in 0..8 {
        assert_eq!(post(&merchant, production(at)).await?.status, 403);
    }
    assert_eq!(merchant.handled(), 2);
    Ok(())
}

#[tokio::test]
async fn both_environments_together_admit_both() -> io::Result<()> {
    let dns = vipps_zone().await?;
    let both = [Environment::Production, Environment::Test];
    let merchant = merchant_of(&dns, &both).await?;

    for peer in [production(0), production(7), test(0), test(1)] {
        assert_eq!(post(&merchant, peer).await?.status, 200, "{peer}");
    }
    assert_eq!(post(&merchant, UNLISTED).await?.status, 403);
    Ok(())
}

#[tokio::test]
async fn the_dns_server_and_the_api_server_are_not_admitted() -> io::Result<()> {
    let dns = vipps_zone().await?;
    let api: IpAddr = [127, 12, 0, 1].into();
    dns.set("api.vipps.no", 60, &[api]);
    dns.set("vipps.no", 60, &[api]);
    let merchant = merchant_of(&dns, &[Environment::Production]).await?;

    for peer in [api, dns.addr().ip(), Ipv4Addr::LOCALHOST.into()] {
        assert_eq!(post(&merchant, peer).await?.status, 403, "{peer}");
    }
    Ok(())
}

#[tokio::test]
async fn a_static_network_is_admitted_beside_the_hosts() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[ONE]);
    let network = "127.7.0.0/16".parse().expect("it is a network");
    let list = tiny_list(&[HOST])
        .net(network)
        .map_err(io::Error::other)?
        .spawn(dns.resolver());
    within(list.ready()).await;
    let merchant = Merchant::start(list).await?;

    let reply = post(&merchant, [127, 7, 255, 254].into()).await?;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("x-freshness"), Some("static"));
    assert_eq!(post(&merchant, ONE).await?.status, 200);
    assert_eq!(post(&merchant, [127, 8, 0, 1].into()).await?.status, 403);
    Ok(())
}

#[tokio::test]
async fn no_request_header_makes_an_unlisted_peer_a_callback_server() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[ONE]);
    let list = tiny_list(&[HOST]).spawn(dns.resolver());
    within(list.ready()).await;
    let merchant = Merchant::start(list).await?;

    for header in FORGED {
        let reply = merchant.post(UNLISTED, &[*header], b"{}").await?;
        assert_eq!(reply.status, 403, "{header:?}");
    }
    // All headers are sent together, first from an unlisted peer and then from the usual address of a proxy.
    for peer in [UNLISTED, Ipv4Addr::LOCALHOST.into()] {
        assert_eq!(merchant.post(peer, FORGED, b"").await?.status, 403);
    }
    assert_eq!(merchant.handled(), 0);
    Ok(())
}

#[tokio::test]
async fn no_request_header_makes_a_callback_server_an_unlisted_peer() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[ONE]);
    let list = tiny_list(&[HOST]).spawn(dns.resolver());
    within(list.ready()).await;
    let merchant = Merchant::start(list).await?;

    let headers = [("x-forwarded-for", "192.0.2.66"), ("x-real-ip", "garbage")];
    let reply = merchant.post(ONE, &headers, b"").await?;

    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("x-peer"), Some("127.0.1.1"));
    Ok(())
}

// nginx writes `unix:` for a client that connects through a Unix socket. Here, that client is an outer nginx.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_callback_that_passes_nginx_at_a_unix_socket_is_admitted() -> io::Result<()> {
    use crate::proxies::Kind;

    let Some(program) = Kind::Nginx.find() else {
        return Ok(());
    };
    let nginx = IpAddr::V4(Ipv4Addr::LOCALHOST);
    for (trusting, admitted, refused) in [(true, 200, 403), (false, 400, 400)] {
        let mut proxies = TrustedProxies::new([nginx.into()]).map_err(io::Error::other)?;
        if trusting {
            proxies = proxies.with_unix_sockets();
        }
        let peer = ForwardedPeer::x_forwarded_for(ConnectInfoPeer, proxies);
        let layer = VerifySourceLayer::rejecting(AllowList::fixed([ONE]), peer);
        let app = Router::new().fallback(async || "shipped").layer(layer);
        let merchant = Merchant::serve(app, (Ipv4Addr::LOCALHOST, 0).into()).await?;

        let dir = tempfile::tempdir()?;
        let config = include_str!("../proxies/nginx-at-unix-socket.conf");
        let socket = dir.path().join("inner.sock");
        let config = config.replace("SOCKET", &socket.to_string_lossy());
        let proxy = Kind::Nginx
            .start(&program, &config, merchant.addr())
            .await?;

        for (from, headers, status) in [
            (ONE, &[][..], admitted),
            (UNLISTED, &[], refused),
            (UNLISTED, &[("x-forwarded-for", "127.0.1.1")], refused),
            (
                UNLISTED,
                &[("x-forwarded-for", "127.0.1.1, unix:")],
                refused,
            ),
        ] {
            let client = Client::from(from);
            let reply = client.send(proxy.addr, "POST", "/", headers, b"{}");
            assert_eq!(within(reply).await?.status, status, "{from} {headers:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_refusal_repeats_nothing_of_the_request() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[ONE]);
    let list = tiny_list(&[HOST]).spawn(dns.resolver());
    within(list.ready()).await;
    let merchant = Merchant::start(list).await?;

    let headers = [
        ("user-agent", "needle"),
        ("x-forwarded-for", "needle"),
        ("host", "needle.example"),
        ("origin", "https://needle.example"),
        ("x-request-id", "needle"),
        ("accept", "text/html;needle"),
        ("needle", "needle"),
    ];
    let client = Client::from(UNLISTED);
    let path = "/needle?needle=%3Cscript%3E";
    let reply = client.send(merchant.addr(), "POST", path, &headers, b"needle");
    let reply = within(reply).await?;

    assert_eq!(reply.status, 403);
    assert!(!reply.text().contains("needle"), "{}", reply.text());
    assert!(!reply.text().contains(&UNLISTED.to_string()));
    for (name, value) in &reply.headers {
        assert!(!name.contains("needle") && !value.contains("needle"));
        assert!(!value.contains(&UNLISTED.to_string()));
    }
    assert_eq!(
        reply.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    assert_eq!(reply.header("retry-after"), None);
    Ok(())
}

#[tokio::test]
async fn an_ipv4_server_is_known_on_a_dual_stack_listener() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[ONE]);
    let list = tiny_list(&[HOST]).spawn(dns.resolver());
    within(list.ready()).await;
    let merchant = Merchant::listen(list, (Ipv6Addr::UNSPECIFIED, 0).into()).await?;

    let reply = merchant.post(ONE, &[], b"").await?;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("x-peer"), Some("127.0.1.1"));
    let reply = merchant.post(UNLISTED, &[], b"").await?;
    assert_eq!(reply.status, 403);
    Ok(())
}

#[tokio::test]
async fn an_ipv6_server_is_known_by_its_aaaa_record() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    let v6 = IpAddr::from(Ipv6Addr::LOCALHOST);
    dns.set(HOST, 60, &[ONE, v6]);
    let list = tiny_list(&[HOST]).spawn(dns.resolver());
    within(list.ready()).await;
    let merchant = Merchant::listen(list, (Ipv6Addr::UNSPECIFIED, 0).into()).await?;

    let reply = merchant.post(v6, &[], b"").await?;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("x-peer"), Some("::1"));
    let reply = merchant.post(ONE, &[], b"").await?;
    assert_eq!(reply.status, 200);

    dns.set("other.example", 60, &[ONE]);
    let list = tiny_list(&["other.example"]).spawn(dns.resolver());
    within(list.ready()).await;
    let merchant = Merchant::listen(list, (Ipv6Addr::LOCALHOST, 0).into()).await?;
    assert_eq!(merchant.post(v6, &[], b"").await?.status, 403);
    Ok(())
}

#[tokio::test]
async fn an_address_that_embeds_a_listed_one_is_not_listed() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[[52, 45, 17, 199].into()]);
    let list = tiny_list(&[HOST]).spawn(dns.resolver());
    within(list.ready()).await;

    let allowed = |peer: &str| {
        let peer = peer.parse().expect("it is an address");
        list.verdict(peer).is_allowed()
    };
    assert!(allowed("52.45.17.199") && allowed("::ffff:52.45.17.199"));
    for peer in [
        "::52.45.17.199",
        "64:ff9b::52.45.17.199",
        "2002:342d:11c7::",
        "::ffff:0:52.45.17.199",
        "199.17.45.52",
    ] {
        assert!(!allowed(peer), "{peer}");
    }
    Ok(())
}

/// A zone with production at 127.10.0.x and test at 127.11.0.x.
async fn vipps_zone() -> io::Result<DnsServer> {
    let dns = DnsServer::start().await?;
    for (at, host) in Environment::Production.hosts().enumerate() {
        dns.set(host.as_str(), 60, &[production(at)]);
    }
    for (at, host) in Environment::Test.hosts().enumerate() {
        dns.set(host.as_str(), 60, &[test(at)]);
    }
    Ok(dns)
}

fn production(at: usize) -> IpAddr {
    [127, 10, 0, at as u8 + 1].into()
}

fn test(at: usize) -> IpAddr {
    [127, 11, 0, at as u8 + 1].into()
}

async fn merchant_of(dns: &DnsServer, environments: &[Environment]) -> io::Result<Merchant> {
    let builder = AllowList::builder().insecure_allow_special_addresses();
    let list = environments
        .iter()
        .fold(builder, |builder, environment| {
            builder.environment(*environment)
        })
        .spawn(dns.resolver());
    within(list.ready()).await;
    Merchant::start(list).await
}

async fn post(merchant: &Merchant, peer: IpAddr) -> io::Result<Reply> {
    merchant.post(peer, &[], b"{}").await
}

const FORGED: &[(&str, &str)] = &[
    ("x-forwarded-for", "127.0.1.1"),
    ("x-forwarded-for", "127.0.1.1, 127.0.1.1"),
    ("x-forwarded-for", "::ffff:127.0.1.1"),
    ("x_forwarded_for", "127.0.1.1"),
    ("forwarded", "for=127.0.1.1"),
    ("forwarded", "for=\"127.0.1.1:443\";host=callback-1.example"),
    ("x-real-ip", "127.0.1.1"),
    ("cf-connecting-ip", "127.0.1.1"),
    ("true-client-ip", "127.0.1.1"),
    ("x-client-ip", "127.0.1.1"),
    ("x-cluster-client-ip", "127.0.1.1"),
    ("x-original-forwarded-for", "127.0.1.1"),
    ("x-envoy-external-address", "127.0.1.1"),
    ("fastly-client-ip", "127.0.1.1"),
    ("x-appengine-user-ip", "127.0.1.1"),
    ("client-ip", "127.0.1.1"),
    ("remote-addr", "127.0.1.1"),
    ("x-remote-ip", "127.0.1.1"),
    ("x-forwarded", "for=127.0.1.1"),
    ("x-forwarded-host", "callback-1.example"),
    ("via", "1.1 callback-1.example"),
    ("host", "callback-1.example"),
    ("host", "127.0.1.1"),
    ("origin", "https://callback-1.example"),
    ("referer", "https://callback-1.example/"),
    ("user-agent", "Vipps MobilePay/1.0 Webhooks/1.0"),
    ("x-callback-source", "allow"),
    ("x-callback-host", "callback-1.example"),
];
