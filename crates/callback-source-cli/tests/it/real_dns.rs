use std::{io, net::IpAddr};

use callback_source::vipps::Environment;
use integration_tests::name_servers::{Knot, Unbound, dig_addresses};

use crate::setup::run;

#[tokio::test]
async fn prints_the_same_addresses_as_dig() -> io::Result<()> {
    let records = "\
        callback-1 60 A 20.0.0.1\n\
        callback-1 60 A 104.0.0.2\n\
        callback-2 60 A 20.0.0.2\n\
        callback-2 60 AAAA 2a01:111::2\n\
        callback-3 60 CNAME pool\n\
        pool 30 A 20.0.0.3\n\
        pool 30 AAAA 2a01:111::3\n\
        callback-4 60 A 20.0.0.1\n\
        callback-dr-1 60 A 9.0.0.5\n\
        callback-dr-2 60 A 20.0.0.6\n\
        callback-dr-3 60 AAAA 2a01:111::7\n";
    let Some(knot) = Knot::start(records).await? else {
        return Ok(());
    };
    let Some(unbound) = Unbound::start(knot.addr()).await? else {
        return Ok(());
    };
    for server in [knot.addr(), unbound.addr()] {
        let hosts: Vec<_> = Environment::Production.hosts().collect();
        let by_dig = dig_addresses(server, hosts.iter().map(|host| host.as_str())).await?;
        let output = run(&format!(
            "lookup --environment production --dns-server {server}"
        ))
        .await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        let printed = String::from_utf8_lossy(&output.stdout);
        let printed: Vec<IpAddr> = printed
            .lines()
            .map(|line| line.parse().expect("an address"))
            .collect();
        assert_eq!(printed, by_dig);
        assert_eq!(printed.len(), 9);
    }
    Ok(())
}
