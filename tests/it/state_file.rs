//! What a restart knows of the run before.
#![cfg(unix)]

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use callback_source::{AllowList, AllowListBuilder, Freshness, RejectionKind, ResolveErrorKind};
use integration_tests::{
    dns::{DnsServer, Fault, FaultScope, ResponseCode},
    log::Log,
    merchant::{Merchant, host_name, resolver, tiny_list},
    script::{Line, Script},
    until, within,
};
use serde_json::{Value, json};
use tempfile::TempDir;

const HOST: &str = "callback-1.example";
const OTHER: &str = "callback-2.example";
const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1));
const TWO: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 1, 2));
const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(51, 105, 122, 55));

#[tokio::test]
async fn a_restart_during_an_outage_of_dns_refuses_no_known_server() -> io::Result<()> {
    let folder = TempDir::new()?;
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[ONE]);
    let list = tiny_list(&[HOST])
        .state_file(path(&folder))
        .spawn(resolver(&dns));
    within(list.ready()).await;
    end(list, &folder).await;

    dns.set_fault(FaultScope::Everything, Fault::Rcode(ResponseCode::ServFail));
    let list = tiny_list(&[HOST])
        .state_file(path(&folder))
        .spawn(resolver(&dns));
    // From the first moment on.
    assert_eq!(freshness(&list, ONE), Some(Freshness::Restored));
    let merchant = Merchant::start(list.clone()).await?;
    within(list.tried()).await;
    let reply = merchant.post(ONE, &[], b"").await?;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("x-freshness"), Some("restored"));
    assert!(list.is_ready());
    assert_eq!(merchant.post(TWO, &[], b"").await?.status, 403);

    dns.clear_faults();
    until(|| freshness(&list, ONE) == Some(Freshness::Fresh)).await;
    Ok(())
}

#[tokio::test]
async fn what_lingers_lingers_on_after_a_restart() -> io::Result<()> {
    let folder = TempDir::new()?;
    let dns = DnsServer::start().await?;
    dns.set(HOST, 1, &[ONE]);
    let list = tiny_list(&[HOST])
        .state_file(path(&folder))
        .spawn(resolver(&dns));
    within(list.ready()).await;
    dns.set(HOST, 1, &[TWO]);
    within(list.changes().next()).await;
    end(list, &folder).await;

    let list = down(tiny_list(&[HOST]), &folder);
    assert_eq!(freshness(&list, ONE), Some(Freshness::Lingering));
    assert_eq!(freshness(&list, TWO), Some(Freshness::Restored));
    Ok(())
}

#[tokio::test]
async fn the_file_is_private_and_nothing_lies_beside_it() -> io::Result<()> {
    let folder = TempDir::new()?;
    let list = up(&folder, &[ONE]).await;
    until(|| path(&folder).exists()).await;
    assert_eq!(mode(&path(&folder))?, 0o600);
    end(list, &folder).await;
    assert_eq!(mode(&path(&folder))?, 0o600);
    assert_eq!(fs::read_dir(folder.path())?.count(), 1);
    Ok(())
}

#[tokio::test]
async fn a_change_is_written_at_once_and_the_rest_at_the_end() -> io::Result<()> {
    let folder = TempDir::new()?;
    let dns = DnsServer::start().await?;
    dns.set(HOST, 1, &[ONE]);
    let list = tiny_list(&[HOST])
        .state_file(path(&folder))
        .spawn(resolver(&dns));
    within(list.ready()).await;
    dns.set(HOST, 1, &[TWO]);
    within(list.changes().next()).await;
    until(|| text(&folder).contains("127.0.1.2")).await;

    fs::remove_file(path(&folder))?;
    end(list, &folder).await;
    assert!(text(&folder).contains("127.0.1.2"));
    Ok(())
}

