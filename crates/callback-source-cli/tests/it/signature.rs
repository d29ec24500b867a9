//! The commands `sign` and `verify`.

use std::{path::PathBuf, process::Stdio};

use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use crate::setup::{assert_shown, command, run};

/// A secret that the provider published in 2023.
const SECRET: &str =
    "A0+AeKBRG2KRGvnNwJpQlb6IJFk48CKXCIcrLoHncVJKDILsQSxS6NWCccwWm6r6FhGKhiHTBsG2wo/xU6FY/A==";
const URL: &str = "https://webhook.site/e2cee29b-012e-4f1d-8ef4-e95fd74a7a63";
const DATE: &str = "Thu, 30 Mar 2023 08:38:32 GMT";
const BODY: &str = r#"{"some-unique-content":"ee6e441b-cc4a-46f8-895d-a5af79bcc233/hello-world"}"#;
const HASH: &str = "lNlsp1XA03N34HrQsVzPgJKtC+r7l/RBF4V3JQUWMj4=";
const SIGNATURE: &str = "agAiSyogQbDHpeucoNwYz+yAr5nJ+v+zasdkSbqzv+U=";
/// Signature that is computed with the decoded secret as the key.
const OF_DECODED_SECRET: &str = "T3+NXHMmhNVEjW5PeJ4Gql70nf0MOXCAY9CoZDxuVQw=";

/// A directory with the secret and a request.
struct Files(TempDir);

impl Files {
    fn new(request: impl AsRef<[u8]>) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.write("secret", format!("{SECRET}\n"));
        files.write("request", request);
        files
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs the command within the directory.
    async fn run(&self, args: &[&str]) -> std::process::Output {
        self.command(args).output().await.unwrap()
    }

    fn command(&self, args: &[&str]) -> tokio::process::Command {
        let mut command = command(args);
        command.current_dir(self.0.path());
        command
    }

    /// Runs `verify` with the secret, as of the date of the test vector.
    async fn verify(&self, args: &[&str]) -> std::process::Output {
        let verify = ["verify", "--request", "request", "--secret-file", "secret"];
        self.run(&[&verify[..], &["--at", DATE], args].concat())
            .await
    }
}

fn request(path: &str, host: &str, signature: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\n\
         Host: {host}\r\n\
         User-Agent: Vipps MobilePay/1.0 Webhooks/1.0\r\n\
         Content-Length: {}\r\n\
         x-ms-date: {DATE}\r\n\
         x-ms-content-sha256: {HASH}\r\n\
         Authorization: HMAC-SHA256 SignedHeaders=x-ms-date;host;x-ms-content-sha256&Signature={signature}\r\n\
         \r\n{BODY}",
        BODY.len(),
    )
}

fn vector() -> String {
    request(PATH, "webhook.site", SIGNATURE)
}

const PATH: &str = "/e2cee29b-012e-4f1d-8ef4-e95fd74a7a63";

