use std::time::Duration;

use callback_source::ResolveErrorKind;
use callback_source_testkit::{Delivery, Provider, UNLISTED_PEER};

use super::*;

#[tokio::test(start_paused = true)]
async fn only_callback_servers_reach_the_shop() {
    let url = "https://shop.example/vipps/webhooks";
    let provider = Provider::new(Environment::Production);
    let list = AllowList::builder()
        .environment(Environment::Production)
        .stale_for(Duration::from_secs(600))
        .spawn(provider.resolver());
    let app = app(list.clone());
    list.ready().await;
    assert_eq!(provider.delivery(url).status(&app).await, 200);
    let unlisted = Delivery::new(url).from_peer(UNLISTED_PEER);
    assert_eq!(unlisted.status(&app).await, 403);
    tokio::time::sleep(Provider::TTL / 2).await;
    provider.rotate();
    assert_eq!(provider.delivery(url).status(&app).await, 200);
    provider.fail(ResolveErrorKind::Timeout);
    tokio::time::sleep(Duration::from_secs(900)).await;
    assert_eq!(provider.delivery(url).status(&app).await, 503);
    let undecided = super::app(AllowList::undecided());
    assert_eq!(provider.delivery(url).status(&undecided).await, 503);
}
