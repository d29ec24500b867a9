use std::os::unix::fs::{PermissionsExt, chown};

use callback_source::vipps::Environment;
use integration_tests::dns::{Fault, FaultScope, RecordType, ResponseCode};

use crate::setup::{ask, assert_shown, run, zone};

#[tokio::test]
async fn reports_for_each_peer_whether_it_would_be_admitted() {
    let dns = zone().await;
    let hosts = format!(
        "--host one.example --host two.example --allow 198.51.100.0/24 {}",
        ask(&dns)
    );
    let all = "9.45.17.199 2a01:111::7 ::ffff:104.45.28.230 198.51.100.7";
    assert_shown!(run(&format!("check {all} {hosts}")).await, @r#"
    exit 0
    -- stdout
    9.45.17.199 allow one.example fresh
    2a01:111::7 allow two.example fresh
    ::ffff:104.45.28.230 allow one.example fresh
    198.51.100.7 allow 198.51.100.0/24 static
    -- stderr
    "#);
    assert_shown!(run(&format!("check 9.45.17.199 192.0.2.1 {hosts}")).await, @r#"
    exit 1
    -- stdout
    9.45.17.199 allow one.example fresh
    192.0.2.1 reject not-listed
    -- stderr
    "#);
    assert_shown!(run(&format!("check --json {all} 2001:db8::1 {hosts}")).await, @r#"
    exit 1
    -- stdout
    {
      "peers": [
        {
          "peer": "9.45.17.199",
          "verdict": "allow",
          "host": "one.example",
          "freshness": "fresh"
        },
        {
          "peer": "2a01:111::7",
          "verdict": "allow",
          "host": "two.example",
          "freshness": "fresh"
        },
        {
          "peer": "::ffff:104.45.28.230",
          "verdict": "allow",
          "host": "one.example",
          "freshness": "fresh"
        },
        {
          "peer": "198.51.100.7",
          "verdict": "allow",
          "network": "198.51.100.0/24",
          "freshness": "static"
        },
        {
          "peer": "2001:db8::1",
          "verdict": "reject",
          "reason": "not-listed"
        }
      ]
    }
    -- stderr
    "#);
}

#[tokio::test]
async fn is_undecided_when_dns_cannot_be_reached() {
    let dns = zone().await;
    let hosts = format!("--host one.example --host two.example {}", ask(&dns));
    dns.set_fault(FaultScope::Everything, Fault::Rcode(ResponseCode::Refused));
    assert_shown!(run(&format!("check 192.0.2.1 {hosts}")).await, @r#"
    exit 2
    -- stdout
    192.0.2.1 reject unresolved
    -- stderr
    error: no answer for `one.example` A and AAAA: the DNS server refused to answer (REFUSED): DNS error: error response: Query Refused
    error: no answer for `two.example` A and AAAA: the DNS server refused to answer (REFUSED): DNS error: error response: Query Refused
    hint: check that the DNS server can be reached, or give another one with `--dns-server IP`
    "#);
    assert_shown!(run(&format!("check --json 192.0.2.1 {hosts}")).await, @r#"
    exit 2
    -- stdout
    {
      "peers": [
        {
          "peer": "192.0.2.1",
          "verdict": "reject",
          "reason": "unresolved"
        }
      ]
    }
    -- stderr
    error: no answer for `one.example` A and AAAA: the DNS server refused to answer (REFUSED): DNS error: error response: Query Refused
    error: no answer for `two.example` A and AAAA: the DNS server refused to answer (REFUSED): DNS error: error response: Query Refused
    hint: check that the DNS server can be reached, or give another one with `--dns-server IP`
    "#);
}

#[tokio::test]
async fn a_peer_of_the_family_that_is_not_looked_up_is_refused() {
    let dns = zone().await;
    let hosts = format!("--host two.example --allow 2001:db8::/32 {}", ask(&dns));
    dns.set_fault(("two.example", RecordType::AAAA), Fault::Drop);
    let peers = "52.232.113.216 2a01:111::7 2001:db8::1";
    assert_shown!(run(&format!("check --ipv4-only {peers} {hosts}")).await, @r#"
    exit 1
    -- stdout
    52.232.113.216 allow two.example fresh
    2a01:111::7 reject not-listed
    2001:db8::1 allow 2001:db8::/32 static
    -- stderr
    "#);
}

#[tokio::test]
async fn reports_listed_peers_in_spite_of_a_failing_host() {
    let dns = zone().await;
    let hosts = format!("--host one.example --host two.example {}", ask(&dns));
    dns.set_fault(
        ("two.example", RecordType::AAAA),
        Fault::Rcode(ResponseCode::ServFail),
    );
    assert_shown!(run(&format!("check 9.45.17.199 {hosts}")).await, @r#"
    exit 0
    -- stdout
    9.45.17.199 allow one.example fresh
    -- stderr
    warning: no answer for `two.example` AAAA: the DNS server failed (SERVFAIL): DNS error: error response: Server Failure
    hint: check that the DNS server can be reached, or give another one with `--dns-server IP`
    "#);
    assert_shown!(run(&format!("check 192.0.2.1 {hosts}")).await, @r#"
    exit 1
    -- stdout
    192.0.2.1 reject not-listed
    -- stderr
    warning: no answer for `two.example` AAAA: the DNS server failed (SERVFAIL): DNS error: error response: Server Failure
    hint: check that the DNS server can be reached, or give another one with `--dns-server IP`
    "#);
    assert_shown!(run(&format!("check 9.45.17.199 192.0.2.1 2001:db8::1 {hosts}")).await, @r#"
    exit 2
    -- stdout
    9.45.17.199 allow one.example fresh
    192.0.2.1 reject not-listed
    2001:db8::1 reject unresolved
    -- stderr
    error: no answer for `two.example` AAAA: the DNS server failed (SERVFAIL): DNS error: error response: Server Failure
    hint: check that the DNS server can be reached, or give another one with `--dns-server IP`
    "#);
}

#[tokio::test]
async fn an_invalid_address_is_an_error() {
    let dns = zone().await;
    let hosts = format!("--host one.example {}", ask(&dns));
    for peer in ["one.example", "1.2.3", "1.2.3.4:80", "010.0.0.1"] {
        let output = run(&format!("check 9.45.17.199 {peer} {hosts}")).await;
        assert_eq!(output.status.code(), Some(2), "{peer}");
        assert!(output.stdout.is_empty(), "{peer}");
    }
    assert_eq!(dns.total(), 0);
    assert_shown!(run(&format!("check one.example {hosts}")).await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: invalid value 'one.example' for '[IP]...': give an IP address, such as `192.0.2.1` or `2001:db8::1`

    For more information, try '--help'.
    "#);
    assert_shown!(run("check").await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: the following required arguments were not provided:
      <IP>...

    Usage: callback-source check <IP>...

    For more information, try '--help'.
    "#);
}

#[tokio::test]
async fn root_and_members_of_the_group_can_read_the_state_file_of_a_server() {
    let dns = zone().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    let shown = path.display();
    let hosts = format!("--host one.example {}", ask(&dns));
    let server = crate::server::Server::start(&format!("{hosts} --state-file {shown}")).await;
    server.ready().await;
    server.stop().await;
    // A file of another user, with the mode that Kubernetes sets for `fsGroup`.
    if let Err(error) = chown(&path, Some(12345), Some(12345)) {
        eprintln!(
            "SKIPPED root_and_members_of_the_group_can_read_the_state_file_of_a_server: needs root ({error})"
        );
        return;
    }
    let mode = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    mode(0o660);
    dns.set_fault(FaultScope::Everything, Fault::Rcode(ResponseCode::ServFail));
    let line = format!("check 9.45.17.199 {hosts} --state-file {shown}");
    assert_shown!(run(&line).await, @r#"
    exit 0
    -- stdout
    9.45.17.199 allow one.example restored
    -- stderr
    warning: no answer for `one.example` A and AAAA: the DNS server failed (SERVFAIL): DNS error: error response: Server Failure
    hint: check that the DNS server can be reached, or give another one with `--dns-server IP`
    "#);
    mode(0o666);
    let output = run(&line).await;
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("state file ignored") && stderr.contains("chmod o-w"),
        "{stderr}"
    );
}

#[tokio::test]
async fn a_test_server_is_named_when_production_is_checked() {
    let dns = zone().await;
    for environment in [Environment::Production, Environment::Test] {
        for (number, host) in (1..).zip(environment.hosts()) {
            let third = 100 * u8::from(environment == Environment::Test);
            dns.set(host.as_str(), 60, &[[20, 0, third, number].into()]);
        }
    }
    let line = format!("check 20.0.0.1 20.0.100.2 192.0.2.1 {}", ask(&dns));
    assert_shown!(run(&line).await, @r#"
    exit 1
    -- stdout
    20.0.0.1 allow callback-1.vipps.no fresh
    20.0.100.2 reject wrong-environment
    192.0.2.1 reject not-listed
    -- stderr
    note: 20.0.100.2 is callback-mt-2.vipps.no, a test server; this list is production
    "#);
    assert_shown!(run(&format!("check --environment test --json 20.0.0.5 {}", ask(&dns))).await, @r#"
    exit 1
    -- stdout
    {
      "peers": [
        {
          "peer": "20.0.0.5",
          "verdict": "reject",
          "reason": "wrong-environment",
          "watched_host": "callback-dr-1.vipps.no"
        }
      ]
    }
    -- stderr
    note: 20.0.0.5 is callback-dr-1.vipps.no, a production server; this list is test
    "#);

    // Listed peers cause no lookup of the other environment.
    let before = dns.total();
    let both = "--environment production --environment test";
    run(&format!("check 20.0.0.1 {}", ask(&dns))).await;
    assert_eq!(dns.total() - before, 16);
    run(&format!("check 20.0.100.1 {both} {}", ask(&dns))).await;
    assert_eq!(dns.total() - before, 16 + 20);
}
