//! Cost of a request on eight threads that share one list, compared with a single thread.
//!
//! The cost is measured in processor time, which other programs hardly affect. The processor time includes the wait for
//! a cache line that another core has changed.

mod support;

use std::{
    hint::black_box,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use callback_source::{AllowList, Family};
use rustix::time::{ClockId, clock_gettime};

fn main() {
    // `cargo test` also runs this benchmark, but only for one round.
    let rounds = if std::env::args().any(|arg| arg == "--bench") {
        21
    } else {
        1
    };
    let kept = support::kept(16);
    let (busy, hosts) = (&kept.list, [support::host(0)]);
    println!(
        "{:<34}{:>9}{:>9}{:>22}",
        "ns of processor time", "1 thread", "8", "ratio [quartiles]"
    );
    for (what, replace, work) in [
        ("verdict", false, ask as Work),
        ("verdict, set replaced 1000/s", true, ask),
        ("layer", false, call),
        ("layer, set replaced 1000/s", true, call),
        ("layer that does nothing (no list)", false, no_op),
    ] {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let (over, hosts) = (&over, &hosts);
            if replace {
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        busy.replace_hosts(hosts.iter().cloned());
                        thread::sleep(Duration::from_millis(1));
                    }
                });
            }
            let mut measured: Vec<(f64, f64)> = (0..rounds)
                .map(|_| (per_request(busy, 1, work), per_request(busy, 8, work)))
                .collect();
            over.store(true, Ordering::Relaxed);
            let mut ratios: Vec<_> = measured.iter().map(|(one, all)| all / one).collect();
            ratios.sort_by(f64::total_cmp);
            let quartile = |part: usize| ratios[part * (ratios.len() - 1) / 4];
            measured.sort_by(|one, two| one.0.total_cmp(&two.0));
            let one = measured[measured.len() / 2].0;
            measured.sort_by(|one, two| one.1.total_cmp(&two.1));
            let all = measured[measured.len() / 2].1;
            println!(
                "{what:<34}{one:>9.1}{all:>9.1}{:>10.2} [{:.2}, {:.2}]",
                quartile(2),
                quartile(1),
                quartile(3)
            );
        });
    }
}

type Work = fn(&AllowList);

fn ask(list: &AllowList) {
    let peer = support::address(Family::V4, 9);
    for _ in 0..REQUESTS {
        assert!(black_box(list).verdict(black_box(peer)).is_allowed());
    }
}

fn call(list: &AllowList) {
    let mut service = support::verified(list);
    let peer = support::address(Family::V4, 9);
    for _ in 0..REQUESTS {
        black_box(support::serve(&mut service, support::callback(peer)));
    }
}

fn no_op(_: &AllowList) {
    let mut service = support::NoOp(support::Merchant);
    let peer = support::address(Family::V4, 9);
    for _ in 0..REQUESTS {
        black_box(support::serve(&mut service, support::callback(peer)));
    }
}

fn per_request(list: &AllowList, threads: usize, work: Work) -> f64 {
    let start = Barrier::new(threads);
    let total: f64 = thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    let before = processor_time();
                    work(list);
                    processor_time() - before
                })
            })
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().expect("it does not panic"))
            .sum()
    });
    total / (threads as f64 * f64::from(REQUESTS))
}

fn processor_time() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

const REQUESTS: u32 = 100_000;
