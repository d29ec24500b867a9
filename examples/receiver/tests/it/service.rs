//! Tests of the whole process, over real sockets. They run only on Linux, where all of 127.0.0.0/8 can be bound.
#![cfg(target_os = "linux")]

use std::{
    io,
    net::{IpAddr, SocketAddr},
    process::{ExitStatus, Stdio},
    time::SystemTime,
};

use callback_source::signature::{Secret, webhook};
use callback_source_testkit::dns::{DnsServer, Fault, FaultScope};
use integration_tests::http::{Client, Reply};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines},
    net::TcpListener,
    process::{Child, ChildStdout, Command},
};

#[tokio::test]
async fn the_first_printed_command_is_accepted_and_the_second_refused() -> io::Result<()> {
    for (environment, server, host) in [
        ("production", "127.0.1.1", "callback-1.vipps.no"),
        ("test", "127.0.3.1", "callback-mt-1.vipps.no"),
    ] {
        let arguments = ["--embedded-dns", "--environment", environment];
        let mut service = Service::start(&arguments).await?;
        let genuine = service.next_curl().await?;
        let forged = service.next_curl().await?;
        let received = service.next_curl().await?;
        assert_eq!(genuine.source.as_deref(), Some(server));
        assert_eq!(forged.source, None);

        assert_eq!(genuine.send().await?.status, 200);
        assert_eq!(forged.send().await?.status, 403);
        let received: Value = serde_json::from_slice(&received.send().await?.body)?;
        assert_eq!(received.as_array().map(Vec::len), Some(1));
        assert_eq!(received[0]["peer"], server);
        assert_eq!(received[0]["host"], host);
        assert_eq!(received[0]["freshness"], "fresh");
        assert!(service.stop().await?.success());
    }
    Ok(())
}

