use std::fs;

use integration_tests::dns::{DnsServer, Fault, FaultScope, RecordType, ResponseCode};

use crate::setup::{ask, assert_shown, ip, run, zone};

#[tokio::test]
async fn prints_addresses_in_numerical_order_without_duplicates() {
    let dns = zone().await;
    let line = format!(
        "lookup --host one.example --host two.example --host three.example {}",
        ask(&dns)
    );
    assert_shown!(run(&line).await, @r#"
    exit 0
    -- stdout
    9.45.17.199
    52.232.113.216
    104.45.28.230
    2a01:111::7
    -- stderr
    "#);
}

#[tokio::test]
async fn prints_static_networks_among_the_addresses() {
    let dns = zone().await;
    let line = format!(
        "lookup --host one.example --allow 52.0.0.9/8,9.45.17.199,2001:db8::/32 {}",
        ask(&dns)
    );
    assert_shown!(run(&line).await, @r#"
    exit 0
    -- stdout
    9.45.17.199
    52.0.0.0/8
    104.45.28.230
    2001:db8::/32
    -- stderr
    "#);
}

#[tokio::test]
async fn prints_static_networks_alone_without_a_lookup() {
    let dns = zone().await;
    let line = format!("lookup --allow 52.0.0.0/8 --by-host {}", ask(&dns));
    assert_shown!(run(&line).await, @r#"
    exit 0
    -- stdout
    HOST  TYPE  TTL  STATE   ADDRESS
    -     -       -  static  52.0.0.0/8
    -- stderr
    "#);
    assert_eq!(dns.total(), 0);
}

#[tokio::test]
async fn prints_a_table_by_host() {
    let dns = zone().await;
    dns.set("none.example", 60, &[]);
    let line = format!(
        "lookup --by-host --host one.example,two.example,none.example,gone.example,three.example {}",
        ask(&dns)
    );
    assert_shown!(run(&line).await, @r#"
    exit 0
    -- stdout
    HOST           TYPE  TTL  STATE     ADDRESS
    one.example    A      60  answered  9.45.17.199
    one.example    A      60  answered  104.45.28.230
    two.example    A     300  answered  52.232.113.216
    two.example    AAAA  300  answered  2a01:111::7
    none.example   A       -  denied    -
    none.example   AAAA    -  denied    -
    gone.example   A       -  denied    -
    gone.example   AAAA    -  denied    -
    three.example  A      20  answered  9.45.17.199
    three.example  A      20  answered  104.45.28.230
    -- stderr
    note: `none.example` has no addresses
    note: `gone.example` has no addresses
    "#);
}

#[tokio::test]
async fn prints_json() {
    let dns = zone().await;
    let line = format!(
        "lookup --json --host two.example --allow 192.0.2.0/24 {}",
        ask(&dns)
    );
    assert_shown!(run(&line).await, @r#"
    exit 0
    -- stdout
    {
      "addresses": [
        "52.232.113.216",
        "2a01:111::7"
      ],
      "networks": [
        "192.0.2.0/24"
      ],
      "complete": true,
      "hosts": [
        {
          "host": "two.example",
          "addresses": [
            "52.232.113.216",
            "2a01:111::7"
          ],
          "questions": [
            {
              "type": "A",
              "state": "answered",
              "ttl_seconds": 300,
              "age_seconds": 0,
              "addresses": [
                "52.232.113.216"
              ],
              "left_out": [],
              "failing_for_seconds": null,
              "last_error": null
            },
            {
              "type": "AAAA",
              "state": "answered",
              "ttl_seconds": 300,
              "age_seconds": 0,
              "addresses": [
                "2a01:111::7"
              ],
              "left_out": [],
              "failing_for_seconds": null,
              "last_error": null
            }
          ]
        }
      ]
    }
    -- stderr
    "#);
}

#[tokio::test]
async fn prints_the_found_addresses_when_a_lookup_fails() {
    let dns = zone().await;
    dns.set_fault(
        ("two.example", RecordType::AAAA),
        Fault::Rcode(ResponseCode::ServFail),
    );
    let line = format!("lookup --host one.example --host two.example {}", ask(&dns));
    assert_shown!(run(&line).await, @r#"
    exit 2
    -- stdout
    9.45.17.199
    52.232.113.216
    104.45.28.230
    -- stderr
    error: no answer for `two.example` AAAA: the DNS server failed (SERVFAIL): DNS error: error response: Server Failure
    hint: check that the DNS server can be reached, or give another one with `--dns-server IP`
    "#);
    let line = format!(
        "lookup --by-host --host one.example --host two.example {}",
        ask(&dns)
    );
    assert_shown!(run(&line).await, @r#"
    exit 2
    -- stdout
    HOST         TYPE  TTL  STATE     ADDRESS
    one.example  A      60  answered  9.45.17.199
    one.example  A      60  answered  104.45.28.230
    two.example  A     300  answered  52.232.113.216
    two.example  AAAA    -  failing   -
    -- stderr
    error: no answer for `two.example` AAAA: the DNS server failed (SERVFAIL): DNS error: error response: Server Failure
    hint: check that the DNS server can be reached, or give another one with `--dns-server IP`
    "#);
    let line = format!("lookup --json --host two.example {}", ask(&dns));
    assert_shown!(run(&line).await, @r#"
    exit 2
    -- stdout
    {
      "addresses": [
        "52.232.113.216"
      ],
      "networks": [],
      "complete": false,
      "hosts": [
        {
          "host": "two.example",
          "addresses": [
            "52.232.113.216"
          ],
          "questions": [
            {
              "type": "A",
              "state": "answered",
              "ttl_seconds": 300,
              "age_seconds": 0,
              "addresses": [
                "52.232.113.216"
              ],
              "left_out": [],
              "failing_for_seconds": null,
              "last_error": null
            },
            {
              "type": "AAAA",
              "state": "failing",
              "ttl_seconds": null,
              "age_seconds": null,
              "addresses": [],
              "left_out": [],
              "failing_for_seconds": 0,
              "last_error": {
                "reason": "servfail",
                "message": "the DNS server failed (SERVFAIL): DNS error: error response: Server Failure"
              }
            }
          ]
        }
      ]
    }
    -- stderr
    error: no answer for `two.example` AAAA: the DNS server failed (SERVFAIL): DNS error: error response: Server Failure
    hint: check that the DNS server can be reached, or give another one with `--dns-server IP`
    "#);
}

#[tokio::test]
async fn one_family_is_complete_where_the_questions_of_the_other_are_dropped() {
    let dns = zone().await;
    for host in ["one.example", "two.example"] {
        dns.set_fault((host, RecordType::AAAA), Fault::Drop);
    }
    let hosts = format!("--host one.example --host two.example {}", ask(&dns));
    assert_shown!(run(&format!("lookup --ipv4-only {hosts}")).await, @r#"
    exit 0
    -- stdout
    9.45.17.199
    52.232.113.216
    104.45.28.230
    -- stderr
    "#);
    assert_eq!(dns.count("one.example", RecordType::AAAA), 0);
    assert_shown!(run(&format!("lookup --ipv4-only --by-host {hosts}")).await, @r#"
    exit 0
    -- stdout
    HOST         TYPE  TTL  STATE     ADDRESS
    one.example  A      60  answered  9.45.17.199
    one.example  A      60  answered  104.45.28.230
    two.example  A     300  answered  52.232.113.216
    -- stderr
    "#);
    dns.clear_faults();
    dns.set_fault(("two.example", RecordType::A), Fault::Drop);
    let line = format!("lookup --ipv6-only --json --host two.example {}", ask(&dns));
    assert_shown!(run(&line).await, @r#"
    exit 0
    -- stdout
    {
      "addresses": [
        "2a01:111::7"
      ],
      "networks": [],
      "complete": true,
      "hosts": [
        {
          "host": "two.example",
          "addresses": [
            "2a01:111::7"
          ],
          "questions": [
            {
              "type": "AAAA",
              "state": "answered",
              "ttl_seconds": 300,
              "age_seconds": 0,
              "addresses": [
                "2a01:111::7"
              ],
              "left_out": [],
              "failing_for_seconds": null,
              "last_error": null
            }
          ]
        }
      ]
    }
    -- stderr
    "#);
}

#[tokio::test]
async fn a_host_that_does_not_exist_is_reported_with_one_family_too() {
    let dns = zone().await;
    let hosts = format!("--host gone.example {}", ask(&dns));
    assert_shown!(run(&format!("lookup --ipv4-only {hosts}")).await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: no answer for `gone.example` A: the name does not exist (NXDOMAIN); this denial is not believed while no other host answers
    hint: check the spelling of the host, and the DNS server
    "#);
}

#[tokio::test]
async fn the_flags_for_a_single_family_exclude_each_other() {
    assert_shown!(run("lookup --ipv4-only --ipv6-only").await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: `--ipv4-only` cannot be used with `--ipv6-only`
    hint: leave out both to look up both families
    "#);
    let dns = zone().await;
    let line = format!("lookup --ipv4-only --host one.example {}", ask(&dns));
    let mut command = crate::setup::command(line.split_whitespace());
    command.env("CALLBACK_SOURCE_IPV6_ONLY", "false");
    let output = command.output().await.expect("it can be started");
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn the_environment_names_the_only_family_too() {
    let dns = zone().await;
    let line = format!("lookup --host two.example {}", ask(&dns));
    for (name, address) in [("IPV4", "52.232.113.216"), ("IPV6", "2a01:111::7")] {
        let mut command = crate::setup::command(line.split_whitespace());
        command.env(format!("CALLBACK_SOURCE_{name}_ONLY"), "true");
        let output = command.output().await.expect("it can be started");
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(stdout.trim(), address, "{name}");
    }
}

#[tokio::test]
async fn reports_that_no_dns_server_answers() {
    let mut dns = zone().await;
    let line = format!("lookup --environment test {}", ask(&dns));
    dns.pause().await;
    assert_shown!(run(&line).await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: no answer for `callback-mt-1.vipps.no` A and AAAA: no DNS server answered in time: request timed out
    error: no answer for `callback-mt-2.vipps.no` A and AAAA: no DNS server answered in time: request timed out
    hint: check that the DNS server can be reached, or give another one with `--dns-server IP`
    "#);
    dns.resume().await.unwrap();
    dns.set_fault(FaultScope::Everything, Fault::Drop);
    assert_shown!(run(&line).await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: no answer for `callback-mt-1.vipps.no` A and AAAA: no DNS server answered in time: request timed out
    error: no answer for `callback-mt-2.vipps.no` A and AAAA: no DNS server answered in time: request timed out
    hint: check that the DNS server can be reached, or give another one with `--dns-server IP`
    "#);
}

#[tokio::test]
async fn does_not_believe_a_denial_without_another_answer() {
    let dns = zone().await;
    let line = format!("lookup --host gone.example {}", ask(&dns));
    assert_shown!(run(&line).await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: no answer for `gone.example` A and AAAA: the name does not exist (NXDOMAIN); this denial is not believed while no other host answers
    hint: check the spelling of the host, and the DNS server
    "#);
}

#[tokio::test]
async fn reports_special_purpose_addresses_that_are_left_out() {
    let dns = zone().await;
    dns.set(
        "one.example",
        60,
        &[ip("127.0.0.9"), ip("10.0.0.1"), ip("9.45.17.199")],
    );
    let line = format!("lookup --host one.example {}", ask(&dns));
    assert_shown!(run(&line).await, @r#"
    exit 0
    -- stdout
    9.45.17.199
    -- stderr
    warning: special-purpose addresses of `one.example` A are left out: 10.0.0.1, 127.0.0.9
    hint: for tests, admit them with `--allow-special-addresses`
    "#);
    dns.set("one.example", 60, &[ip("10.0.0.1")]);
    assert_shown!(run(&line).await, @r#"
    exit 2
    -- stdout
    -- stderr
    warning: special-purpose addresses of `one.example` A are left out: 10.0.0.1
    hint: for tests, admit them with `--allow-special-addresses`
    error: no answer for `one.example` A: the answer contains only special-purpose addresses
    error: no answer for `one.example` AAAA: the name has no such record; this denial is not believed while no other host answers
    "#);
    assert_shown!(run(&format!("{line} --allow-special-addresses")).await, @r#"
    exit 0
    -- stdout
    10.0.0.1
    -- stderr
    "#);
}

#[tokio::test]
async fn looks_up_production_with_disaster_recovery_by_default() {
    let dns = provider().await;
    assert_shown!(run(&format!("lookup {}", ask(&dns))).await, @r#"
    exit 0
    -- stdout
    13.79.229.87
    51.105.122.51
    51.105.122.52
    51.105.122.53
    51.105.122.54
    -- stderr
    "#);
    let both = "--environment production --environment test";
    assert_shown!(run(&format!("lookup {both} {}", ask(&dns))).await, @r#"
    exit 0
    -- stdout
    13.79.229.87
    51.105.122.51
    51.105.122.52
    51.105.122.53
    51.105.122.54
    51.105.193.243
    104.40.253.225
    -- stderr
    "#);
    assert_shown!(run(&format!("lookup --host callback-mt-1.vipps.no {}", ask(&dns))).await, @r#"
    exit 0
    -- stdout
    51.105.193.243
    -- stderr
    "#);
}

#[tokio::test]
async fn looks_up_the_api_server_for_egress_rules() {
    let dns = provider().await;
    assert_shown!(run(&format!("lookup --api {}", ask(&dns))).await, @r#"
    exit 0
    -- stdout
    8.8.4.4
    -- stderr
    "#);
    let line = format!(
        "lookup --api --environment test --host x.example --by-host {}",
        ask(&dns)
    );
    assert_shown!(run(&line).await, @r#"
    exit 0
    -- stdout
    HOST              TYPE  TTL  STATE     ADDRESS
    apitest.vipps.no  A      30  answered  8.8.8.8
    -- stderr
    note: `--host` and `--allow` are ignored with `--api`
    "#);
}

#[tokio::test]
async fn reads_a_state_file_and_never_writes_it() {
    let dns = zone().await;
    let path = std::env::temp_dir().join(format!("callback-source-{}.json", dns.addr().port()));
    let server = crate::server::Server::start(&format!(
        "--host one.example {} --state-file {}",
        ask(&dns),
        path.display()
    ))
    .await;
    server.ready().await;
    server.stop().await;
    let before = fs::read(&path).expect("the server wrote it");

    dns.set_fault(FaultScope::Everything, Fault::Rcode(ResponseCode::ServFail));
    let file = path.display();
    let line = format!(
        "lookup --host one.example {} --state-file {file}",
        ask(&dns)
    );
    assert_shown!(run(&line).await, @r#"
    exit 2
    -- stdout
    9.45.17.199
    104.45.28.230
    -- stderr
    error: no answer for `one.example` A and AAAA: the DNS server failed (SERVFAIL): DNS error: error response: Server Failure
    hint: check that the DNS server can be reached, or give another one with `--dns-server IP`
    "#);
    dns.clear_faults();
    dns.set("one.example", 60, &[ip("9.9.9.9")]);
    assert_shown!(run(&format!("{line} --by-host")).await, @r#"
    exit 0
    -- stdout
    HOST         TYPE  TTL  STATE      ADDRESS
    one.example  A      60  answered   9.9.9.9
    one.example  A       -  lingering  9.45.17.199
    one.example  A       -  lingering  104.45.28.230
    -- stderr
    "#);
    assert_eq!(fs::read(&path).unwrap(), before);
    fs::remove_file(path).unwrap();
}

/// Starts a DNS server with the hosts of the provider, and with two API hosts whose addresses are not the provider's.
async fn provider() -> DnsServer {
    let dns = DnsServer::start().await.unwrap();
    for number in 1..=4 {
        let name = format!("callback-{number}.vipps.no");
        dns.set(&name, 60, &[ip(&format!("51.105.122.{}", 50 + number))]);
        let name = format!("callback-dr-{number}.vipps.no");
        dns.set(&name, 60, &[ip("13.79.229.87")]);
    }
    dns.set("callback-mt-1.vipps.no", 60, &[ip("51.105.193.243")]);
    dns.set("callback-mt-2.vipps.no", 60, &[ip("104.40.253.225")]);
    dns.set("api.vipps.no", 30, &[ip("8.8.4.4")]);
    dns.set("apitest.vipps.no", 30, &[ip("8.8.8.8")]);
    dns
}
