//! `demo`: `serve` with a DNS server in the same process.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::mpsc,
    thread,
    time::Duration,
};

use callback_source_testkit::dns::DnsServer;
use tokio::{runtime::Builder, time::sleep};

use crate::{
    args::{DemoArgs, Invocation},
    error::Error,
    outcome::Outcome,
    output, serve,
};

pub(crate) fn run(args: &DemoArgs) -> Result<Outcome, Error> {
    let dns = start_dns()?;
    output::data(introduction(args.listen).as_bytes())?;
    let serve = format!(
        "callback-source serve --listen {} --host {HOST} --dns-server {dns} --allow-special-addresses \
         --ipv4-only --min-ttl 5s --stop-delay 0s",
        args.listen
    );
    serve::run(Invocation::without_variables(&serve)?, Vec::new(), None)
}

/// Starts the DNS server on a separate thread, and returns the address of the server.
fn start_dns() -> Result<SocketAddr, Error> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Start)?;
    let (sender, receiver) = mpsc::channel();
    let serve = move || {
        runtime.block_on(async {
            let dns = match DnsServer::start().await {
                Ok(dns) => dns,
                Err(error) => {
                    let _ = sender.send(Err(error));
                    return;
                }
            };
            // Without this call, the DNS server's log of questions would grow forever.
            dns.keep_log(false);
            dns.set(HOST, TTL, &[FIRST]);
            let _ = sender.send(Ok(dns.addr()));
            sleep(ROTATES_AFTER).await;
            dns.set(HOST, TTL, &[FIRST, SECOND]);
            std::future::pending::<()>().await;
        });
    };
    thread::Builder::new()
        .name("dns".to_owned())
        .spawn(serve)
        .map_err(Error::Start)?;
    match receiver.recv() {
        Ok(started) => started.map_err(Error::Start),
        Err(_) => Err(Error::Start(std::io::ErrorKind::BrokenPipe.into())),
    }
}

fn introduction(listen: SocketAddr) -> String {
    format!(
        "\
Admits the addresses of {HOST}. Try in another terminal:

    curl -i http://{listen}/verify                           # a listed peer: 200
    curl -i --interface {UNLISTED} http://{listen}/verify    # an unlisted peer: 403
    curl -i --interface {SECOND} http://{listen}/verify    # a server that is added after {} s
    curl http://{listen}/status.json
    curl http://{listen}/metrics

Control-C ends it.
",
        ROTATES_AFTER.as_secs()
    )
}

const HOST: &str = "callbacks.demo.example";
const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
const UNLISTED: &str = "127.0.0.2";

/// TTL of the answers, in seconds.
const TTL: u32 = 5;
const ROTATES_AFTER: Duration = Duration::from_secs(30);
