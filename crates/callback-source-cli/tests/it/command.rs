use std::{fs, process::Stdio};

use integration_tests::dns::DnsServer;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
};

use crate::setup::{ask, assert_shown, command, ip, run, zone};

#[tokio::test]
async fn prints_help() {
    assert_shown!(run("--help").await, @r#"
    exit 0
    -- stdout
    Look up, check and serve the callback servers of a payment provider

    The provider publishes its callback servers as host names only. This command follows them through
    DNS, and decides which peers may send callbacks.

    The exit code is 0 for yes, 1 for no and 2 for an error. Each flag except `check --header` and those
    of `demo` can also be set by an environment variable: `CALLBACK_SOURCE_MIN_TTL` sets `--min-ttl`.
    Several values are separated by commas, blanks or line breaks. An empty variable is treated as
    unset, and an unknown variable with this prefix is an error. Most commands also read a configuration
    file (`--config`). A flag replaces a variable, and a variable replaces a value of the file.

    Usage: callback-source <COMMAND>

    Commands:
      lookup       Print the addresses that would be admitted
      check        Check whether these peers would be admitted
      serve        Decide whether a request may pass: a forward-auth endpoint for nginx, Caddy, Traefik,
                   Envoy
      follow       Keep firewalls and proxies equal to the set of admitted addresses
      status       Show the state of the running server
      history      Show the journal of the running server: changes, outages, refusals
      explain      Explain the verdict of the running server on a peer
      watch        Show the events of the running server as they happen, one a line
      sign         Print a `curl` command that sends a signed webhook, to test an endpoint
      verify       Show which part of a saved webhook does not match: date, content hash, host, path or
                   key
      config       Check, show or start a configuration file
      demo         Try `serve` on this machine, with a DNS server in the process
      completions  Print a completion script for a shell
      help         Print this message or the help of the given subcommand(s)

    Options:
      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version
    -- stderr
    "#);
    assert_shown!(run("lookup -h").await, @r#"
    exit 0
    -- stdout
    Print the addresses that would be admitted

    Usage: callback-source lookup [OPTIONS]

    Options:
          --by-host        Print a table with host, record type, TTL and state [env:
                           CALLBACK_SOURCE_BY_HOST]
          --json           Print JSON [env: CALLBACK_SOURCE_JSON]
          --api            Look up the API server that the merchant calls, in place of the callback
                           servers: for egress rules [env: CALLBACK_SOURCE_API]
          --config <PATH>  Configuration file (TOML); its keys are the flags of `serve` [env:
                           CALLBACK_SOURCE_CONFIG]
      -h, --help           Print help (see more with '--help')

    Allowed callers:
          --environment <ENVIRONMENT>  Environment of the provider; may be repeated [default:
                                       production, unless `--host` or `--allow` is given] [env:
                                       CALLBACK_SOURCE_ENVIRONMENT] [possible values: production, test]
          --host <NAME>                Host whose addresses are admitted [env: CALLBACK_SOURCE_HOST]
          --allow <CIDR>               Network or address that is always admitted, without DNS [env:
                                       CALLBACK_SOURCE_ALLOW]
          --allow-special-addresses    Admit special-purpose addresses (loopback, private, …) in
                                       answers: only for tests, since DNS can then open your own network
                                       [env: CALLBACK_SOURCE_ALLOW_SPECIAL_ADDRESSES]

    Lookups:
          --ipv4-only               Look up IPv4 addresses only, for networks without answers to AAAA
                                    questions: IPv6 peers are refused, unless `--allow` lists them [env:
                                    CALLBACK_SOURCE_IPV4_ONLY]
          --ipv6-only               Look up IPv6 addresses only: IPv4 peers are refused, unless
                                    `--allow` lists them [env: CALLBACK_SOURCE_IPV6_ONLY]
          --dns-server <IP[:PORT]>  DNS server; several are asked in the given order [default: the
                                    system's; port 53] [env: CALLBACK_SOURCE_DNS_SERVER]
          --min-ttl <DURATION>      Minimum TTL, and minimum time between two lookups of a question
                                    [env: CALLBACK_SOURCE_MIN_TTL] [default: 5s]
          --max-ttl <DURATION>      Maximum TTL: no question is asked less often [env:
                                    CALLBACK_SOURCE_MAX_TTL] [default: 1h]
          --linger <DURATION>       Time for which an address stays admitted after it left the answer,
                                    at least until that answer has been refreshed [env:
                                    CALLBACK_SOURCE_LINGER] [default: 1h]
          --stale-for <DURATION>    Time for which the last answer stays in use while lookups fail [env:
                                    CALLBACK_SOURCE_STALE_FOR] [default: 24h]
          --state-file <PATH>       File that keeps the answers, so that a restart while DNS is down
                                    refuses no known server; `lookup` and `check` only read it [env:
                                    CALLBACK_SOURCE_STATE_FILE]

    Log:
          --log <FILTER>         Log filter: a level, or `TARGET=LEVEL` pairs separated by commas
                                 [default: `error,callback_source=warn`, for `serve` and `follow`
                                 `error,callback_source=info`] [env: CALLBACK_SOURCE_LOG]
          --log-format <FORMAT>  Format of the log [env: CALLBACK_SOURCE_LOG_FORMAT] [default: text]
                                 [possible values: text, json]
    -- stderr
    "#);
    assert_shown!(run("check --help").await, @r#"
    exit 0
    -- stdout
    Check whether these peers would be admitted

    One peer a line, with the host whose answer contains the address and the freshness of that answer,
    or with the reason of the refusal.

    With `--peer`, prints each hop of one request on the way to the client, nearest first, and the
    verdict on the client.

    The exit code is 0 if all peers are admitted, 1 if some peers are not, and 2 if the command cannot
    decide, for example because DNS cannot be reached.

    Usage: callback-source check [OPTIONS] [IP]...

    Arguments:
      [IP]...
              Addresses of peers

    Options:
          --json
              Print JSON
              
              [env: CALLBACK_SOURCE_JSON]

          --config <PATH>
              Configuration file (TOML); its keys are the flags of `serve`
              
              `callback-source config example` prints a file with all keys.
              
              [env: CALLBACK_SOURCE_CONFIG]

      -h, --help
              Print help (see a summary with '-h')

    Behind a proxy:
          --peer <IP>
              Peer of a connection; its forwarding headers are read hop by hop, as `serve` does
              
              [env: CALLBACK_SOURCE_PEER]

          --header <NAME: VALUE>
              Header of the request from that peer; may be repeated

          --trusted-proxy <CIDR|unix:>
              Proxy that is trusted to name the client; `unix:` trusts the entry that nginx behind a
              Unix socket writes into `x-forwarded-for`, as a hop and never as the client
              
              [env: CALLBACK_SOURCE_TRUSTED_PROXY]

          --client-ip-header <NAME>
              Header with the client's address, from trusted proxies: `x-forwarded-for`, `forwarded`, or
              one with a single address, such as `x-real-ip`
              
              [env: CALLBACK_SOURCE_CLIENT_IP_HEADER]

    Allowed callers:
          --environment <ENVIRONMENT>
              Environment of the provider; may be repeated [default: production, unless `--host` or
              `--allow` is given]

              Possible values:
              - production: Real payments, including the servers for disaster recovery
              - test:       The merchant test environment
              
              [env: CALLBACK_SOURCE_ENVIRONMENT]

          --host <NAME>
              Host whose addresses are admitted
              
              [env: CALLBACK_SOURCE_HOST]

          --allow <CIDR>
              Network or address that is always admitted, without DNS
              
              [env: CALLBACK_SOURCE_ALLOW]

          --allow-special-addresses
              Admit special-purpose addresses (loopback, private, …) in answers: only for tests, since
              DNS can then open your own network
              
              [env: CALLBACK_SOURCE_ALLOW_SPECIAL_ADDRESSES]

    Lookups:
          --ipv4-only
              Look up IPv4 addresses only, for networks without answers to AAAA questions: IPv6 peers
              are refused, unless `--allow` lists them
              
              [env: CALLBACK_SOURCE_IPV4_ONLY]

          --ipv6-only
              Look up IPv6 addresses only: IPv4 peers are refused, unless `--allow` lists them
              
              [env: CALLBACK_SOURCE_IPV6_ONLY]

          --dns-server <IP[:PORT]>
              DNS server; several are asked in the given order [default: the system's; port 53]
              
              [env: CALLBACK_SOURCE_DNS_SERVER]

          --min-ttl <DURATION>
              Minimum TTL, and minimum time between two lookups of a question
              
              [env: CALLBACK_SOURCE_MIN_TTL]
              [default: 5s]

          --max-ttl <DURATION>
              Maximum TTL: no question is asked less often
              
              [env: CALLBACK_SOURCE_MAX_TTL]
              [default: 1h]

          --linger <DURATION>
              Time for which an address stays admitted after it left the answer, at least until that
              answer has been refreshed
              
              [env: CALLBACK_SOURCE_LINGER]
              [default: 1h]

          --stale-for <DURATION>
              Time for which the last answer stays in use while lookups fail
              
              [env: CALLBACK_SOURCE_STALE_FOR]
              [default: 24h]

          --state-file <PATH>
              File that keeps the answers, so that a restart while DNS is down refuses no known server;
              `lookup` and `check` only read it
              
              [env: CALLBACK_SOURCE_STATE_FILE]

    Log:
          --log <FILTER>
              Log filter: a level, or `TARGET=LEVEL` pairs separated by commas [default:
              `error,callback_source=warn`, for `serve` and `follow` `error,callback_source=info`]
              
              [env: CALLBACK_SOURCE_LOG]

          --log-format <FORMAT>
              Format of the log

              Possible values:
              - text: Lines for people
              - json: One JSON object a line
              
              [env: CALLBACK_SOURCE_LOG_FORMAT]
              [default: text]
    -- stderr
    "#);
    assert_shown!(run("serve --help").await, @r#"
    exit 0
    -- stdout
    Decide whether a request may pass: a forward-auth endpoint for nginx, Caddy, Traefik, Envoy

    Checks the peer of the connection. If the peer is a trusted proxy, checks the client that it names
    in the given header or by the PROXY protocol.

    `/verify` and below: 200 with `X-Callback-Source: allow` and `X-Callback-Host` admits a request. A
    refusal has `X-Callback-Source: reject`, `X-Callback-Reason`, and the status 403; 400 if a trusted
    proxy does not name the client; or 503 with `Retry-After` if the list cannot decide. `/healthz`: 200
    while the server runs. `/readyz`: 200 if every host was asked once and some address is admitted,
    else 503. `/status` (a page), `/status.json` and `/metrics`: the state of the list, for peers on
    this machine without forwarding headers.

    Listens at once; DNS never delays the start. After SIGTERM, SIGINT or SIGQUIT it reports that it is
    not ready, and keeps serving for `--stop-delay`. Then it stops accepting, finishes the requests in
    flight (for at most 10 s) and exits with 0. A second signal ends it at once.

    SIGHUP reads the configuration file again, and so does a change of its content. An invalid file
    changes nothing. SIGUSR1 and SIGUSR2 are ignored.

    A socket that systemd passes (socket activation) serves the flag that names its address. Readiness,
    reloads, stopping and the watchdog are reported to systemd.

    Usage: callback-source serve [OPTIONS] --listen <ADDR:PORT|unix:PATH>

    Options:
          --listen <ADDR:PORT|unix:PATH>
              Address or Unix socket on which to listen; a Unix socket is for one proxy, which may read
              and write it (mode 0660), and requires `--client-ip-header`
              
              [env: CALLBACK_SOURCE_LISTEN]

          --admin-listen <ADDR:PORT|unix:PATH>
              Separate address or Unix socket of `/healthz`, `/readyz`, `/status` and `/metrics`, for
              everyone who can connect, and for the commands `status`, `history`, `explain` and `watch`
              
              [env: CALLBACK_SOURCE_ADMIN_LISTEN]

          --ext-authz-listen <ADDR:PORT>
              Address of Envoy's external authorization over gRPC
              (`envoy.service.auth.v3.Authorization/Check`), for your Envoys only
              
              The client is `attributes.source.address`, or the one that a trusted proxy in front of
              Envoy names in `--client-ip-header`. The gRPC health service is at the same address.
              
              [env: CALLBACK_SOURCE_EXT_AUTHZ_LISTEN]

          --report-only
              Refuse nothing: always respond with 200, with the verdict in headers
              
              [env: CALLBACK_SOURCE_REPORT_ONLY]

          --unsure-status <CODE>
              Status in place of 503, for servers that understand only 401 and 403
              
              [env: CALLBACK_SOURCE_UNSURE_STATUS]

          --max-connections <NUMBER>
              Maximum number of connections
              
              When few free connections are left, each connection ends with its next response. A
              connection that has then waited for its client for a second is closed. When none is left,
              a new connection displaces one of the address with the most connections. Connections of
              trusted proxies are ended last.
              
              [env: CALLBACK_SOURCE_MAX_CONNECTIONS]
              [default: 10000]

          --idle-timeout <DURATION>
              Time for which a connection without a request is kept open
              
              Set it above the proxy's own limit. Otherwise the proxy may send a callback into a
              connection that is just being closed.
              
              [env: CALLBACK_SOURCE_IDLE_TIMEOUT]
              [default: 65m]

          --stop-delay <DURATION>
              Time for which to keep serving after the signal to stop, while `/readyz` responds with 503
              
              Load balancers send callbacks until they notice that the server is not ready.
              
              [env: CALLBACK_SOURCE_STOP_DELAY]
              [default: 5s]

          --config <PATH>
              Configuration file (TOML); its keys are the flags of `serve`
              
              `callback-source config example` prints a file with all keys.
              
              [env: CALLBACK_SOURCE_CONFIG]

      -h, --help
              Print help (see a summary with '-h')

    Behind a proxy:
          --trusted-proxy <CIDR|unix:>
              Proxy that is trusted to name the client; `unix:` trusts the entry that nginx behind a
              Unix socket writes into `x-forwarded-for`, as a hop and never as the client
              
              [env: CALLBACK_SOURCE_TRUSTED_PROXY]

          --client-ip-header <NAME>
              Header with the client's address, from trusted proxies: `x-forwarded-for`, `forwarded`, or
              one with a single address, such as `x-real-ip`
              
              [env: CALLBACK_SOURCE_CLIENT_IP_HEADER]

          --proxy-protocol
              Read the client from the PROXY protocol header (version 1 or 2), which trusted proxies
              send before the first byte; a connection of a trusted proxy without this header is closed
              
              [env: CALLBACK_SOURCE_PROXY_PROTOCOL]

    Targets:
          --follow <TARGET>
              Copy of the set to keep up to date, as with `follow`
              
              [env: CALLBACK_SOURCE_FOLLOW]

          --on-change <COMMAND>
              Command for the shell that runs at the start and after each change of a `file:` target:
              one at a time, ended after 60 s, and repeated if it fails
              
              [env: CALLBACK_SOURCE_ON_CHANGE]

          --allow-empty
              Empty the targets when no address is admitted any more
              
              [env: CALLBACK_SOURCE_ALLOW_EMPTY]

    Journal:
          --journal <PATH>
              File for the journal: changes, outages, refusals [default: `journal.jsonl` beside the
              state file, if there is one]
              
              One JSON object a line, with at most 4 MiB in this file and 4 MiB in an earlier one
              (`PATH.1`).
              
              [env: CALLBACK_SOURCE_JOURNAL]

          --journal-keep <DURATION>
              Time after which the addresses of refused peers are removed from the journal
              
              [env: CALLBACK_SOURCE_JOURNAL_KEEP]
              [default: 90days]

    Allowed callers:
          --environment <ENVIRONMENT>
              Environment of the provider; may be repeated [default: production, unless `--host` or
              `--allow` is given]

              Possible values:
              - production: Real payments, including the servers for disaster recovery
              - test:       The merchant test environment
              
              [env: CALLBACK_SOURCE_ENVIRONMENT]

          --host <NAME>
              Host whose addresses are admitted
              
              [env: CALLBACK_SOURCE_HOST]

          --allow <CIDR>
              Network or address that is always admitted, without DNS
              
              [env: CALLBACK_SOURCE_ALLOW]

          --allow-special-addresses
              Admit special-purpose addresses (loopback, private, …) in answers: only for tests, since
              DNS can then open your own network
              
              [env: CALLBACK_SOURCE_ALLOW_SPECIAL_ADDRESSES]

    Lookups:
          --ipv4-only
              Look up IPv4 addresses only, for networks without answers to AAAA questions: IPv6 peers
              are refused, unless `--allow` lists them
              
              [env: CALLBACK_SOURCE_IPV4_ONLY]

          --ipv6-only
              Look up IPv6 addresses only: IPv4 peers are refused, unless `--allow` lists them
              
              [env: CALLBACK_SOURCE_IPV6_ONLY]

          --dns-server <IP[:PORT]>
              DNS server; several are asked in the given order [default: the system's; port 53]
              
              [env: CALLBACK_SOURCE_DNS_SERVER]

          --min-ttl <DURATION>
              Minimum TTL, and minimum time between two lookups of a question
              
              [env: CALLBACK_SOURCE_MIN_TTL]
              [default: 5s]

          --max-ttl <DURATION>
              Maximum TTL: no question is asked less often
              
              [env: CALLBACK_SOURCE_MAX_TTL]
              [default: 1h]

          --linger <DURATION>
              Time for which an address stays admitted after it left the answer, at least until that
              answer has been refreshed
              
              [env: CALLBACK_SOURCE_LINGER]
              [default: 1h]

          --stale-for <DURATION>
              Time for which the last answer stays in use while lookups fail
              
              [env: CALLBACK_SOURCE_STALE_FOR]
              [default: 24h]

          --state-file <PATH>
              File that keeps the answers, so that a restart while DNS is down refuses no known server;
              `lookup` and `check` only read it
              
              [env: CALLBACK_SOURCE_STATE_FILE]

    Log:
          --log <FILTER>
              Log filter: a level, or `TARGET=LEVEL` pairs separated by commas [default:
              `error,callback_source=warn`, for `serve` and `follow` `error,callback_source=info`]
              
              [env: CALLBACK_SOURCE_LOG]

          --log-format <FORMAT>
              Format of the log

              Possible values:
              - text: Lines for people
              - json: One JSON object a line
              
              [env: CALLBACK_SOURCE_LOG_FORMAT]
              [default: text]
    -- stderr
    "#);
}

#[tokio::test]
async fn an_error_names_the_invalid_value_and_the_fix() {
    for (line, snapshot) in [
        ("lookup --host callback-1", "one label"),
        (
            "lookup --host https://a.example/",
            "it is a URL; give only the host name `a.example`",
        ),
        (
            "lookup --host a.example:443",
            "it is a name with a port; give only the host name `a.example`",
        ),
        ("lookup --host 192.0.2.1", "use `--allow`"),
        ("lookup --host [2001:db8::1]", "`2001:db8::1`"),
        ("lookup --host 192.0.2.0/24", "`192.0.2.0/24`"),
        ("lookup --host *.a.example", "wildcard"),
        ("lookup --host ok.example,https://a.example/", "`a.example`"),
        ("lookup --state-file /", "the path of a file"),
        ("lookup --state-file ..", "the path of a file"),
        ("lookup --state-file state/", "the path of a file"),
        (
            "lookup --environment live",
            "[possible values: production, test]",
        ),
        ("lookup --allow 192.0.2.0/33", "192.0.2.0/33"),
        ("lookup --allow a.example", "use `--host`"),
        ("lookup --allow 0.0.0.0/0", "every address"),
        ("lookup --allow 0.0.0.0/1,128.0.0.0/1", "every address"),
        ("lookup --allow ::/0", "every address"),
        ("lookup --dns-server dns.example", "192.0.2.53"),
        ("lookup --dns-server 192.0.2.53:0", "port 0"),
        ("lookup --dns-server fe80::1", "needs its zone"),
        ("lookup --dns-server [fe80::1]:53", "needs its zone"),
        (
            "lookup --dns-server fe80::1%nosuch0",
            "unknown zone `nosuch0`",
        ),
        ("lookup --dns-server 192.0.2.53:99999", "192.0.2.53:99999"),
        ("lookup --min-ttl 500ms", "500ms"),
        ("lookup --min-ttl 2h", "`--max-ttl`"),
        ("lookup --max-ttl 2s", "`--min-ttl`"),
        ("lookup --linger 90", "`90s`"),
        ("lookup --linger=-1s", "--linger"),
        (
            "lookup --stale-for 99999999999999999999y",
            "99999999999999999999y",
        ),
        ("lookup --log a=b=c", "invalid log filter `a=b=c`"),
        ("lookup --log-format xml", "[possible values: text, json]"),
        ("lookup extra", "extra"),
        ("lookpu", "lookup"),
        ("serve", "--listen <ADDR:PORT|unix:PATH>"),
        ("serve --listen 8080", "8080"),
        ("serve --listen 127.0.0.1:0 --unsure-status 204", "204"),
        ("serve --listen 127.0.0.1:0 --unsure-status 302", "302"),
        ("serve --listen 127.0.0.1:0 --unsure-status 1000", "1000"),
        ("serve --listen 127.0.0.1:0 --max-connections 0", "0"),
        ("completions tcsh", "tcsh"),
    ] {
        let output = run(line).await;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{line}: {stderr}");
        assert!(output.stdout.is_empty(), "{line}");
        assert!(stderr.starts_with("error: "), "{line}: {stderr}");
        assert!(stderr.contains(snapshot), "{line}: {stderr}");
        assert!(!stderr.contains("panicked"), "{line}: {stderr}");
    }
    assert_shown!(run("lookup --host callback-1").await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: invalid value 'callback-1' for '--host <NAME>': invalid host name `callback-1`: it has only one label, and search lists are not used; give the full name

    For more information, try '--help'.
    "#);
    assert_shown!(run("lookup --host https://callback-1.vipps.no/").await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: invalid value 'https://callback-1.vipps.no/' for '--host <NAME>': invalid host name `https://callback-1.vipps.no/`: it is a URL; give only the host name `callback-1.vipps.no`

    For more information, try '--help'.
    "#);
    assert_shown!(run("lookup --host 192.0.2.1").await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: invalid value '192.0.2.1' for '--host <NAME>': it is an address: use `--allow` to admit `192.0.2.1` as a static network

    For more information, try '--help'.
    "#);
    assert_shown!(run("lookup --log=").await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: a value is required for '--log <FILTER>' but none was supplied

    For more information, try '--help'.
    "#);
    assert_shown!(run("lookup --max-ttl 2s").await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: invalid TTL bounds 5s to 2s: the minimum must be at least 1 s and at most the maximum
    hint: set both `--min-ttl` and `--max-ttl`
    "#);
    assert_shown!(run("lookup --allow 0.0.0.0/0").await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: network `0.0.0.0/0` contains every address; list specific networks
    "#);
    assert_shown!(run("lookup --log a=b=c").await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: invalid log filter `a=b=c`: error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5
    hint: give a level such as `warn`, or `TARGET=LEVEL` pairs separated by commas
    "#);
    assert_shown!(run("lookup --linger 90").await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: invalid value '90' for '--linger <DURATION>': time unit needed, for example 90sec or 90ms; give a duration such as `90s`, `10m` or `24h`

    For more information, try '--help'.
    "#);
    assert_shown!(run("serve --listen 127.0.0.1:0 --unsure-status 204").await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: invalid value '204' for '--unsure-status <CODE>': give a status from 400 to 599: with any other, the callback would pass

    For more information, try '--help'.
    "#);
}

#[tokio::test]
async fn accepts_windows_of_any_length() {
    let dns = zone().await;
    let line = format!("lookup --host one.example {}", ask(&dns));
    for windows in [
        "--linger 0s --stale-for 0s",
        "--linger 500000000y --stale-for 500000000y",
        "--min-ttl 1s --max-ttl 1s",
        "--min-ttl 1s --max-ttl 500000000y",
        "--min-ttl 400y --max-ttl 500000000y",
    ] {
        let output = run(&format!("{line} {windows}")).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{windows}: {stderr}");
    }
}

#[tokio::test]
async fn reads_flags_from_the_environment() {
    let dns = zone().await;
    let mut lookup = command(["lookup"]);
    lookup
        .env("CALLBACK_SOURCE_HOST", "one.example,two.example")
        .env("CALLBACK_SOURCE_ALLOW", "192.0.2.0/24,198.51.100.1")
        .env("CALLBACK_SOURCE_DNS_SERVER", dns.addr().to_string())
        .env("CALLBACK_SOURCE_BY_HOST", "yes");
    assert_shown!(lookup.output().await.unwrap(), @r#"
    exit 0
    -- stdout
    HOST         TYPE  TTL  STATE     ADDRESS
    one.example  A      60  answered  9.45.17.199
    one.example  A      60  answered  104.45.28.230
    two.example  A     300  answered  52.232.113.216
    two.example  AAAA  300  answered  2a01:111::7
    -            -       -  static    192.0.2.0/24
    -            -       -  static    198.51.100.1
    -- stderr
    "#);

    let mut lookup = command(["lookup", "--host", "two.example"]);
    lookup
        .env("CALLBACK_SOURCE_HOST", "one.example")
        .env("CALLBACK_SOURCE_DNS_SERVER", dns.addr().to_string())
        .env("CALLBACK_SOURCE_ALLOW_SPECIAL_ADDRESSES", "nein");
    assert_shown!(lookup.output().await.unwrap(), @r#"
    exit 2
    -- stdout
    -- stderr
    error: invalid value 'nein' for '--allow-special-addresses': value was not a boolean

    For more information, try '--help'.
    "#);
}

#[tokio::test]
async fn reads_variables_with_blanks_and_line_breaks() {
    let dns = zone().await;
    let server = format!(" {}\n", dns.addr());
    let expected =
        "9.45.17.199\n52.232.113.216\n104.45.28.230\n192.0.2.0/24\n198.51.100.7\n2a01:111::7\n";
    for (hosts, networks) in [
        ("one.example, two.example", "192.0.2.0/24, 198.51.100.7"),
        ("one.example,,two.example,", ",192.0.2.0/24,198.51.100.7"),
        // Values of block scalars in YAML (`|` and `>`).
        (
            "one.example\ntwo.example\n",
            "192.0.2.0/24,\n198.51.100.7\n",
        ),
        (" one.example two.example\n", "192.0.2.0/24 198.51.100.7"),
        ("one.example;two.example", "192.0.2.0/24;198.51.100.7"),
    ] {
        let mut lookup = command(["lookup"]);
        lookup
            .env("CALLBACK_SOURCE_HOST", hosts)
            .env("CALLBACK_SOURCE_ALLOW", networks)
            .env("CALLBACK_SOURCE_DNS_SERVER", &server)
            .env("CALLBACK_SOURCE_MIN_TTL", " 5s\n")
            .env("CALLBACK_SOURCE_LOG_FORMAT", "text\n")
            .env("CALLBACK_SOURCE_JSON", " no\n");
        let output = lookup.output().await.unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        if hosts.contains(';') {
            assert_eq!(output.status.code(), Some(2));
            assert!(stderr.contains("it is a list"), "{stderr}");
        } else {
            let stdout = String::from_utf8_lossy(&output.stdout);
            assert_eq!(stdout, expected, "{hosts:?}: {stderr}");
        }
    }
}

#[tokio::test]
async fn an_empty_variable_is_treated_as_unset() {
    let dns = zone().await;
    let mut variables = Vec::new();
    for name in ["lookup", "check", "serve", "sign", "verify"] {
        let output = run(&format!("{name} --help")).await;
        let help = String::from_utf8(output.stdout).unwrap();
        let named = help.split("[env: ").skip(1);
        let named = named.filter_map(|rest| rest.split(']').next().map(str::to_owned));
        variables.extend(named);
    }
    variables.push("CALLBACK_SOURCE_WEBHOOK_SECRET".to_owned());
    assert!(variables.len() > 60, "{}", variables.len());
    let server = dns.addr().to_string();
    let asked = ["--host", "one.example", "--dns-server", &server];
    let mut outputs = Vec::new();
    for blank in ["", " ", " \r\n\t"] {
        let with_blanks = async |args: &[&str]| {
            let mut command = command(args);
            command.envs(variables.iter().map(|name| (name, blank)));
            command.output().await.unwrap()
        };
        let lookup = with_blanks(&[&["lookup"], &asked[..]].concat()).await;
        let check = with_blanks(&[&["check", "9.45.17.199"], &asked[..]].concat()).await;
        let serve = with_blanks(&["serve"]).await;
        let sign = with_blanks(&["sign", "--url", "https://a.example/"]).await;
        outputs.push([lookup, check, serve, sign]);
        // Blank variables do not change the help.
        let help = with_blanks(&["lookup", "--help"]).await;
        assert_eq!(help.stdout, run("lookup --help").await.stdout);
    }
    assert!(outputs.iter().all(|each| *each == outputs[0]));
    let [lookup, check, serve, sign] = &outputs[0];
    assert_shown!(lookup, @r#"
    exit 0
    -- stdout
    9.45.17.199
    104.45.28.230
    -- stderr
    "#);
    assert!(check.status.success());
    assert_shown!(serve, @r#"
    exit 2
    -- stdout
    -- stderr
    error: the following required arguments were not provided:
      --listen <ADDR:PORT|unix:PATH>

    Usage: callback-source serve --listen <ADDR:PORT|unix:PATH>

    For more information, try '--help'.
    "#);
    assert_shown!(sign, @r#"
    exit 2
    -- stdout
    -- stderr
    error: no webhook secret was given
    hint: give a file with `--secret-file PATH`, or set `CALLBACK_SOURCE_WEBHOOK_SECRET`
    "#);
}

#[tokio::test]
async fn a_server_logs_once_that_its_state_file_cannot_be_written() {
    let dns = zone().await;
    dns.set("one.example", 1, &[ip("9.45.17.199")]);
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing").join("state.json");
    let server = dns.addr().to_string();
    let mut serve = command([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--host",
        "one.example",
        "--min-ttl",
        "1s",
        "--max-ttl",
        "1s",
        "--dns-server",
        &server,
        "--state-file",
        missing.to_str().unwrap(),
    ]);
    let mut child = serve.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut log = Vec::new();
    let mut changes = 0;
    while changes < 4 {
        let line = lines.next_line().await.unwrap().expect("it runs");
        if line.contains("callback servers changed") {
            changes += 1;
            let address = format!("9.45.18.{changes}");
            dns.set("one.example", 1, &[ip(&address)]);
        }
        log.push(line);
    }
    child.start_kill().unwrap();
    let warnings = |line: &&String| line.contains("state file not written");
    let warnings: Vec<_> = log.iter().filter(warnings).collect();
    assert_eq!(warnings.len(), 1, "{log:#?}");
    assert!(warnings[0].contains("create the folder"), "{warnings:?}");
    let listening = log.iter().position(|line| line.contains("listening on"));
    let at = log.iter().position(|line| line == warnings[0]);
    assert!(at < listening, "{log:#?}");
}

#[tokio::test]
async fn logs_to_stderr_by_the_filter() {
    let dns = zone().await;
    let line = format!("check 9.45.17.199 --host one.example {}", ask(&dns));
    let output = run(&format!(
        "{line} --log callback_source=info --log-format json"
    ))
    .await;
    assert_eq!(output.stdout, b"9.45.17.199 allow one.example fresh\n");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains(r#""message":"callback servers changed""#),
        "{stderr}"
    );
    assert!(
        stderr
            .lines()
            .all(|line| line.starts_with('{') && line.ends_with('}'))
    );
}

#[tokio::test]
async fn reports_why_it_cannot_listen() {
    let dns = DnsServer::start().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let line = format!("serve --listen {address} {}", ask(&dns));
    assert_shown!(run(&line).await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: cannot listen on [SERVER]: Address already in use (os error 98)
    hint: stop the process that listens there, or choose another port
    "#);
    let line = format!(
        "serve --listen 127.0.0.1:0 --admin-listen {address} {}",
        ask(&dns)
    );
    assert_shown!(run(&line).await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: cannot listen on [SERVER]: Address already in use (os error 98)
    hint: stop the process that listens there, or choose another port
    "#);
    let line = format!("serve --listen 192.0.2.1:80 {}", ask(&dns));
    assert_shown!(run(&line).await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: cannot listen on 192.0.2.1:80: Cannot assign requested address (os error 99)
    hint: give an address of this machine, or `0.0.0.0` or `[::]` for all of them
    "#);
}

#[cfg(unix)]
#[tokio::test]
async fn reports_which_file_is_at_the_path_of_a_socket() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("file"), "precious").unwrap();
    fs::create_dir(at("folder")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(at("left-over")).unwrap());
    std::os::unix::fs::symlink(at("left-over"), at("link")).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(at("used")).unwrap();
    let long = "x".repeat(120);
    for (name, message, hint) in [
        (
            "file",
            "this path is a regular file, not a socket",
            "is not deleted",
        ),
        (
            "folder",
            "this path is a directory, not a socket",
            "give a path in that directory",
        ),
        (
            "link",
            "this path is a symbolic link, not a socket",
            "the path of the socket itself",
        ),
        (
            "used",
            "another process listens on this socket",
            "stop that process",
        ),
        ("missing/socket", "does not exist", "create it first"),
        ("file/socket", "is not a folder", "give another path"),
        (&long, "too long for a Unix socket", "at most 107 bytes"),
    ] {
        let path = at(name);
        let line = format!(
            "serve --listen unix:{} --client-ip-header x-real-ip --allow 192.0.2.1",
            path.display()
        );
        let output = run(&line).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        let error = format!("error: cannot listen on unix:{}: ", path.display());
        let (error, rest) = (stderr.contains(&error), stderr.split("hint: ").nth(1));
        assert!(error && stderr.contains(message), "{stderr}");
        assert!(rest.is_some_and(|rest| rest.contains(hint)), "{stderr}");
        assert!(!stderr.contains("port"), "{stderr}");
    }
    assert_eq!(fs::read_to_string(at("file")).unwrap(), "precious");
    assert!(at("link").is_symlink() && at("folder").is_dir());
}

#[tokio::test]
async fn rejects_time_limits_out_of_range() {
    for flag in [
        "--idle-timeout 0s",
        "--idle-timeout 999ms",
        "--idle-timeout 25h",
        "--idle-timeout 1000000years",
        "--stop-delay 25h",
        "--stop-delay -1s",
    ] {
        let output = run(&format!("serve --listen 127.0.0.1:0 {flag}")).await;
        assert_eq!(output.status.code(), Some(2), "{flag}");
    }
}

#[tokio::test]
async fn a_reader_that_closes_the_pipe_early_is_not_an_error() {
    let dns = zone().await;
    let args = format!("lookup --json --host one.example {}", ask(&dns));
    let mut lookup = command(args.split_whitespace());
    let mut child = lookup
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_shown!(child.wait_with_output().await.unwrap(), @r#"
    exit 0
    -- stdout
    -- stderr
    "#);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_is_an_error() {
    let dns = zone().await;
    let args = format!("lookup --host one.example {}", ask(&dns));
    let full = fs::File::create("/dev/full").unwrap();
    let mut lookup = command(args.split_whitespace());
    let child = lookup.stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    assert_shown!(child.wait_with_output().await.unwrap(), @r#"
    exit 2
    -- stdout
    -- stderr
    error: cannot write to stdout: No space left on device (os error 28)
    "#);
}

#[tokio::test]
async fn prints_a_completion_script_for_each_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = run(&format!("completions {shell}")).await;
        assert!(output.status.success() && output.stderr.is_empty());
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains("unsure-status"), "{shell}");
    }
}