#[tokio::test]
async fn every_server_of_the_environment_is_admitted_and_no_other() -> io::Result<()> {
    let production = ["127.0.1.1", "127.0.1.4", "127.0.2.1", "127.0.2.4"];
    let others = [
        "127.0.0.1",
        "127.0.1.5",
        "127.0.2.5",
        "127.0.3.1",
        "127.0.3.2",
    ];
    let service = Service::start(&["--embedded-dns"]).await?;
    for source in production {
        assert_eq!(
            service.consent_removal(source).await?.status,
            204,
            "{source}"
        );
    }
    for source in others {
        assert_eq!(
            service.consent_removal(source).await?.status,
            403,
            "{source}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn tagging_receives_the_second_printed_command_as_well() -> io::Result<()> {
    let mut service = Service::start(&["--embedded-dns", "--tag"]).await?;
    service.next_curl().await?;
    let forged = service.next_curl().await?;
    let received = service.next_curl().await?;
    assert_eq!(forged.send().await?.status, 200);
    let received: Value = serde_json::from_slice(&received.send().await?.body)?;
    assert_eq!(received[0]["peer"], "127.0.0.1");
    assert_eq!(received[0]["reason"], "not-listed");
    Ok(())
}

#[tokio::test]
async fn a_signature_or_token_is_required_beside_a_listed_address() -> io::Result<()> {
    let secret = std::env::temp_dir().join(format!("receiver-secret-{}", std::process::id()));
    std::fs::write(&secret, "the secret of the registration\n")?;
    let path = secret.to_str().expect("the path is text");
    let checks = ["--webhook-secret-file", path, "--token", "the token"];
    let service = Service::start(&[&["--embedded-dns"], &checks[..]].concat()).await?;
    std::fs::remove_file(&secret)?;

    let listed = Client::from(IpAddr::from([127, 0, 1, 1]));
    let url = format!("http://{}/webhooks", service.addr);
    let body = br#"{"customerToken":"t","merchantQrId":"q"}"#;
    for (key, status) in [("the secret of the registration", 200), ("another", 401)] {
        let key = Secret::new(key).expect("a secret");
        let url = url.parse().expect("a URL");
        let signed = webhook::sign(&key, &url, body, SystemTime::now()).expect("signed");
        let signed: Vec<_> = signed
            .iter()
            .filter(|(name, _)| *name != "host")
            .map(|(name, value)| (name.as_str(), value.to_str().expect("text")))
            .collect();
        let sent = listed.send(service.addr, "POST", "/webhooks", &signed, body);
        assert_eq!(sent.await?.status, status);
    }
    for (token, status) in [("the token", 422), ("another", 401)] {
        let headers = [("authorization", token)];
        let sent = listed.send(service.addr, "POST", "/checkout", &headers, b"{}");
        assert_eq!(sent.await?.status, status);
    }
    assert!(service.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn an_invalid_secret_or_token_exits_with_2_and_is_not_shown() -> io::Result<()> {
    for (arguments, message) in [
        (
            ["--token", "s3cret\n"],
            "error: invalid token: the token is not a valid header value",
        ),
        (
            ["--webhook-secret-file", "/dev/null"],
            "error: invalid webhook secret: the secret or token is empty",
        ),
        (
            ["--webhook-secret-file", "/nowhere"],
            "error: cannot read the webhook secret from `/nowhere`",
        ),
    ] {
        let output = receiver().args(arguments).output().await?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(stderr.contains(message), "{stderr}");
        assert!(!stderr.contains("s3cret"), "{stderr}");
    }
    Ok(())
}

#[tokio::test]
async fn a_given_dns_server_is_used() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    for host in ["callback-mt-1.vipps.no", "callback-mt-2.vipps.no"] {
        dns.set(host, 60, &["127.0.9.9".parse().unwrap()]);
    }
    let addr = dns.addr().to_string();
    let asking = ["--environment", "test", "--dns-server", &addr];

    let accepting = [&asking[..], &["--allow-special-addresses"]].concat();
    let service = Service::start(&accepting).await?;
    assert_eq!(service.consent_removal("127.0.9.9").await?.status, 204);
    assert_eq!(service.consent_removal("127.0.9.8").await?.status, 403);
    let ready = service.get("/readyz").await?;
    assert_eq!(ready.status, 200);

    let service = Service::start(&asking).await?;
    assert_ne!(service.consent_removal("127.0.9.9").await?.status, 204);
    Ok(())
}

#[tokio::test]
async fn it_starts_while_dns_is_down_and_answers_503() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set_fault(FaultScope::Everything, Fault::Drop);
    let addr = dns.addr().to_string();
    let service = Service::start(&["--dns-server", &addr]).await?;
    let reply = service.consent_removal("127.0.1.1").await?;
    assert_eq!(reply.status, 503);
    assert!(reply.header("Retry-After").is_some());
    assert_eq!(service.get("/readyz").await?.status, 503);
    Ok(())
}

#[tokio::test]
async fn invalid_arguments_exit_with_2_and_a_hint() -> io::Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0").await?;
    let taken = taken.local_addr().map(|addr| (addr.to_string(), taken))?;
    for (arguments, texts) in [
        (
            &["--listen", &taken.0][..],
            [
                &*format!("cannot listen on `{}`: ", taken.0),
                "--listen ADDR:PORT",
            ],
        ),
        (&["--listen", "somewhere"], ["'somewhere'", "ADDR:PORT"]),
        (
            &["--environment", "staging"],
            ["staging", "`production` or `test`"],
        ),
        (
            &["--dns-server", "dns.example"],
            ["dns.example", "192.0.2.53:53"],
        ),
        (
            &["--embedded-dns", "--dns-server", "127.0.0.1:53"],
            ["--embedded-dns", "cannot be used with"],
        ),
        (
            &["--embedded-dns", "--listen", "[::1]:0"],
            ["`[::1]:", "--listen 127.0.0.1:8080"],
        ),
    ] {
        let output = receiver().args(arguments).output().await?;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        for text in texts {
            assert!(errors.contains(text), "{arguments:?}: {errors}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_signal_waits_for_the_request_in_progress() -> io::Result<()> {
    use tokio::{io::AsyncWriteExt, net::TcpStream};

    let mut service = Service::start(&["--embedded-dns", "--tag"]).await?;
    let mut connection = TcpStream::connect(service.addr).await?;
    let head = "POST /webhooks HTTP/1.1\r\nHost: receiver\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    connection.write_all(head.as_bytes()).await?;
    // `100 Continue` shows that the service has received the request and waits for the body.
    let mut interim = [0; 25];
    connection.read_exact(&mut interim).await?;
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");

    service.terminate().await?;
    // Once the service accepts no more connections, its shutdown has begun.
    while TcpStream::connect(service.addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
    connection.write_all(b"{}").await?;
    let mut reply = String::new();
    connection.read_to_string(&mut reply).await?;
    assert!(reply.starts_with("HTTP/1.1 422 "), "{reply}");
    assert!(service.child.wait().await?.success());
    Ok(())
}

/// A running receiver, which is killed when this value is dropped.
struct Service {
    child: Child,
    addr: SocketAddr,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Service {
    async fn start(arguments: &[&str]) -> io::Result<Self> {
        let mut command = receiver();
        command.args(["--listen", "127.0.0.1:0"]).args(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().expect("it is piped");
        let mut lines = BufReader::new(stdout).lines();
        let first = lines.next_line().await?.unwrap_or_default();
        let addr = first.strip_prefix("listening on http://");
        let addr = addr.and_then(|addr| addr.parse().ok());
        let addr = addr.ok_or_else(|| io::Error::other(format!("no address in `{first}`")))?;
        Ok(Self { child, addr, lines })
    }

    async fn next_curl(&mut self) -> io::Result<Curl> {
        while let Some(line) = self.lines.next_line().await? {
            if let Some(arguments) = line.strip_prefix("curl ") {
                return Ok(Curl::parse(arguments));
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    async fn consent_removal(&self, source: &str) -> io::Result<Reply> {
        let source: IpAddr = source.parse().expect("the test gives an address");
        let path = "/v2/consents/uiJskNQ6qNN1iwN891uuob%3D%3D";
        let client = Client::from(source);
        client.send(self.addr, "DELETE", path, &[], b"").await
    }

    async fn get(&self, path: &str) -> io::Result<Reply> {
        let client = Client::from(self.addr.ip());
        client.send(self.addr, "GET", path, &[], b"").await
    }

    async fn terminate(&self) -> io::Result<()> {
        let id = self
            .child
            .id()
            .expect("the process has not been waited for");
        let status = Command::new("kill").arg(id.to_string()).status().await?;
        assert!(status.success());
        Ok(())
    }

    async fn stop(mut self) -> io::Result<ExitStatus> {
        self.terminate().await?;
        self.child.wait().await
    }
}

/// A `curl` command line with the options that the receiver prints.
#[derive(Debug, Default)]
struct Curl {
    source: Option<String>,
    url: String,
    header: Option<String>,
    body: Option<String>,
}

impl Curl {
    fn parse(arguments: &str) -> Self {
        let mut curl = Self::default();
        let mut words = words(arguments).into_iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--interface" => curl.source = words.next(),
                "-H" => curl.header = words.next(),
                "-d" => curl.body = words.next(),
                "-i" => {}
                _ => curl.url = word,
            }
        }
        curl
    }

    /// Sends the request that curl would send.
    async fn send(&self) -> io::Result<Reply> {
        let rest = self.url.strip_prefix("http://").expect("plain HTTP");
        let (server, path) = rest.split_at(rest.find('/').expect("a path"));
        let server: SocketAddr = server.parse().map_err(io::Error::other)?;
        let source = self.source.as_deref().unwrap_or("127.0.0.1");
        let client = Client::from(source.parse::<IpAddr>().map_err(io::Error::other)?);
        let header = self.header.iter().filter_map(|line| line.split_once(": "));
        let headers: Vec<_> = header.collect();
        let method = if self.body.is_some() { "POST" } else { "GET" };
        let body = self.body.as_deref().unwrap_or_default();
        client
            .send(server, method, path, &headers, body.as_bytes())
            .await
    }
}

/// Splits a line into words as a POSIX shell does. Only single quotes are supported.
fn words(line: &str) -> Vec<String> {
    let mut quoted = false;
    let mut words = vec![String::new()];
    for character in line.chars() {
        match (character, words.last_mut()) {
            ('\'', _) => quoted = !quoted,
            (' ', _) if !quoted => words.push(String::new()),
            (character, Some(word)) => {
                let plain = quoted || !"$`\"\\|&;<>()*?[]#~!{}".contains(character);
                assert!(plain, "`{character}` is special to the shell");
                word.push(character);
            }
            (_, None) => {}
        }
    }
    words
}

fn receiver() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_receiver"));
    command.kill_on_drop(true);
    command
}
