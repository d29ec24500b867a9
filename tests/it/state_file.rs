//! Tests of the state file: the state that is restored after a restart, and the files that are rejected.
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
use callback_source_testkit::{
    Outcome, ScriptedResolver,
    dns::{DnsServer, Fault, FaultScope, ResponseCode},
};
use integration_tests::{
    log::Log,
    merchant::{Merchant, host_name, tiny_list},
    until, within,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{HOST, ONE, OTHER, TWO, freshness};

const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(51, 105, 122, 55));

#[tokio::test]
async fn a_restart_during_a_dns_outage_refuses_no_known_server() -> io::Result<()> {
    let folder = TempDir::new()?;
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[ONE]);
    let list = tiny_list(&[HOST])
        .state_file(path(&folder))
        .spawn(dns.resolver());
    within(list.ready()).await;
    end(list, &folder).await;

    dns.set_fault(FaultScope::Everything, Fault::Rcode(ResponseCode::ServFail));
    let list = tiny_list(&[HOST])
        .state_file(path(&folder))
        .spawn(dns.resolver());
    // The address is restored immediately at the start.
    assert_eq!(freshness(&list, ONE), Some(Freshness::Restored));
    let merchant = Merchant::start(list.clone()).await?;
    within(list.attempted()).await;
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
async fn a_lingering_address_still_lingers_after_a_restart() -> io::Result<()> {
    let folder = TempDir::new()?;
    let dns = DnsServer::start().await?;
    dns.set(HOST, 1, &[ONE]);
    let list = tiny_list(&[HOST])
        .state_file(path(&folder))
        .spawn(dns.resolver());
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
async fn the_file_is_private_and_has_no_leftovers_beside_it() -> io::Result<()> {
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
        .spawn(dns.resolver());
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
        ("writable and not readable by the group", |path| {
            chmod(path, 0o620)
        }),
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
    let tasks = alive();
    for (what, spoil) in spoils {
        let log = Log::capture();
        let folder = TempDir::new()?;
        let list = up(&folder, &[ONE]).await;
        end(list, &folder).await;
        spoil(&path(&folder))?;

        let ignoring = down(tiny_list(&[HOST]), &folder);
        assert_eq!(freshness(&ignoring, ONE), None, "{what}");
        let lines = log.lines("WARN", &["state file ignored"]);
        assert_eq!(lines.len(), 1, "{what}: {lines:?}");

        // The rejected file does not prevent another start.
        let list = up(&folder, &[TWO]).await;
        assert!(list.verdict(TWO).is_allowed(), "{what}");
        drop((ignoring, list));
        until(|| alive() == tasks).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_file_of_another_user_is_ignored() -> io::Result<()> {
    let folder = TempDir::new()?;
    let list = up(&folder, &[ONE]).await;
    end(list, &folder).await;
    if !chown(
        &folder,
        Some(12345),
        None,
        "a_file_of_another_user_is_ignored",
    ) {
        return Ok(());
    }
    let log = Log::capture();
    let list = down(tiny_list(&[HOST]), &folder);
    assert_eq!(freshness(&list, ONE), None);
    assert_eq!(log.lines("WARN", &["state file ignored", "12345"]).len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_file_that_a_group_of_others_can_write_is_ignored() -> io::Result<()> {
    let folder = TempDir::new()?;
    let list = up(&folder, &[ONE]).await;
    end(list, &folder).await;
    let test = "a_file_that_a_group_of_others_can_write_is_ignored";
    if !chown(&folder, None, Some(12345), test) {
        return Ok(());
    }
    chmod(&path(&folder), 0o660)?;
    let log = Log::capture();
    let list = down(tiny_list(&[HOST]), &folder);
    assert_eq!(freshness(&list, ONE), None);
    assert_eq!(log.lines("WARN", &["state file ignored", "12345"]).len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_file_that_a_group_of_the_process_can_write_is_restored_and_stays_readable_by_it()
-> io::Result<()> {
    let log = Log::capture();
    let folder = TempDir::new()?;
    let list = up(&folder, &[ONE]).await;
    end(list, &folder).await;
    // Kubernetes sets this mode for `fsGroup` at each mount.
    chmod(&path(&folder), 0o660)?;
    let list = down(tiny_list(&[HOST]), &folder);
    assert_eq!(freshness(&list, ONE), Some(Freshness::Restored));
    drop(list);

    let list = up(&folder, &[ONE]).await;
    end(list, &folder).await;
    assert_eq!(mode(&path(&folder))?, 0o640);
    assert_eq!(log.lines("WARN", &["state file"]), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn reading_accepts_a_file_of_another_user_unless_every_user_can_write_it() -> io::Result<()> {
    let folder = TempDir::new()?;
    let list = up(&folder, &[ONE]).await;
    end(list, &folder).await;
    let test = "reading_accepts_a_file_of_another_user_unless_every_user_can_write_it";
    if !chown(&folder, Some(12345), Some(12345), test) {
        return Ok(());
    }
    chmod(&path(&folder), 0o660)?;
    let look = || {
        let list = tiny_list(&[HOST]).restore_from(path(&folder));
        let list = list.spawn(async |_| std::future::pending().await);
        freshness(&list, ONE)
    };
    assert_eq!(look(), Some(Freshness::Restored));
    chmod(&path(&folder), 0o666)?;
    assert_eq!(look(), None);
    Ok(())
}

#[tokio::test]
async fn reading_a_missing_file_reports_it() -> io::Result<()> {
    let log = Log::capture();
    let folder = TempDir::new()?;
    let list = tiny_list(&[HOST]).restore_from(path(&folder));
    drop(list.spawn(resolver(&[ONE])));
    assert_eq!(log.lines("WARN", &["there is no state file"]).len(), 1);
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
async fn an_unwritable_folder_does_not_stop_the_list() -> io::Result<()> {
    let log = Log::capture();
    let folder = TempDir::new()?;
    let missing = folder.path().join("missing");
    let resolver = resolver(&[ONE]);
    let list = tiny_list(&[HOST])
        .state_file(missing.join("state.json"))
        .spawn(resolver.clone());
    let lines = || log.lines("WARN", &["state file not written", "create the folder"]);
    // The line appears before the first write.
    assert_eq!(lines().len(), 1);
    within(list.ready()).await;
    assert!(list.verdict(ONE).is_allowed());
    for number in 0..5 {
        let mut changes = list.changes();
        resolver.set(OTHER, 3600, &[&format!("127.0.2.{number}")]);
        let hosts = [HOST, OTHER].map(host_name);
        list.replace_hosts(hosts.into_iter().take(1 + number % 2));
        if number > 0 {
            within(changes.next()).await;
        }
    }

    fs::create_dir(&missing)?;
    list.replace_hosts([HOST, OTHER].map(host_name));
    until(|| missing.join("state.json").exists()).await;
    assert_eq!(lines().len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_a_mount_is_kept_and_the_fix_is_logged_once() -> io::Result<()> {
    let log = Log::capture();
    let folder = TempDir::new()?;
    let list = up(&folder, &[ONE]).await;
    end(list, &folder).await;
    let outside = folder.path().join("outside");
    fs::rename(path(&folder), &outside)?;
    fs::write(path(&folder), "")?;
    let mount = Command::new("mount")
        .arg("--bind")
        .args([&outside, &path(&folder)])
        .status();
    if !mount.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED a_file_that_is_a_mount_is_kept_and_the_fix_is_logged_once");
        return Ok(());
    }
    let before = fs::read(&outside)?;
    let list = down(tiny_list(&[HOST]), &folder);
    let lines = || log.lines("WARN", &["state file not written", "mount the folder"]);
    let at_the_start = lines().len();
    let restored = freshness(&list, ONE);
    drop(list);
    let list = up(&folder, &[TWO]).await;
    let admitted = freshness(&list, TWO);
    end(list, &folder).await;
    let names: Vec<_> = fs::read_dir(folder.path())?.collect();
    let after = fs::read(&outside)?;
    let unmounted = Command::new("umount").arg(path(&folder)).status()?;
    assert!(unmounted.success());

    assert_eq!(restored, Some(Freshness::Restored));
    assert_eq!(admitted, Some(Freshness::Fresh));
    assert_eq!(at_the_start, 1);
    assert_eq!(lines().len(), 2, "once a start");
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(before, after);
    Ok(())
}

#[tokio::test]
async fn a_link_at_the_temporary_file_is_not_followed() -> io::Result<()> {
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
async fn a_crash_loop_changes_none_of_the_saved_times() -> io::Result<()> {
    let folder = TempDir::new()?;
    let dns = DnsServer::start().await?;
    dns.set(HOST, 1, &[ONE]);
    let list = tiny_list(&[HOST])
        .state_file(path(&folder))
        .spawn(dns.resolver());
    within(list.ready()).await;
    dns.set(HOST, 1, &[TWO]);
    within(list.changes().next()).await;
    end(list, &folder).await;
    // The times are moved into the past, to distinguish a renewed time from an unchanged time.
    edit(&path(&folder), |file| {
        for host in file["hosts"].as_array_mut().into_iter().flatten() {
            shift(host, 50 * 60 * 1000);
        }
    })?;
    let before = read(&folder)?;

    for _ in 0..20 {
        let list = down(tiny_list(&[HOST]), &folder);
        within(list.attempted()).await;
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
    // The clocks are read one after another, with a resolution of a millisecond.
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
async fn a_file_cannot_extend_a_ttl_beyond_the_bound() -> io::Result<()> {
    let folder = TempDir::new()?;
    let list = up(&folder, &[ONE]).await;
    end(list, &folder).await;
    let year = 365 * 24 * 3600 * 1000_u64;
    edit(&path(&folder), |file| {
        file["hosts"][0]["a"]["answer"]["ttl_ends"] = json!(now_utc() + year);
        *field(&mut file["hosts"][0]["a"], "window_from") = json!(now_utc() + year);
    })?;

    let list = down(tiny_list(&[HOST]).stale_for(Duration::ZERO), &folder);
    within(list.attempted()).await;
    let saved = list.health().remove(0);
    // The window ends after an hour at most, instead of after a year.
    let now = tokio::time::Instant::now().into_std();
    let ends = list.snapshot().next_change_at(now);
    let ends = ends.map(|ends| ends.saturating_duration_since(now));
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
async fn a_host_that_is_no_longer_configured_is_not_restored() -> io::Result<()> {
    let folder = TempDir::new()?;
    let list = up(&folder, &[ONE]).await;
    end(list, &folder).await;

    let list = down(tiny_list(&[OTHER]), &folder);
    assert_eq!(freshness(&list, ONE), None);
    assert!(list.health().iter().all(|host| host.addresses.is_empty()));
    Ok(())
}

#[tokio::test]
async fn a_start_with_other_hosts_keeps_the_state_of_the_first_ones() -> io::Result<()> {
    let folder = TempDir::new()?;
    let list = up(&folder, &[ONE]).await;
    end(list, &folder).await;
    let before = read(&folder)?;

    for _ in 0..20 {
        let resolver = ScriptedResolver::default();
        resolver.set(OTHER, 3600, &["127.0.1.2"]);
        let list = tiny_list(&[OTHER])
            .state_file(path(&folder))
            .spawn(resolver);
        within(list.ready()).await;
        assert_eq!(freshness(&list, ONE), None);
        end(list, &folder).await;
    }
    let after = read(&folder)?;
    let of_host = |file: &Value| {
        let hosts = file["hosts"].as_array().cloned().unwrap_or_default();
        let host = hosts.into_iter().find(|host| host["host"] == HOST);
        host.unwrap_or_default()["a"].clone()
    };
    let pairs = times(&of_host(&before))
        .into_iter()
        .zip(times(&of_host(&after)));
    let drift: Vec<_> = pairs.map(|(before, after)| before - after).collect();
    assert_eq!(drift.len(), 4, "{after:#}");
    // No time is later than before. The clocks are read with a resolution of a millisecond.
    assert!(drift.iter().all(|drift| *drift < 1000), "{drift:?}");

    let list = down(tiny_list(&[HOST]), &folder);
    assert_eq!(freshness(&list, ONE), Some(Freshness::Restored));
    assert_eq!(freshness(&list, TWO), None);
    Ok(())
}

#[tokio::test]
async fn a_host_that_is_replaced_and_added_back_has_its_addresses_again() -> io::Result<()> {
    let folder = TempDir::new()?;
    let resolver = resolver(&[ONE]);
    resolver.set(OTHER, 3600, &["127.0.1.2"]);
    let list = tiny_list(&[HOST])
        .state_file(path(&folder))
        .spawn(resolver.clone());
    within(list.ready()).await;
    list.replace_hosts([host_name(OTHER)]);
    assert_eq!(freshness(&list, ONE), None);
    until(|| list.verdict(TWO).is_allowed()).await;
    // Later, the file contains only the configured hosts.
    until(|| text(&folder).contains(OTHER) && !text(&folder).contains(HOST)).await;

    for family in callback_source::Family::ALL {
        resolver.set_outcome(HOST, family, Outcome::Failure(ResolveErrorKind::ServFail));
    }
    list.replace_hosts([host_name(HOST)]);
    assert_eq!(freshness(&list, ONE), Some(Freshness::Restored));
    assert_eq!(freshness(&list, TWO), None);
    end(list, &folder).await;
    let list = down(tiny_list(&[HOST, OTHER]), &folder);
    assert_eq!(freshness(&list, ONE), Some(Freshness::Restored));
    assert_eq!(freshness(&list, TWO), None);
    Ok(())
}

#[tokio::test]
async fn a_host_of_the_file_that_is_added_while_the_list_runs_is_restored() -> io::Result<()> {
    let folder = TempDir::new()?;
    let list = up(&folder, &[ONE]).await;
    end(list, &folder).await;
    let list = down(tiny_list(&[OTHER]), &folder);
    within(list.attempted()).await;
    assert_eq!(freshness(&list, ONE), None);
    list.replace_hosts([HOST, OTHER].map(host_name));
    assert_eq!(freshness(&list, ONE), Some(Freshness::Restored));
    Ok(())
}

#[tokio::test]
async fn a_host_that_is_not_configured_leaves_the_file_at_the_end_of_its_windows() -> io::Result<()>
{
    for (hours, is_kept) in [(23, true), (26, false)] {
        let folder = TempDir::new()?;
        let list = up(&folder, &[ONE]).await;
        end(list, &folder).await;
        edit(&path(&folder), |file| {
            shift(&mut file["hosts"][0], hours * 3600 * 1000)
        })?;
        let resolver = ScriptedResolver::default();
        resolver.set(OTHER, 3600, &["127.0.1.2"]);
        let list = tiny_list(&[OTHER])
            .state_file(path(&folder))
            .spawn(resolver);
        within(list.ready()).await;
        end(list, &folder).await;
        assert_eq!(text(&folder).contains(HOST), is_kept, "{hours} h");
    }
    Ok(())
}

#[tokio::test]
async fn a_state_that_outgrows_the_file_is_truncated_and_not_lost() -> io::Result<()> {
    let log = Log::capture();
    let folder = TempDir::new()?;
    let list = up(&folder, &[ONE]).await;
    end(list, &folder).await;
    // The file is filled almost to its maximum size with lingering addresses of a host that is not configured.
    let most = 4 * 1024 * 1024;
    edit(&path(&folder), |file| {
        file["hosts"][0]["host"] = json!(OTHER);
        let room = most - serde_json::to_vec(&file).unwrap_or_default().len();
        let ago = now_utc() - 1_000_000;
        let entry = |at: u32| {
            (
                Ipv4Addr::from(0x7f80_0000 + at).to_string(),
                json!(ago + u64::from(at)),
            )
        };
        let entries = (0..).map(entry).scan(room, |room, (address, at)| {
            *room = room.checked_sub(address.len() + 17)?;
            Some((address, at))
        });
        file["hosts"][0]["lingering"] = Value::Object(entries.collect());
    })?;
    let full = fs::metadata(path(&folder))?.len();
    assert!((most as u64 - 100..=most as u64).contains(&full), "{full}");

    let list = up(&folder, &[TWO]).await;
    end(list, &folder).await;
    let length = fs::metadata(path(&folder))?.len();
    assert!(
        (most as u64 - 100..=most as u64).contains(&length),
        "{length}"
    );
    // The oldest address is omitted.
    assert!(!text(&folder).contains("127.128.0.0") && text(&folder).contains("127.129.0.0"));

    let list = down(tiny_list(&[HOST, OTHER]), &folder);
    assert_eq!(freshness(&list, TWO), Some(Freshness::Restored));
    assert_eq!(freshness(&list, ONE), Some(Freshness::Restored));
    assert_eq!(log.lines("WARN", &["state file ignored"]).len(), 0);
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

/// A child process writes the file as often as possible, and is killed with SIGKILL at an arbitrary moment.
#[test]
fn a_kill_at_any_moment_leaves_a_complete_file() -> io::Result<()> {
    let folder = TempDir::new()?;
    for attempt in 0..30_u32 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_writes-state"))
            .arg(path(&folder))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut changes = 0;
        let mut before = None;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while changes <= 2 + attempt % 11 {
            assert!(
                tokio::time::Instant::now() < deadline,
                "the child writes nothing"
            );
            let Ok(text) = fs::read(path(&folder)) else {
                continue;
            };
            // A reader never sees an incomplete file, either.
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

/// Starts a list, and waits until it has these addresses of the host.
async fn up(folder: &TempDir, addresses: &[IpAddr]) -> AllowList {
    let list = tiny_list(&[HOST])
        .state_file(path(folder))
        .spawn(resolver(addresses));
    within(list.ready()).await;
    list
}

fn resolver(addresses: &[IpAddr]) -> ScriptedResolver {
    let resolver = ScriptedResolver::default();
    let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    resolver.set(HOST, 3600, &texts);
    resolver
}

/// Starts a list while DNS is down.
fn down(builder: AllowListBuilder, folder: &TempDir) -> AllowList {
    let resolver = ScriptedResolver::default();
    for host in [HOST, OTHER] {
        for family in callback_source::Family::ALL {
            resolver.set_outcome(host, family, Outcome::Failure(ResolveErrorKind::ServFail));
        }
    }
    builder.state_file(path(folder)).spawn(resolver)
}

/// Drops the list and waits until its last state is written.
async fn end(list: AllowList, folder: &TempDir) {
    let before = alive();
    drop(list);
    until(|| alive() < before && path(folder).exists()).await;
}

fn alive() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

/// Changes the user or the group of the file, for which the test needs root. Returns `false` if the test must be
/// skipped.
fn chown(folder: &TempDir, user: Option<u32>, group: Option<u32>, test: &str) -> bool {
    let Err(error) = std::os::unix::fs::chown(path(folder), user, group) else {
        return true;
    };
    assert!(
        std::env::var_os("REQUIRE_SERVERS").is_none(),
        "run as root: {error}"
    );
    eprintln!("SKIPPED {test}: needs root ({error})");
    false
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

/// Moves all times of a host into the past.
fn shift(host: &mut Value, by: u64) {
    let earlier = |time: &mut Value| {
        if let Some(at) = time.as_u64() {
            *time = json!(at - by);
        }
    };
    for family in ["a", "aaaa"] {
        earlier(field(&mut host[family], "window_from"));
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

/// Returns a field that the file must have. Indexing would add a missing field.
fn field<'a>(value: &'a mut Value, name: &str) -> &'a mut Value {
    value.get_mut(name).expect("the file has this field")
}

/// Returns all times in the file, in a fixed order.
fn times(value: &Value) -> Vec<u64> {
    match value {
        Value::Number(number) => number.as_u64().into_iter().collect(),
        Value::Array(items) => items.iter().flat_map(times).collect(),
        Value::Object(fields) => fields.values().flat_map(times).collect(),
        Value::Null | Value::Bool(_) | Value::String(_) => Vec::new(),
    }
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
