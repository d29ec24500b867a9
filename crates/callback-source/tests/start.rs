//! How long a start takes.

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

/// Answers after one round trip, once all the questions are on their way.
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

const ROUND_TRIP: Duration = Duration::from_millis(30);