#[tokio::test]
async fn the_published_vector_matches_at_its_date() {
    let files = Files::new(vector());
    assert_shown!(files.verify(&[]).await, @r#"
    exit 0
    -- stdout
    date: matches
    content hash: matches
    signature: matches
    -- stderr
    "#);
    assert_shown!(files.verify(&["--url", URL, "--json"]).await, @r#"
    exit 0
    -- stdout
    {
      "fits": true,
      "date": {
        "fits": true
      },
      "content_hash": {
        "fits": true
      },
      "signature": {
        "fits": true
      }
    }
    -- stderr
    "#);
}

#[tokio::test]
async fn a_request_may_be_saved_with_bare_line_feeds_and_a_line_break_at_the_end() {
    let files = Files::new(vector().replace("\r\n", "\n"));
    assert!(files.verify(&[]).await.status.success());
    files.write("request", vector() + "\n");
    assert_shown!(files.verify(&[]).await, @r#"
    exit 0
    -- stdout
    date: matches
    content hash: matches
    signature: matches
    -- stderr
    note: bytes after the 74 bytes of the body are ignored
    "#);
}

#[tokio::test]
async fn a_request_that_was_not_saved_whole_is_reported() {
    let whole = vector();
    let files = Files::new(&whole[..whole.len() - 3]);
    assert_shown!(files.verify(&[]).await, @r#"
    exit 1
    -- stdout
    date: matches
    content hash: the body does not have the hash in `x-ms-content-sha256`
    signature: matches
    -- stderr
    note: the body has 71 of 74 bytes; save it whole
    "#);
}

#[tokio::test]
async fn an_old_date_does_not_match() {
    let files = Files::new(vector());
    let late = |at: &'static str| {
        let files = &files;
        async move {
            let verify = ["verify", "--request", "request", "--secret-file", "secret"];
            files.run(&[&verify[..], &["--at", at]].concat()).await
        }
    };
    assert_shown!(late("2023-03-30T08:43:33Z").await, @r#"
    exit 1
    -- stdout
    date: 5m 1s old; at most 5m is accepted
    content hash: matches
    signature: matches
    -- stderr
    "#);
    assert_shown!(late("2023-03-30T08:33:31Z").await, @r#"
    exit 1
    -- stdout
    date: 5m 1s ahead; at most 5m is accepted
    content hash: matches
    signature: matches
    -- stderr
    "#);
    for at in ["2023-03-30T08:43:32Z", "2023-03-30T08:33:32Z"] {
        assert!(late(at).await.status.success(), "{at}");
    }
    let now = ["verify", "--request", "request", "--secret-file", "secret"];
    let output = files.run(&now).await;
    assert_eq!(output.status.code(), Some(1));
    let hint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        hint,
        "hint: give the time at which the request arrived with `--at TIME`\n"
    );
}

#[tokio::test]
async fn a_signature_with_the_decoded_secret_does_not_match() {
    let files = Files::new(request(PATH, "webhook.site", OF_DECODED_SECRET));
    assert_shown!(files.verify(&["--url", URL]).await, @r#"
    exit 1
    -- stdout
    date: matches
    content hash: matches
    signature: key differs: the secret belongs to another registration, the secret was changed (it looks like base64 and must not be decoded), or a signed header was changed
    -- stderr
    "#);
    assert_shown!(files.verify(&[]).await, @r#"
    exit 1
    -- stdout
    date: matches
    content hash: matches
    signature: key, host or path differs
    -- stderr
    hint: to distinguish them, give the registered URL with `--url URL`
    "#);
    assert_shown!(files.verify(&["--json"]).await, @r#"
    exit 1
    -- stdout
    {
      "fits": false,
      "date": {
        "fits": true
      },
      "content_hash": {
        "fits": true
      },
      "signature": {
        "fits": false,
        "reason": "key-or-target"
      }
    }
    -- stderr
    hint: to distinguish them, give the registered URL with `--url URL`
    "#);
}

#[tokio::test]
async fn a_host_or_path_that_a_proxy_changed_is_distinguished_from_a_wrong_key() {
    let files = Files::new(request(PATH, "10.0.0.7:8080", SIGNATURE));
    assert_shown!(files.verify(&["--url", URL]).await, @r#"
    exit 1
    -- stdout
    date: matches
    content hash: matches
    signature: host differs: `10.0.0.7:8080` arrived, `webhook.site` was registered; configure the proxy to keep it, or pin it
    -- stderr
    "#);
    files.write("request", request("/hooks", "webhook.site", SIGNATURE));
    assert_shown!(files.verify(&["--url", URL]).await, @r#"
    exit 1
    -- stdout
    date: matches
    content hash: matches
    signature: path differs: `/hooks` arrived, `/e2cee29b-012e-4f1d-8ef4-e95fd74a7a63` was registered; configure the proxy to keep it, or pin it
    -- stderr
    "#);
    files.write("request", request("/hooks", "10.0.0.7:8080", SIGNATURE));
    assert_shown!(files.verify(&["--url", URL]).await, @r#"
    exit 1
    -- stdout
    date: matches
    content hash: matches
    signature: host and path differ, or the method: the request was signed for the registered URL
    -- stderr
    "#);
}

#[tokio::test]
async fn a_changed_body_does_not_match() {
    let files = Files::new(vector().replace("hello-world", "hello-moon!"));
    assert_shown!(files.verify(&[]).await, @r#"
    exit 1
    -- stdout
    date: matches
    content hash: the body does not have the hash in `x-ms-content-sha256`
    signature: matches
    -- stderr
    "#);
}

#[tokio::test]
async fn an_invalid_header_is_named() {
    let files = Files::new("");
    for (from, to, line) in [
        (
            "x-ms-date:",
            "x-date:",
            "date: the header `x-ms-date` is missing\n",
        ),
        (
            DATE,
            "2023-03-30",
            "date: the header `x-ms-date` is malformed\n",
        ),
        (
            HASH,
            "lNlsp1XA",
            "content hash: the header `x-ms-content-sha256` is malformed\n",
        ),
        (
            "Authorization:",
            "X:",
            "signature: the header `authorization` is missing\n",
        ),
        (
            "HMAC-SHA256 ",
            "HMAC-SHA512 ",
            "signature: the scheme of `authorization` is not `HMAC-SHA256`\n",
        ),
        ("Host:", "X:", "signature: the header `host` is missing\n"),
        (
            "Host:",
            "Host: a\r\nHost:",
            "signature: the host is given twice\n",
        ),
    ] {
        files.write("request", vector().replacen(from, to, 1));
        let output = files.verify(&[]).await;
        assert_eq!(output.status.code(), Some(1), "{to}");
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(stdout.contains(line), "{to}: {stdout}");
    }
}

#[tokio::test]
async fn a_file_without_a_request_is_an_error() {
    let files = Files::new("");
    for request in [
        "",
        "{}",
        "GET / HTTP/1.1\r\nHost: a",
        "GET / HTTP/2.0\r\n\r\n",
        BODY,
    ] {
        files.write("request", request);
        let output = files.verify(&[]).await;
        assert_eq!(output.status.code(), Some(2), "{request}");
        assert!(output.stdout.is_empty());
    }
    files.write("request", "POST / HTTP/1.1\r\nHost: a\r\n");
    assert_shown!(files.verify(&[]).await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: `request` does not contain an HTTP request: the headers do not end with an empty line
    hint: save the request as it arrived: request line, headers, an empty line, body
    "#);
    let args = ["verify", "--request", "nowhere", "--secret-file", "secret"];
    assert_shown!(files.run(&args).await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: cannot read the request from `nowhere`: No such file or directory (os error 2)
    "#);
}

#[tokio::test]
async fn a_secret_is_required_and_never_shown() {
    let files = Files::new(vector());
    let args = ["verify", "--request", "request"];
    assert_shown!(files.run(&args).await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: no webhook secret was given
    hint: give a file with `--secret-file PATH`, or set `CALLBACK_SOURCE_WEBHOOK_SECRET`
    "#);
    files.write("blank", "\n");
    let blank = [&args[..], &["--secret-file", "blank"]].concat();
    assert_shown!(files.run(&blank).await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: invalid webhook secret: the secret or token is empty
    hint: use the `secret` exactly as the provider returned it when the webhook was registered
    "#);

    let mut by_environment = files.command(&[&args[..], &["--at", DATE]].concat());
    by_environment.env("CALLBACK_SOURCE_WEBHOOK_SECRET", SECRET);
    assert!(by_environment.output().await.unwrap().status.success());

    let output = run(&format!("sign --url {URL} --secret {SECRET}")).await;
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!stderr.contains(SECRET), "{stderr}");
}

#[tokio::test]
async fn signs_the_published_vector() {
    let files = Files::new("");
    files.write("it's a body.json", BODY);
    let args = [
        "sign",
        "--url",
        URL,
        "--date",
        DATE,
        "--secret-file",
        "secret",
    ];
    let of_file = [&args[..], &["--body-file", "it's a body.json"]].concat();
    assert_shown!(files.run(&of_file).await, @r#"
    exit 0
    -- stdout
    curl --include --globoff --path-as-is https://webhook.site/e2cee29b-012e-4f1d-8ef4-e95fd74a7a63 \
      --header 'host: webhook.site' \
      --header 'x-ms-date: Thu, 30 Mar 2023 08:38:32 GMT' \
      --header 'x-ms-content-sha256: lNlsp1XA03N34HrQsVzPgJKtC+r7l/RBF4V3JQUWMj4=' \
      --header 'authorization: HMAC-SHA256 SignedHeaders=x-ms-date;host;x-ms-content-sha256&Signature=agAiSyogQbDHpeucoNwYz+yAr5nJ+v+zasdkSbqzv+U=' \
      --header 'x-vipps-authorization: HMAC-SHA256 SignedHeaders=x-ms-date;host;x-ms-content-sha256&Signature=agAiSyogQbDHpeucoNwYz+yAr5nJ+v+zasdkSbqzv+U=' \
      --header 'content-type: application/json; charset=utf-8' \
      --data-binary '@it'\''s a body.json'
    -- stderr
    "#);

    let mut of_stdin = files.command(&[&args[..], &["--body-file", "-"]].concat());
    assert_shown!(with_stdin(&mut of_stdin, BODY.as_bytes()).await, @r#"
    exit 0
    -- stdout
    curl --include --globoff --path-as-is https://webhook.site/e2cee29b-012e-4f1d-8ef4-e95fd74a7a63 \
      --header 'host: webhook.site' \
      --header 'x-ms-date: Thu, 30 Mar 2023 08:38:32 GMT' \
      --header 'x-ms-content-sha256: lNlsp1XA03N34HrQsVzPgJKtC+r7l/RBF4V3JQUWMj4=' \
      --header 'authorization: HMAC-SHA256 SignedHeaders=x-ms-date;host;x-ms-content-sha256&Signature=agAiSyogQbDHpeucoNwYz+yAr5nJ+v+zasdkSbqzv+U=' \
      --header 'x-vipps-authorization: HMAC-SHA256 SignedHeaders=x-ms-date;host;x-ms-content-sha256&Signature=agAiSyogQbDHpeucoNwYz+yAr5nJ+v+zasdkSbqzv+U=' \
      --header 'content-type: application/json; charset=utf-8' \
      --data-raw '{"some-unique-content":"ee6e441b-cc4a-46f8-895d-a5af79bcc233/hello-world"}'
    -- stderr
    "#);
    let mut of_stdin = files.command(&[&args[..], &["--body-file", "-"]].concat());
    assert_shown!(with_stdin(&mut of_stdin, b"\xff").await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: the body from stdin cannot be put into a command line: it is not text
    hint: save the body to a file, and give that with `--body-file PATH`
    "#);
}

#[tokio::test]
async fn a_url_that_could_not_be_registered_is_an_error() {
    let files = Files::new("");
    for url in [
        "",
        "/webhooks",
        "shop.example/webhooks",
        "ftp://shop.example/",
        "https:///a",
    ] {
        let args = ["sign", "--secret-file", "secret", "--url", url];
        assert_eq!(files.run(&args).await.status.code(), Some(2), "{url}");
    }
    let args = ["sign", "--secret-file", "secret", "--url", "/webhooks"];
    assert_shown!(files.run(&args).await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: invalid value '/webhooks' for '--url <URL>': give the whole URL, such as `https://shop.example/webhooks`

    For more information, try '--help'.
    "#);
}

#[tokio::test]
async fn verify_accepts_a_request_that_was_just_signed() {
    for (url, target, host) in [
        (
            "https://shop.example/hooks?a=b&c=%2F",
            "/hooks?a=b&c=%2F",
            "shop.example",
        ),
        ("https://shop.example", "/", "shop.example"),
        ("https://shop.example?a=b", "/?a=b", "shop.example"),
        ("https://Shop.Example/Hooks", "/Hooks", "shop.example"),
        ("http://shop.example:8080/#x", "/", "shop.example:8080"),
        ("https://shop.example:443/", "/", "shop.example"),
        ("https://[2001:db8::1]/", "/", "[2001:db8::1]"),
    ] {
        let files = Files::new("");
        files.write("body", BODY);
        let args = [
            "sign",
            "--secret-file",
            "secret",
            "--body-file",
            "body",
            "--url",
            url,
        ];
        let signed = files.run(&args).await;
        let command = String::from_utf8(signed.stdout).unwrap();
        assert!(command.contains(&format!("host: {host}")), "{command}");
        let headers = command.split(" --header '").skip(1);
        let headers: String = headers
            .filter_map(|rest| rest.split_once('\''))
            .map(|(header, _)| format!("{header}\r\n"))
            .collect();
        files.write(
            "request",
            format!("POST {target} HTTP/1.1\r\n{headers}\r\n{BODY}"),
        );
        let args = [
            "verify",
            "--request",
            "request",
            "--secret-file",
            "secret",
            "--url",
            url,
        ];
        let output = files.run(&args).await;
        assert!(
            output.status.success(),
            "{url}: {}",
            crate::setup::shown(&output)
        );
    }
}

async fn with_stdin(command: &mut tokio::process::Command, bytes: &[u8]) -> std::process::Output {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(bytes).await.unwrap();
    drop(stdin);
    child.wait_with_output().await.unwrap()
}

#[tokio::test]
async fn a_request_saved_from_http_2_is_read() {
    let http1 = request(
        "/e2cee29b-012e-4f1d-8ef4-e95fd74a7a63",
        "webhook.site",
        SIGNATURE,
    );
    for version in ["HTTP/2", "HTTP/2.0", "HTTP/3"] {
        let files = Files::new(http1.replace("HTTP/1.1", version));
        let output = files.verify(&[]).await;
        assert!(output.status.success(), "{}", crate::setup::shown(&output));
    }
    let (_, fields) = http1.split_once("webhook.site\r\n").unwrap();
    let files = Files::new(format!(
        ":method: POST\n:authority: webhook.site\n:scheme: https\n\
         :path: /e2cee29b-012e-4f1d-8ef4-e95fd74a7a63\n{fields}"
    ));
    let output = files.verify(&[]).await;
    assert!(output.status.success(), "{}", crate::setup::shown(&output));
}

#[tokio::test]
async fn reports_that_a_secret_matches_without_white_space_or_quotation_marks() {
    let files = Files::new(request(
        "/e2cee29b-012e-4f1d-8ef4-e95fd74a7a63",
        "webhook.site",
        SIGNATURE,
    ));
    for (secret, around) in [
        (format!(" {SECRET}"), "white space"),
        (format!("{SECRET} \n"), "white space"),
        (format!("{SECRET}\n\n"), "white space"),
        (format!("{SECRET}\r\n\t"), "white space"),
        (format!("\u{feff}{SECRET}"), "white space"),
        (format!("\"{SECRET}\"\n"), "quotation marks"),
    ] {
        files.write("secret", &secret);
        for url in [&["--url", URL][..], &[]] {
            let shown = crate::setup::shown(&files.verify(url).await);
            let part = format!(
                "signature: key differs: the secret matches without the {around} around it"
            );
            assert!(
                shown.starts_with("exit 1\n") && shown.contains(&part),
                "{secret:?}: {shown}"
            );
            let hint = format!("hint: remove the {around} around the secret");
            assert!(shown.contains(&hint), "{shown}");
            assert!(!shown.contains(&SECRET[..20]), "{shown}");
        }
    }
    files.write("secret", " another secret ");
    let shown = crate::setup::shown(&files.verify(&["--url", URL]).await);
    assert!(
        shown.contains("key differs: the secret belongs to another"),
        "{shown}"
    );
}
