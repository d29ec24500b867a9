//! `follow` and `serve --follow` with files.

use std::{fs, path::Path, time::Duration};

use integration_tests::{
    dns::{DnsServer, Fault, ResponseCode},
    servers, until,
};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::{
    server::Server,
    setup::{ask, command, ip, run, shown, zone},
};

/// Returns flags for short windows and for the host of [`moving`].
fn flags(dns: &DnsServer) -> String {
    format!("--host one.example --min-ttl 1s --linger 3s {}", ask(dns))
}

/// Starts a DNS server with one host, whose answers have a TTL of a second.
async fn moving(addresses: &[&str]) -> DnsServer {
    let dns = DnsServer::start().await.expect("a free port");
    move_to(&dns, addresses);
    dns
}

fn move_to(dns: &DnsServer, addresses: &[&str]) {
    let addresses: Vec<_> = addresses.iter().map(|address| ip(address)).collect();
    dns.set("one.example", 1, &addresses);
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Returns the lines that are not comments, joined by spaces.
fn body(path: &Path) -> String {
    let text = read(path);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn once_writes_the_targets_and_the_next_call_changes_nothing() {
    let dns = zone().await;
    let folder = folder();
    let path = folder.path().join("callers");
    let line = format!(
        "follow --once --host one.example,two.example {} file:plain:{}",
        ask(&dns),
        path.display()
    );
    assert_eq!(shown(&run(&line).await), "exit 0\n-- stdout\n-- stderr\n");
    assert_eq!(
        body(&path),
        "9.45.17.199 52.232.113.216 104.45.28.230 2a01:111::7"
    );
    let first = read(&path);
    assert!(
        first.starts_with("# Made by callback-source from: one.example, two.example\n# Made at: ")
    );
    assert_eq!(run(&line).await.status.code(), Some(0));
    assert_eq!(read(&path), first);
}

#[tokio::test]
async fn once_with_a_state_file_keeps_addresses_that_linger() {
    let dns = moving(&["20.0.0.1"]).await;
    let folder = folder();
    let (path, state) = (
        folder.path().join("callers"),
        folder.path().join("state.json"),
    );
    let line = format!(
        "follow --once --host one.example {} --state-file {} file:plain:{}",
        ask(&dns),
        state.display(),
        path.display()
    );
    assert_eq!(run(&line).await.status.code(), Some(0));
    move_to(&dns, &["20.0.0.2"]);
    assert_eq!(run(&line).await.status.code(), Some(0));
    assert_eq!(body(&path), "20.0.0.1 20.0.0.2");
}

#[tokio::test]
async fn a_dry_run_prints_the_difference_and_changes_nothing() {
    let dns = zone().await;
    let folder = folder();
    let path = folder.path().join("callers");
    fs::write(&path, "9.45.17.199\n20.0.0.9\n").unwrap();
    let line = format!(
        "follow --host one.example {} file:plain:{}",
        ask(&dns),
        path.display()
    );
    let output = run(&format!("{line} --dry-run")).await;
    let text = shown(&output).replace(&path.display().to_string(), "[PATH]");
    insta::assert_snapshot!(text, @r"
    exit 1
    -- stdout
    file:plain:[PATH]
    + 104.45.28.230
    - 20.0.0.9
    -- stderr
    ");
    assert_eq!(read(&path), "9.45.17.199\n20.0.0.9\n");
    assert_eq!(run(&format!("{line} --once")).await.status.code(), Some(0));
    let output = run(&format!("{line} --dry-run")).await;
    assert_eq!(output.status.code(), Some(0));
    assert!(shown(&output).contains("no difference"));
}

#[tokio::test]
async fn a_target_is_not_emptied_unless_it_is_allowed() {
    let dns = DnsServer::start().await.unwrap();
    dns.set_fault("one.example", Fault::Rcode(ResponseCode::ServFail));
    let folder = folder();
    let path = folder.path().join("callers");
    fs::write(&path, "20.0.0.9\n").unwrap();
    let line = format!(
        "follow --once {} file:nginx-geo:{}",
        flags(&dns),
        path.display()
    );
    let output = run(&line).await;
    assert_eq!(output.status.code(), Some(2));
    let text = shown(&output);
    assert!(text.contains("the targets keep what they have"), "{text}");
    assert_eq!(read(&path), "20.0.0.9\n");
    // The host is unresolved, so the previous content is kept even if an empty set is allowed.
    let output = run(&format!("{line} --allow-empty")).await;
    assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
    assert!(read(&path).contains("\n20.0.0.9 1;\n"), "{}", read(&path));

    // With `--allow-empty`, a running follower empties the target when the windows of the addresses have ended.
    dns.clear_faults();
    move_to(&dns, &["20.0.0.1"]);
    for (flag, left) in [("", "20.0.0.1 1;"), ("--allow-empty", "")] {
        dns.clear_faults();
        let follow = Server::follow(&format!(
            "{} --stale-for 2s {flag} file:nginx-geo:{}",
            flags(&dns),
            path.display()
        ))
        .await;
        // The previous process may have written the expected content, so the test waits until this process is ready.
        follow.ready().await;
        until(|| body(&path) == "20.0.0.1 1;").await;
        dns.set_fault("one.example", Fault::Rcode(ResponseCode::ServFail));
        match flag {
            "" => follow.has_logged("the target was left unchanged").await,
            _ => until(|| body(&path).is_empty()).await,
        }
        assert_eq!(body(&path), left);
        follow.stop().await;
    }
}

#[tokio::test]
async fn a_rotation_changes_the_file_once_and_runs_the_command() {
    let dns = moving(&["20.0.0.1"]).await;
    let folder = folder();
    let (path, runs) = (folder.path().join("callers"), folder.path().join("runs"));
    let hook = folder.path().join("hook");
    fs::write(
        &hook,
        format!("cat {} >> {}\n", path.display(), runs.display()),
    )
    .unwrap();
    let mut follow = Server::follow(&format!(
        "{} --on-change .{} file:nginx-allow:{}",
        flags(&dns),
        // `.` and `${IFS}` run the file in the shell, so that the argument contains no space.
        format_args!("${{IFS}}{}", hook.display()),
        path.display()
    ))
    .await;
    until(|| body(&path) == "allow 20.0.0.1; deny all;").await;
    until(|| read(&runs).contains("20.0.0.1")).await;
    let reply = follow.get("127.0.0.1", "/readyz").await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "ready\n"));

    let rotated = Instant::now();
    move_to(&dns, &["20.0.0.2"]);
    until(|| body(&path) == "allow 20.0.0.1; allow 20.0.0.2; deny all;").await;
    // The limit is the TTL plus 1.5 s, with a margin.
    let took = rotated.elapsed();
    assert!(took < Duration::from_millis(4_500), "{took:?}");
    until(|| body(&path) == "allow 20.0.0.2; deny all;").await;
    until(|| body(&runs).ends_with("allow 20.0.0.2; deny all;")).await;
    // Several refreshes change nothing.
    let asked = dns.total();
    until(|| dns.total() > asked + 8).await;
    let log = follow.log();
    assert_eq!(log.matches("target changed").count(), 3, "{log}");
    let ran = read(&runs).matches("Made by").count();
    assert!((2..=4).contains(&ran), "{ran}");
    let status = follow.get("127.0.0.1", "/status.json").await.text();
    assert!(status.contains("\"state\": \"in-sync\""), "{status}");
    assert_eq!(follow.get("127.0.0.1", "/verify").await.status, 404);

    follow.signal("TERM").await;
    assert_eq!(follow.ended().await.code(), Some(0));
    assert_eq!(body(&path), "allow 20.0.0.2; deny all;");
}

#[tokio::test]
async fn what_another_program_changes_is_restored() {
    let dns = moving(&["20.0.0.1"]).await;
    let folder = folder();
    let path = folder.path().join("callers");
    let follow = Server::follow(&format!("{} file:plain:{}", flags(&dns), path.display())).await;
    until(|| body(&path) == "20.0.0.1").await;
    fs::write(&path, "20.0.0.9\n").unwrap();
    until(|| body(&path) == "20.0.0.1").await;
    fs::remove_file(&path).unwrap();
    until(|| body(&path) == "20.0.0.1").await;
    follow.stop().await;
}

#[tokio::test]
async fn a_restart_while_dns_is_down_removes_nothing() {
    let dns = moving(&["20.0.0.1"]).await;
    dns.set("two.example", 1, &[ip("20.0.0.2")]);
    let folder = folder();
    let path = folder.path().join("callers");
    let args = format!(
        "{} --host two.example file:plain:{}",
        flags(&dns),
        path.display()
    );
    let follow = Server::follow(&args).await;
    until(|| body(&path) == "20.0.0.1 20.0.0.2").await;
    follow.signal("KILL").await;
    drop(follow);
    // The address of one host changes, and the other host cannot be resolved.
    dns.set_fault("two.example", Fault::Rcode(ResponseCode::ServFail));
    move_to(&dns, &["20.0.0.3"]);
    let follow = Server::follow(&args).await;
    until(|| body(&path) == "20.0.0.1 20.0.0.2 20.0.0.3").await;
    dns.clear_faults();
    until(|| body(&path) == "20.0.0.2 20.0.0.3").await;
    follow.stop().await;
}

#[tokio::test]
async fn serve_follows_targets_and_keeps_serving_while_they_fail() {
    let dns = moving(&["20.0.0.1"]).await;
    let folder = folder();
    let path = folder.path().join("callers");
    let missing = folder.path().join("missing/callers");
    let serve = Server::start(&format!(
        "{} --follow file:json:{} --follow file:plain:{}",
        flags(&dns),
        path.display(),
        missing.display()
    ))
    .await;
    serve.ready().await;
    until(|| read(&path).contains("\"20.0.0.1\"")).await;
    serve.has_logged("create the folder").await;
    assert_eq!(serve.get("127.0.0.1", "/readyz").await.status, 200);
    let status = serve.get("127.0.0.1", "/status.json").await.text();
    assert!(status.contains("\"state\": \"failed\""), "{status}");
    let page = serve.get("127.0.0.1", "/status").await.text();
    assert!(
        page.contains("missing/callers is not up to date: "),
        "{page}"
    );
    let metrics = async || serve.get("127.0.0.1", "/metrics").await.text();
    let out_of_date = |number| format!("callback_source_follow_targets_out_of_date {number}\n");
    assert!(metrics().await.contains(&out_of_date(1)));
    fs::create_dir(folder.path().join("missing")).unwrap();
    until(|| body(&missing) == "20.0.0.1").await;
    serve.has_logged("up to date again").await;
    assert!(metrics().await.contains(&out_of_date(0)));
    serve.stop().await;
}

/// Starts a follower in a folder on a separate disk, which is mounted only for the follower's process.
#[cfg(target_os = "linux")]
async fn on_own_disk(before: &str, args: &str) -> Option<(TempDir, Server)> {
    servers::find(["unshare", "mount"])?;
    let folder = folder();
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let own = format!(
        "mount -t tmpfs -o size=64k tmpfs {0} && cd {0} && {before} && exec \"$@\"",
        disk.display()
    );
    let exec = command(format!("follow --admin-listen 127.0.0.1:0 {args}").split_whitespace());
    let mut unshare = tokio::process::Command::new("unshare");
    unshare.args(["-m", "sh", "-c", &own, "sh"]);
    unshare.arg(exec.as_std().get_program());
    unshare.args(exec.as_std().get_args()).kill_on_drop(true);
    let can_mount = tokio::process::Command::new("unshare")
        .args(["-m", "true"])
        .status()
        .await;
    if !can_mount.is_ok_and(|status| status.success()) {
        servers::skip("a disk of its own needs root");
        return None;
    }
    Some((folder, Server::of_command(unshare, false).await))
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_leaves_the_old_file_and_is_reported() {
    let dns = moving(&["20.0.0.1"]).await;
    let fill = "printf '20.0.0.9\\n' > callers && (cat /dev/zero > filler 2>/dev/null || true)";
    let args = format!("{} file:plain:callers", flags(&dns));
    let Some((folder, follow)) = on_own_disk(fill, &args).await else {
        return;
    };
    follow.has_logged("free some space").await;
    // The mounts of another process are visible below `/proc/PID/root`.
    let inside = Path::new("/proc")
        .join(follow.id().to_string())
        .join("root");
    let disk = inside.join(folder.path().join("disk").strip_prefix("/").unwrap());
    assert_eq!(read(&disk.join("callers")), "20.0.0.9\n");
    assert!(!disk.join("callers.tmp").exists());
    let reply = follow.get("127.0.0.1", "/readyz").await;
    assert_eq!(reply.status, 503);
    fs::remove_file(disk.join("filler")).unwrap();
    until(|| body(&disk.join("callers")) == "20.0.0.1").await;
    follow.has_logged("up to date again").await;
    assert_eq!(follow.get("127.0.0.1", "/readyz").await.status, 200);
    follow.stop().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_read_only_target_is_reported_and_not_changed() {
    let dns = moving(&["20.0.0.1"]).await;
    let freeze = "printf '20.0.0.9\\n' > callers && mount -o remount,ro tmpfs .";
    let args = format!("{} file:plain:callers", flags(&dns));
    let Some((folder, follow)) = on_own_disk(freeze, &args).await else {
        return;
    };
    follow.has_logged("mount a writable volume").await;
    let inside = Path::new("/proc")
        .join(follow.id().to_string())
        .join("root");
    let disk = inside.join(folder.path().join("disk").strip_prefix("/").unwrap());
    assert_eq!(read(&disk.join("callers")), "20.0.0.9\n");
    follow.stop().await;
}

#[tokio::test]
async fn an_invalid_target_is_an_error_that_shows_a_valid_one() {
    let output = run("follow nftables:ip/filter/callers").await;
    let text = shown(&output);
    assert!(
        text.contains("such as `nftables:inet/callback_source/callers`"),
        "{text}"
    );
    assert_eq!(output.status.code(), Some(2));
    let output =
        run("follow --print-ruleset --allow 212.93.32.0/19 nftables:inet/shop/vipps").await;
    let ruleset = shown(&output);
    for line in [
        "exit 0",
        "table inet shop {",
        "\tset vipps6 {",
        "\t\tflags interval, timeout",
        "\t\ttype filter hook prerouting priority dstnat - 10; policy accept;",
        "\t\tip6 saddr @vipps6 accept",
    ] {
        assert!(
            ruleset.lines().any(|found| found == line),
            "{line}: {ruleset}"
        );
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let dns = moving(&["20.0.0.1"]).await;
    let folder = folder();
    let path = folder.path().join("callers");
    let started = folder.path().join("started");
    let args = format!(
        "{} --on-change touch${{IFS}}{};sleep${{IFS}}1000 file:plain:{}",
        flags(&dns),
        started.display(),
        path.display()
    );
    let mut follow = Server::follow(&args).await;
    until(|| started.exists()).await;
    follow.signal("TERM").await;
    follow.has_logged("stopping").await;
    follow.signal("TERM").await;
    assert_eq!(follow.ended().await.code(), Some(0));
}
