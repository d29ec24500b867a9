//! The configuration file, the variables, and the command `config`.

use std::{fs, path::Path};

use tempfile::TempDir;

use crate::{
    server::Server,
    setup::{LISTED, UNLISTED, ask, assert_shown, command, one_host, run, zone},
};

/// Writes a file with this content in a new folder.
fn file(content: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    fs::write(&path, content).unwrap();
    (folder, path.to_str().unwrap().to_owned())
}

/// Returns the output of `config check` for a file with this content. The path of the folder is removed from the
/// output.
async fn problem(content: &str) -> String {
    let (folder, path) = file(content);
    let output = run(&format!("config check --config {path}")).await;
    assert_eq!(output.status.code(), Some(2), "{content}");
    assert!(output.stdout.is_empty());
    let text = String::from_utf8(output.stderr).unwrap();
    let folder: &Path = folder.path();
    text.replace(&format!("{}/", folder.display()), "")
}

#[tokio::test]
async fn a_mistake_in_the_file_is_reported_with_line_column_and_the_nearest_key() {
    for (content, expected) in [
        (
            "listen = \"127.0.0.1:1\"\n\n  enviroment = \"test\"\n",
            "config.toml:3:3: unknown key `enviroment`; did you mean `environment`?",
        ),
        (
            "listen = \"127.0.0.1:1\"\nxyz = 1",
            "config.toml:2:1: unknown key `xyz`; `callback-source config example` prints all keys",
        ),
        (
            "[serve]\nlisten = \"127.0.0.1:1\"",
            "config.toml:1:2: unknown key `serve`",
        ),
        (
            "linger = \"1 hur\"",
            "config.toml:1:10: invalid value `1 hur` of `linger`: ",
        ),
        (
            "environment = [\"test\",\n  \"tst\"]",
            "config.toml:2:3: invalid value `tst` of `environment`: expected `production` or `test`",
        ),
        (
            "max-connections = 0",
            "config.toml:1:19: invalid value `0` of `max-connections`: 0 is not in 1..=1000000",
        ),
        (
            "report-only = \"yes\"",
            "config.toml:1:15: `report-only` must be `true` or `false`",
        ),
        (
            "listen = [\"127.0.0.1:1\"]",
            "config.toml:1:10: `listen` must be a single value",
        ),
        (
            "linger = 1.5",
            "config.toml:1:10: `linger` must be a string, not a TOML float",
        ),
        (
            "host = []",
            "config.toml:1:8: `host` has no value; remove the key to use the default",
        ),
        (
            "log = \"\"",
            "config.toml:1:7: `log` is empty; remove the key to use the default",
        ),
        (
            "host = [\"a.example\"\n",
            "config.toml:1:20: unclosed array, expected `]`",
        ),
        ("log = \"a\"\nlog = \"b\"", "config.toml:2:1: duplicate key"),
        ("# é\nhöst = 1", "config.toml:2:2: "),
    ] {
        let text = problem(content).await;
        assert!(
            text.starts_with(&format!("error: {expected}")),
            "{content}\n{text}"
        );
    }
}

#[tokio::test]
async fn rules_between_keys_hold_for_the_file_as_for_flags() {
    let text = problem("listen = \"127.0.0.1:1\"\ntrusted-proxy = [\"10.0.0.1\"]\n").await;
    assert!(text.contains("`--trusted-proxy` requires"), "{text}");
    let text =
        problem("listen = \"127.0.0.1:1\"\nallow = [\"0.0.0.0/1\", \"128.0.0.0/1\"]\n").await;
    assert!(text.contains("contains every address"), "{text}");
    let text = problem("listen = \"127.0.0.1:1\"\nlog = \"=x=\"\n").await;
    assert!(text.contains("invalid log filter"), "{text}");
    let text = problem("report-only = true\n").await;
    assert!(text.contains("--listen <ADDR:PORT"), "{text}");
}