#[tokio::test]
async fn a_file_that_cannot_be_trusted_is_ignored_with_a_warning() -> io::Result<()> {
    type Spoil = fn(&Path) -> io::Result<()>;
    let spoils: [(&str, Spoil); 14] = [
        ("empty", |path| fs::write(path, "")),
        ("cut short", |path| {
            let text = fs::read(path)?;
            fs::write(path, &text[..text.len() / 2])
        }),
        ("no JSON", |path| {
            fs::write(path, "callback-1.example 127.0.1.1\n")
        }),
        ("not UTF-8", |path| fs::write(path, [0xff; 100])),
        ("a newer version", |path| {
            edit(path, |file| file["version"] = json!(2))
        }),
        ("an older version", |path| {
            edit(path, |file| file["version"] = json!(0))
        }),
        ("from the future", |path| {
            edit(path, |file| {
                file["written_at"] = json!(now_utc() + 3_600_000)
            })
        }),
        ("an answer after it was written", |path| {
            edit(path, |file| {
                file["hosts"][0]["a"]["answer"]["answered_at"] = json!(now_utc() + 600_000);
            })
        }),
        ("a symbolic link", |path| {
            let elsewhere = path.with_extension("elsewhere");
            fs::rename(path, &elsewhere)?;
            symlink(elsewhere, path)
        }),
        ("writable by the group", |path| chmod(path, 0o620)),
        ("writable by all", |path| chmod(path, 0o602)),
        ("a folder", |path| {
            fs::remove_file(path)?;
            fs::create_dir(path)
        }),
        ("a pipe", |path| {
            fs::remove_file(path)?;
            let made = Command::new("mkfifo").arg(path).status()?;
            assert!(made.success());
            Ok(())
        }),
        ("far too large", |path| {
            let mut text = fs::read(path)?;
            text.resize(5 * 1024 * 1024, b' ');
            fs::write(path, text)
        }),
    ];
    for (what, spoil) in spoils {
        let log = Log::capture();
        let folder = TempDir::new()?;
        let list = up(&folder, &[ONE]).await;
        end(list, &folder).await;
        spoil(&path(&folder))?;

        let list = down(tiny_list(&[HOST]), &folder);
        assert_eq!(freshness(&list, ONE), None, "{what}");
        let told = log.lines("WARN", &["state file ignored"]);
        assert_eq!(told.len(), 1, "{what}: {told:?}");

        // The start works all the same.
        let list = up(&folder, &[TWO]).await;
        assert!(list.verdict(TWO).is_allowed(), "{what}");
    }
    Ok(())
}

#[tokio::test]
async fn a_file_of_somebody_else_is_ignored() -> io::Result<()> {
    let folder = TempDir::new()?;
    let list = up(&folder, &[ONE]).await;
    end(list, &folder).await;
    // Only root can give files away.
    if let Err(error) = std::os::unix::fs::chown(path(&folder), Some(12345), None) {
        assert!(
            std::env::var_os("CALLBACK_SOURCE_REQUIRE_SERVERS").is_none(),
            "run as root: {error}"
        );
        eprintln!("SKIPPED a_file_of_somebody_else_is_ignored: needs root ({error})");
        return Ok(());
    }
    let log = Log::capture();
    let list = down(tiny_list(&[HOST]), &folder);
    assert_eq!(freshness(&list, ONE), None);
    assert_eq!(log.lines("WARN", &["state file ignored", "12345"]).len(), 1);
    Ok(())
}

