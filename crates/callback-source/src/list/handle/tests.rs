use std::sync::{Barrier, Mutex};

use tokio::time::advance;

use super::*;
use crate::{Answer, Question, ResolveError};

async fn one_address(_: Question) -> Result<Answer, ResolveError> {
    let addresses = ["20.0.0.1".parse().unwrap()];
    Ok(Answer::new(addresses, Duration::from_secs(3600)))
}

/// Runs the steps of a request up to its wait, on several threads at the same moment, while the refresher does not
/// run.
#[tokio::test(start_paused = true)]
async fn peers_that_call_at_the_same_moment_all_wait_for_the_refresh() {
    const THREADS: usize = 4;
    let list = AllowList::builder()
        .host("h.test".parse().unwrap())
        .spawn(one_address);
    list.ready().await;
    for _ in 0..2_000 {
        advance(Duration::from_secs(6)).await;
        let now = Instant::now();
        let barrier = Barrier::new(THREADS);
        let waits = |peer: usize| {
            let (list, barrier) = (&list, &barrier);
            move || {
                let peer = [20, 0, 9, peer as u8].into();
                barrier.wait();
                list.refresh_on_demand(peer, now).is_some()
            }
        };
        let waiting = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|peer| scope.spawn(waits(peer))).collect();
            let waiting = threads.into_iter().map(|thread| thread.join().unwrap());
            waiting.filter(|waits| *waits).count()
        });
        assert_eq!(waiting, THREADS);
        // The refresher runs during this call, so the refresh ends.
        let peer = [20, 0, 9, 9].into();
        assert!(!list.verdict_after_refresh(peer).await.is_allowed());
    }
}

#[tokio::test(start_paused = true)]
async fn an_unlisted_peer_waits_no_longer_than_the_lookups_take() {
    const LOOKUP: Duration = Duration::from_millis(100);
    let list =
        AllowList::builder()
            .host("h.test".parse().unwrap())
            .spawn(async |question: Question| {
                tokio::time::sleep(LOOKUP).await;
                one_address(question).await
            });
    list.ready().await;
    advance(Duration::from_secs(6)).await;
    let start = Instant::now();
    let verdict = list.verdict_after_refresh([20, 0, 9, 9].into()).await;
    assert!(!verdict.is_allowed());
    // tokio's timers have a resolution of a millisecond.
    let waited = start.elapsed();
    assert!(waited <= LOOKUP + Duration::from_millis(2), "{waited:?}");
}

#[test]
fn replaced_windows_are_those_of_the_set() {
    let (linger, stale_for) = (Duration::from_secs(7), Duration::from_secs(8));
    let (list, _refresher) = AllowList::builder().pair(one_address);
    list.replace_windows(linger, stale_for);
    let set = list.snapshot();
    assert_eq!(
        (set.rules().linger, set.rules().stale_for),
        (linger, stale_for)
    );
}

#[tokio::test(start_paused = true)]
async fn the_refresher_ends_at_once_when_its_list_is_dropped() {
    let (list, refresher) = AllowList::builder()
        .host("h.test".parse().unwrap())
        .pair(one_address);
    let running = tokio::spawn(refresher.run());
    list.ready().await;
    // Time does not advance while this test has work.
    let all_others_run = async || {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    };
    all_others_run().await;
    drop(list);
    all_others_run().await;
    assert!(running.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_peer_whose_answer_comes_between_verdict_and_wait_is_admitted() {
    let addresses = Arc::new(Mutex::new(["20.0.0.1".parse().unwrap()]));
    let current = Arc::clone(&addresses);
    let list = AllowList::builder()
        .host("h.test".parse().unwrap())
        .spawn(move |_: Question| {
            let answer = Answer::new(*current.lock().unwrap(), Duration::from_secs(3600));
            std::future::ready(Ok(answer))
        });
    list.ready().await;
    advance(Duration::from_secs(6)).await;

    let new = "20.0.0.2".parse().unwrap();
    let now = Instant::now();
    assert!(!list.verdict_at(new, now).is_allowed());
    // The call of another peer triggers the refresh, and returns after the refresh.
    *addresses.lock().unwrap() = [new];
    let _ = list.verdict_after_refresh([20, 0, 9, 9].into()).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    let verdict = list.refresh_on_demand(new, now).expect("it is not refused");
    assert!(verdict.await.is_allowed());
}
