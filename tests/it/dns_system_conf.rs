//! Tests with a DNS configuration of the system that is broken, missing, or changed while a list runs.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use callback_source::{HickoryResolver, Resolve, ResolveErrorKind};
use callback_source_testkit::dns::{DnsServer, Fault, FaultScope, RecordType, ResponseCode};
use integration_tests::{log::Log, merchant::tiny_list, until, within};
use tempfile::TempDir;

use crate::common::{HOST, ONE, TWO, a};

#[tokio::test]
async fn unused_lines_of_the_configuration_are_ignored() -> io::Result<()> {
    let (dns, file) = (server(ONE).await?, File::new()?);
    fs::write(
        &file.path,
        format!(
            "search foo..bar\ndomain ..\noptions ndots:x unheard-of\nsortlist /\n\x01garbage\nnameserver x\n{}",
            line(&dns)
        ),
    )?;
    let log = Log::capture();
    let list = tiny_list(&[HOST]).spawn(HickoryResolver::from_resolv_conf(&file.path));
    within(list.ready()).await;
    assert!(list.verdict(ONE).is_allowed());
    assert_eq!(log.lines("WARN", &["ignored a DNS server: x: "]).len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_changed_configuration_is_used_after_every_outcome_that_is_not_an_answer()
-> io::Result<()> {
    for fault in [
        Fault::Rcode(ResponseCode::NXDomain),
        Fault::NoData,
        Fault::Rcode(ResponseCode::ServFail),
        Fault::Rcode(ResponseCode::Refused),
        Fault::Referral,
        Fault::CnameLoop,
        Fault::CnameToNowhere,
        Fault::Garbage,
        Fault::Drop,
    ] {
        let (old, new, file) = (server(ONE).await?, server(TWO).await?, File::new()?);
        file.name(&[&old])?;
        let resolver = HickoryResolver::from_resolv_conf(&file.path);
        old.set_fault(FaultScope::Everything, fault);
        file.name(&[&new])?;
        // Within this one lookup, the resolver reads the file again and asks the new server.
        assert_eq!(addresses(&resolver).await?, [TWO], "{fault:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_list_whose_old_server_denies_everything_follows_the_configuration() -> io::Result<()> {
    let (old, new, file) = (DnsServer::start().await?, server(ONE).await?, File::new()?);
    file.name(&[&old])?;
    let list = tiny_list(&[HOST]).spawn(HickoryResolver::from_resolv_conf(&file.path));
    within(list.attempted()).await;
    assert!(!list.is_ready());

    file.name(&[&new])?;
    until(|| list.verdict(ONE).is_allowed()).await;
    assert!(list.is_ready());
    Ok(())
}

/// A question that reaches its time limit is dropped before the resolver can read the file.
#[tokio::test]
async fn a_question_that_times_out_reloads_the_configuration() -> io::Result<()> {
    let (old, new, file) = (server(ONE).await?, server(TWO).await?, File::new()?);
    old.set_fault(FaultScope::Everything, Fault::Drop);
    file.name(&[&old])?;
    let list = tiny_list(&[HOST])
        .question_time_limit(Duration::from_millis(300))
        .spawn(HickoryResolver::from_resolv_conf(&file.path));
    within(old.asked_at_least(HOST, RecordType::A, 1)).await;
    file.name(&[&new])?;
    until(|| list.verdict(TWO).is_allowed()).await;
    Ok(())
}

#[tokio::test]
async fn a_configuration_that_goes_and_comes_back_is_followed() -> io::Result<()> {
    let (old, new, file) = (server(ONE).await?, server(TWO).await?, File::new()?);
    file.name(&[&old])?;
    let resolver = HickoryResolver::from_resolv_conf(&file.path);
    assert_eq!(addresses(&resolver).await?, [ONE]);
    old.set_fault(FaultScope::Everything, Fault::Rcode(ResponseCode::ServFail));
    fs::remove_file(&file.path)?;
    // Even if a DNS server runs on port 53 of this machine, it does not know the name.
    assert!(within(resolver.resolve(a(HOST))).await.is_err());
    assert!(format!("{resolver:?}").contains("127.0.0.1:53"));

    file.name(&[&new])?;
    within(async {
        while addresses(&resolver).await.ok().as_deref() != Some(&[TWO]) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn an_unchanged_configuration_keeps_its_servers_and_is_not_logged_again() -> io::Result<()> {
    let log = Log::capture();
    let (dns, file) = (server(ONE).await?, File::new()?);
    file.name(&[&dns])?;
    let resolver = HickoryResolver::from_resolv_conf(&file.path);
    dns.set_fault(FaultScope::Everything, Fault::Rcode(ResponseCode::ServFail));
    // The text of the file changes, but not the servers in it.
    fs::write(&file.path, format!("# again\n{}", line(&dns)))?;
    assert!(within(resolver.resolve(a(HOST))).await.is_err());
    dns.clear_faults();
    assert_eq!(addresses(&resolver).await?, [ONE]);
    assert!(log.lines("INFO", &["servers changed"]).is_empty());
    Ok(())
}

#[test]
fn without_a_configuration_the_server_on_this_machine_is_used() -> io::Result<()> {
    let file = File::new()?;
    let missing = file.path.with_file_name("nowhere");
    let below_a_file = file.path.join("resolv.conf");
    fs::write(&file.path, "search example\n")?;
    for path in [&file.path, &missing, &below_a_file, Path::new("/dev/null")] {
        let resolver = HickoryResolver::from_resolv_conf(path);
        let shown = format!("{resolver:?}");
        assert!(shown.contains("[127.0.0.1:53]"), "{path:?}: {shown}");
    }
    Ok(())
}

#[tokio::test]
async fn an_unreadable_configuration_is_a_failure_until_it_becomes_readable() -> io::Result<()> {
    let log = Log::capture();
    let (dns, file) = (server(ONE).await?, File::new()?);
    // The path is a folder, because root can read a file of any mode.
    fs::create_dir(&file.path)?;
    let resolver = HickoryResolver::from_resolv_conf(&file.path);
    assert_eq!(log.lines("WARN", &["cannot read the DNS"]).len(), 1);
    let failed = within(resolver.resolve(a(HOST))).await;
    let failed = failed.expect_err("no server is configured");
    assert_eq!(failed.kind(), ResolveErrorKind::Network);
    assert!(
        std::error::Error::source(&failed)
            .is_some_and(|cause| { cause.to_string().starts_with("cannot read `") })
    );

    let list = tiny_list(&[HOST]).spawn(resolver);
    within(list.attempted()).await;
    assert!(!list.is_ready());
    fs::remove_dir(&file.path)?;
    file.name(&[&dns])?;
    until(|| list.verdict(ONE).is_allowed()).await;
    assert_eq!(log.lines("WARN", &["cannot read the DNS"]).len(), 1);
    Ok(())
}

#[cfg(unix)]
#[tokio::test]
async fn a_named_pipe_as_configuration_does_not_block() -> io::Result<()> {
    let file = File::new()?;
    let made = std::process::Command::new("mkfifo")
        .arg(&file.path)
        .status();
    if !made.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    let resolver = HickoryResolver::from_resolv_conf(&file.path);
    assert!(format!("{resolver:?}").contains("127.0.0.1:53"));
    Ok(())
}

#[tokio::test]
async fn use_vc_asks_over_tcp_first() -> io::Result<()> {
    let (dns, file) = (server(ONE).await?, File::new()?);
    fs::write(&file.path, format!("{}options use-vc\n", line(&dns)))?;
    let resolver = HickoryResolver::from_resolv_conf(&file.path);
    assert_eq!(addresses(&resolver).await?, [ONE]);
    let asked = dns.questions();
    assert!(asked.len() == 1 && asked[0].tcp, "{asked:?}");
    Ok(())
}

#[tokio::test]
async fn the_servers_of_a_configuration_are_asked_in_its_order() -> io::Result<()> {
    let (first, second, file) = (server(ONE).await?, server(TWO).await?, File::new()?);
    file.name(&[&first, &second])?;
    let resolver = HickoryResolver::from_resolv_conf(&file.path);
    assert_eq!(addresses(&resolver).await?, [ONE]);
    first.set_fault(FaultScope::Everything, Fault::Rcode(ResponseCode::ServFail));
    assert_eq!(addresses(&resolver).await?, [TWO]);
    Ok(())
}

struct File {
    path: PathBuf,
    _dir: TempDir,
}

impl File {
    fn new() -> io::Result<Self> {
        let dir = TempDir::new()?;
        Ok(Self {
            path: dir.path().join("resolv.conf"),
            _dir: dir,
        })
    }

    fn name(&self, servers: &[&DnsServer]) -> io::Result<()> {
        let lines: String = servers.iter().map(|server| line(server)).collect();
        fs::write(&self.path, lines)
    }
}

/// Returns the line for a server with a port, in the syntax of OpenBSD.
fn line(server: &DnsServer) -> String {
    let addr = server.addr();
    format!("nameserver [{}]:{}\n", addr.ip(), addr.port())
}

async fn server(address: IpAddr) -> io::Result<DnsServer> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[address]);
    Ok(dns)
}

async fn addresses(resolver: &HickoryResolver) -> io::Result<Vec<IpAddr>> {
    let answer = within(resolver.resolve(a(HOST))).await;
    Ok(answer.map_err(io::Error::other)?.addresses().to_vec())
}
