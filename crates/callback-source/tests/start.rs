//! Tests of the time that the start of a list takes.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use callback_source::{AllowList, Answer, Question, Resolve, ResolveError};
use tokio::{
    sync::Barrier,
    time::{Instant, sleep},
};

/// Resolver that answers one round trip after all questions have been sent.
struct AllAtOnce(Arc<Barrier>);

impl Resolve for AllAtOnce {
    async fn resolve(&self, _: Question) -> Result<Answer, ResolveError> {
        self.0.wait().await;
        sleep(ROUND_TRIP).await;
        let address = IpAddr::V4(Ipv4Addr::new(20, 0, 0, 1));
        Ok(Answer::new([address], Duration::from_secs(300)))
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_is_ready_after_one_round_trip() {
    let hosts = (0..10).map(|number| format!("callback-{number}.example.com").parse().unwrap());
    let start = Instant::now();
    let list = AllowList::builder()
        .hosts(hosts)
        .spawn(AllAtOnce(Arc::new(Barrier::new(20))));
    list.ready().await;
    assert_eq!(start.elapsed().as_millis(), ROUND_TRIP.as_millis());
}

/// Returns the CPU time of this thread, which other programs hardly affect.
#[cfg(unix)]
fn spent() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

#[cfg(unix)]
#[tokio::test]
async fn ten_times_the_networks_and_hosts_do_not_take_a_hundred_times_as_long() {
    let time = |count: u32| {
        let tries = (0..3).map(|_| {
            let start = spent();
            let addresses = (0..count).map(|number| Ipv4Addr::from_bits(number * 0x1000));
            let networks: Vec<_> = addresses
                .map(|address| IpAddr::V4(address).into())
                .collect();
            let host = |number: u32| format!("h{number}.example.com").parse().unwrap();
            let mut list = AllowList::builder().hosts((0..count).map(host));
            for network in &networks {
                list = list.net(*network).unwrap();
            }
            let list = list.nets(networks).unwrap();
            let (list, refresher) = list.pair(AllAtOnce(Arc::new(Barrier::new(1))));
            list.replace_hosts((0..count).rev().map(host));
            drop((list, refresher));
            spent() - start
        });
        tries.min().unwrap()
    };
    let (few, many) = (time(400), time(4_000));
    assert!(many < few * 40, "{few} ns, {many} ns");
}

const ROUND_TRIP: Duration = Duration::from_millis(30);