#[tokio::test]
async fn the_first_start_needs_no_file_and_does_not_warn() -> io::Result<()> {
    let log = Log::capture();
    let folder = TempDir::new()?;
    let list = up(&folder, &[ONE]).await;
    assert!(list.verdict(ONE).is_allowed());
    assert!(log.lines("WARN", &["state file"]).is_empty());
    assert_eq!(log.lines("INFO", &["no state file yet"]).len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_stops_nothing() -> io::Result<()> {
    let folder = TempDir::new()?;
    let missing = folder.path().join("missing").join("state.json");
    let list = tiny_list(&[HOST]).state_file(missing).spawn(script(&[ONE]));
    within(list.ready()).await;
    assert!(list.verdict(ONE).is_allowed());
    Ok(())
}

#[tokio::test]
async fn a_link_laid_where_the_file_is_written_first_is_not_followed() -> io::Result<()> {
    let folder = TempDir::new()?;
    let victim = folder.path().join("victim");
    fs::write(&victim, "precious")?;
    symlink(&victim, folder.path().join("state.json.tmp"))?;
    let list = up(&folder, &[ONE]).await;
    end(list, &folder).await;
    assert_eq!(fs::read_to_string(&victim)?, "precious");
    assert!(text(&folder).contains("127.0.1.1"));
    Ok(())
}

#[tokio::test]
async fn a_crash_loop_moves_no_time() -> io::Result<()> {
    let folder = TempDir::new()?;
    let dns = DnsServer::start().await?;
    dns.set(HOST, 1, &[ONE]);
    let list = tiny_list(&[HOST])
        .state_file(path(&folder))
        .spawn(resolver(&dns));
    within(list.ready()).await;
    dns.set(HOST, 1, &[TWO]);
    within(list.changes().next()).await;
    end(list, &folder).await;
    // An hour ago, so that a time that is renewed is told from one that is kept.
    edit(&path(&folder), |file| {
        for host in file["hosts"].as_array_mut().into_iter().flatten() {
            shift(host, 50 * 60 * 1000);
        }
    })?;
    let before = read(&folder)?;

    for _ in 0..20 {
        let list = down(tiny_list(&[HOST]), &folder);
        within(list.tried()).await;
        assert_eq!(freshness(&list, TWO), Some(Freshness::Restored));
        assert_eq!(freshness(&list, ONE), Some(Freshness::Lingering));
        fs::remove_file(path(&folder)).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        end(list, &folder).await;
    }

    let after = read(&folder)?;
    let drift = times(&before["hosts"])
        .into_iter()
        .zip(times(&after["hosts"]));
    let drift: Vec<_> = drift
        .map(|(before, after)| before.abs_diff(after))
        .collect();
    assert_eq!(drift.len(), 7, "{after:#}");
    // The clocks are read in milliseconds, and one after the other.
    assert!(drift.iter().all(|drift| *drift < 1000), "{drift:?}");
    Ok(())
}

#[tokio::test]
async fn an_answer_past_the_stale_window_is_not_restored() -> io::Result<()> {
    let folder = TempDir::new()?;
    let list = up(&folder, &[ONE]).await;
    end(list, &folder).await;
    edit(&path(&folder), |file| {
        shift(&mut file["hosts"][0], 26 * 3600 * 1000)
    })?;

    let list = down(tiny_list(&[HOST]), &folder);
    assert_eq!(freshness(&list, ONE), None);
    let kind = list
        .verdict(ONE)
        .rejection()
        .map(|rejection| rejection.kind());
    assert_eq!(kind, Some(RejectionKind::Unresolved));
    Ok(())
}

#[tokio::test]
async fn a_file_cannot_hold_a_ttl_longer_than_the_bound() -> io::Result<()> {
    let folder = TempDir::new()?;
    let list = up(&folder, &[ONE]).await;
    end(list, &folder).await;
    let year = 365 * 24 * 3600 * 1000_u64;
    edit(&path(&folder), |file| {
        file["hosts"][0]["a"]["answer"]["ttl_ends"] = json!(now_utc() + year);
        file["hosts"][0]["a"]["window_from"] = json!(now_utc() + year);
    })?;

    let list = down(tiny_list(&[HOST]).stale_for(Duration::ZERO), &folder);
    within(list.tried()).await;
    let saved = list.health().remove(0);
    // An hour at most, in place of a year.
    let ends = list.snapshot().next_change_at(tokio::time::Instant::now());
    let ends = ends.map(|ends| ends.saturating_duration_since(tokio::time::Instant::now()));
    assert!(
        ends <= Some(Duration::from_secs(3606)),
        "{ends:?} {saved:?}"
    );
    Ok(())
}

#[tokio::test]
async fn special_addresses_are_not_restored_without_the_flag() -> io::Result<()> {
    let folder = TempDir::new()?;
    let list = up(&folder, &[ONE, PUBLIC]).await;
    end(list, &folder).await;

    let list = down(AllowList::builder().host(host_name(HOST)), &folder);
    assert_eq!(freshness(&list, PUBLIC), Some(Freshness::Restored));
    assert_eq!(freshness(&list, ONE), None);
    drop(list);

    let list = down(tiny_list(&[HOST]), &folder);
    assert_eq!(freshness(&list, PUBLIC), Some(Freshness::Restored));
    Ok(())
}

#[tokio::test]
async fn a_host_that_is_configured_no_more_is_not_restored() -> io::Result<()> {
    let folder = TempDir::new()?;
    let list = up(&folder, &[ONE]).await;
    end(list, &folder).await;

    let list = down(tiny_list(&[OTHER]), &folder);
    assert_eq!(freshness(&list, ONE), None);
    assert!(list.health().iter().all(|host| host.addresses.is_empty()));
    Ok(())
}

#[tokio::test]
async fn an_answer_with_more_addresses_than_allowed_is_not_restored() -> io::Result<()> {
    let folder = TempDir::new()?;
    let list = up(&folder, &[ONE, TWO]).await;
    end(list, &folder).await;

    let list = down(tiny_list(&[HOST]).max_addresses(1), &folder);
    assert_eq!(freshness(&list, ONE), None);
    assert_eq!(freshness(&list, TWO), None);
    Ok(())
}

/// A child writes the file as fast as it can, and is killed with SIGKILL at some moment.
#[test]
fn a_kill_at_any_moment_leaves_a_whole_file() -> io::Result<()> {
    let folder = TempDir::new()?;
    for round in 0..30_u32 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_writes-state"))
            .arg(path(&folder))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut changes = 0;
        let mut before = None;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while changes <= 2 + round % 11 {
            assert!(
                tokio::time::Instant::now() < deadline,
                "the child writes nothing"
            );
            let Ok(text) = fs::read(path(&folder)) else {
                continue;
            };
            // A reader never sees half a file either.
            let _: Value = serde_json::from_slice(&text)?;
            if before.as_ref() != Some(&text) {
                before = Some(text);
                changes += 1;
            }
        }
        child.kill()?;
        child.wait()?;

        let whole = read(&folder)?;
        assert_eq!(whole["version"], 1);
        assert_eq!(mode(&path(&folder))?, 0o600);
    }
    let names = fs::read_dir(folder.path())?.map(|entry| Ok(entry?.file_name()));
    for name in names.collect::<io::Result<Vec<_>>>()? {
        assert!(name == "state.json" || name == "state.json.tmp", "{name:?}");
    }
    Ok(())
}

/// A list that knows these addresses of the host.
async fn up(folder: &TempDir, addresses: &[IpAddr]) -> AllowList {
    let list = tiny_list(&[HOST])
        .state_file(path(folder))
        .spawn(script(addresses));
    within(list.ready()).await;
    list
}

fn script(addresses: &[IpAddr]) -> Script {
    let script = Script::default();
    let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    script.set(HOST, 3600, &texts);
    script
}

/// A list that is started while DNS is down.
fn down(builder: AllowListBuilder, folder: &TempDir) -> AllowList {
    let script = Script::default();
    for host in [HOST, OTHER] {
        for family in callback_source::Family::ALL {
            script.line(host, family, Line::Fails(ResolveErrorKind::ServFail));
        }
    }
    builder.state_file(path(folder)).spawn(script)
}

/// Drops the list and waits until its last state is written.
async fn end(list: AllowList, folder: &TempDir) {
    let alive = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = alive();
    drop(list);
    until(|| alive() < before && path(folder).exists()).await;
}

fn path(folder: &TempDir) -> PathBuf {
    folder.path().join("state.json")
}

fn text(folder: &TempDir) -> String {
    fs::read_to_string(path(folder)).unwrap_or_default()
}

fn read(folder: &TempDir) -> io::Result<Value> {
    Ok(serde_json::from_slice(&fs::read(path(folder))?)?)
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) -> io::Result<()> {
    let mut file = serde_json::from_slice(&fs::read(path)?)?;
    change(&mut file);
    fs::write(path, serde_json::to_vec(&file)?)
}

/// Puts all times of a host back.
fn shift(host: &mut Value, by: u64) {
    let earlier = |time: &mut Value| {
        if let Some(at) = time.as_u64() {
            *time = json!(at - by);
        }
    };
    for family in ["a", "aaaa"] {
        earlier(&mut host[family]["window_from"]);
        if host[family]["answer"].is_object() {
            earlier(&mut host[family]["answer"]["answered_at"]);
            earlier(&mut host[family]["answer"]["ttl_ends"]);
        }
    }
    for field in ["lingering", "lingering_until"] {
        for (_, at) in host[field].as_object_mut().into_iter().flatten() {
            earlier(at);
        }
    }
}

/// All numbers that stand for a time, in a fixed order.
fn times(value: &Value) -> Vec<u64> {
    match value {
        Value::Number(number) => number.as_u64().into_iter().collect(),
        Value::Array(items) => items.iter().flat_map(times).collect(),
        Value::Object(fields) => fields.values().flat_map(times).collect(),
        Value::Null | Value::Bool(_) | Value::String(_) => Vec::new(),
    }
}

fn freshness(list: &AllowList, peer: IpAddr) -> Option<Freshness> {
    let verdict = list.verdict(peer);
    verdict.allowed().map(|allowed| allowed.freshness())
}

fn mode(path: &Path) -> io::Result<u32> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o7777)
}

fn chmod(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn now_utc() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as u64
}