#[tokio::test]
async fn a_flag_replaces_a_variable_and_a_variable_replaces_the_file() {
    let (_folder, path) = file(
        "listen = \"127.0.0.1:8480\"\nlinger = \"2h\"\nstale-for = \"3h\"\nmax-ttl = \"4m\"\n\
         host = [\"a.example\", \"b.example\"]\nreport-only = true\nlog = \"warn\"\n",
    );
    let flags = [
        "config",
        "show",
        "--stale-for",
        "30m",
        "--host",
        "c.example",
    ];
    let mut show = command(flags);
    show.env("CALLBACK_SOURCE_CONFIG", &path)
        .env("CALLBACK_SOURCE_LINGER", "20m")
        .env("CALLBACK_SOURCE_STALE_FOR", "30h")
        .env("CALLBACK_SOURCE_LOG", " \n")
        .env("CALLBACK_SOURCE_REPORT_ONLY", "false");
    let output = show.output().await.unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{shown}");
    let shown: Vec<_> = shown
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    for line in [
        "listen = \"127.0.0.1:8480\" # file, line 1",
        "linger = \"20m\" # CALLBACK_SOURCE_LINGER",
        "stale-for = \"30m\" # flag",
        "max-ttl = \"4m\" # file, line 4",
        "min-ttl = \"5s\" # default",
        "host = [\"c.example\"] # flag",
        "report-only = false # CALLBACK_SOURCE_REPORT_ONLY",
        "log = \"warn\" # file, line 7",
        "# admin-listen # not set",
        "# host to look up: c.example",
    ] {
        assert!(
            shown.iter().any(|shown| shown == line),
            "no `{line}` in {shown:#?}"
        );
    }
    // The output is itself a configuration file.
    let (_folder, path) = file(&shown.join("\n"));
    let output = run(&format!("config check --config {path}")).await;
    assert_shown!(output, @r"
    exit 0
    -- stdout
    -- stderr
    note: the configuration is valid
    ");
}

#[tokio::test]
async fn an_unknown_variable_is_an_error_for_every_subcommand() {
    for line in [
        "serve --listen 127.0.0.1:0",
        "lookup",
        "check 192.0.2.1",
        "completions bash",
    ] {
        let mut command = command(line.split_whitespace());
        command.env("CALLBACK_SOURCE_ENVIROMENT", "test");
        let output = command.output().await.unwrap();
        assert_eq!(
            (output.status.code(), &*output.stdout),
            (Some(2), &b""[..]),
            "{line}"
        );
        let text = String::from_utf8(output.stderr).unwrap();
        let expected = "error: unknown variable `CALLBACK_SOURCE_ENVIROMENT`; did you mean \
                        `CALLBACK_SOURCE_ENVIRONMENT`?\nhint: ";
        assert!(text.starts_with(expected), "{line}: {text}");
    }
}

#[tokio::test]
async fn variables_of_other_subcommands_of_kubernetes_and_empty_ones_are_no_error() {
    let mut command = command(["completions", "bash"]);
    command.env("CALLBACK_SOURCE_LISTEN", "not an address");
    command.env("CALLBACK_SOURCE_WEBHOOK_SECRET", "secret");
    command.env("CALLBACK_SOURCE_SERVICE_HOST", "10.0.0.1");
    command.env("CALLBACK_SOURCE_PORT", "tcp://10.0.0.1:8480");
    command.env("CALLBACK_SOURCE_PORT_8480_TCP_ADDR", "10.0.0.1");
    command.env("CALLBACK_SOURCE_ENVIROMENT", "");
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn serve_and_check_judge_by_the_same_file() {
    let dns = one_host().await;
    let (_folder, path) = file(&format!(
        "listen = \"127.0.0.1:0\"\nhost = \"one.example\"\nallow-special-addresses = true\n\
         dns-server = \"{}\"\n",
        dns.addr()
    ));
    let output = run(&format!("check {LISTED} {UNLISTED} --config {path}")).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let server = Server::start(&format!("--config {path}")).await;
    server.ready().await;
    assert_eq!(server.get(LISTED, "/verify").await.status, 200);
    assert_eq!(server.get(UNLISTED, "/verify").await.status, 403);
}

#[tokio::test]
async fn a_file_that_is_missing_or_not_text_is_an_error() {
    let output = run("lookup --config /nonexistent/config.toml").await;
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text.starts_with("error: cannot read the configuration from `/nonexistent/config.toml`: "),
        "{text}"
    );
    let (_folder, path) = file("");
    fs::write(&path, [0xff, 0xfe]).unwrap();
    let output = run(&format!("lookup --config {path}")).await;
    assert_eq!(output.status.code(), Some(2));
    fs::write(&path, vec![b'#'; 1024 * 1024 + 1]).unwrap();
    let output = run(&format!("lookup --config {path}")).await;
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("larger than 1 MiB"), "{text}");
}

#[tokio::test]
async fn a_windows_editor_may_have_saved_the_file() {
    let dns = zone().await;
    let (_folder, path) = file("\u{feff}host = \"one.example\"\r\nlinger = \"1h\"\r\n");
    let output = run(&format!("lookup --config {path} {}", ask(&dns))).await;
    assert!(output.status.success(), "{output:?}");
}
