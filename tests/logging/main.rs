//! Test of the filter that `docs/logging.md` shows. The test runs in a separate process, since its subscriber is
//! global.

use std::{
    fs, io,
    path::Path,
    sync::{Arc, Mutex},
};

use callback_source::{AllowList, HickoryResolver};
use integration_tests::within;
use tokio::net::UdpSocket;
use tracing_subscriber::{
    Layer as _, filter::LevelFilter, fmt, layer::SubscriberExt, registry, util::SubscriberInitExt,
};

#[allow(unreachable_pub, reason = "the text is that of the page")]
mod shown {
    include!("filter.rs");
}

#[test]
fn the_page_shows_the_filter_that_is_tested() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/logging.md");
    let page = fs::read_to_string(page).expect("the page is there");
    assert!(page.contains(include_str!("filter.rs")));
}

#[test]
fn a_filter_of_the_operator_takes_precedence() {
    for (asked, shown) in [
        (None, "info"),
        (Some("debug"), "debug"),
        (Some("warn,callback_source=debug"), "warn"),
    ] {
        let filter = shown::filter(asked).to_string();
        assert!(filter.split(',').any(|part| part == shown), "{filter}");
        assert!(filter.contains("hickory_net=error"), "{filter}");
    }
    let filter = shown::filter(Some("info,hickory_net=debug")).to_string();
    assert!(filter.contains("hickory_net=debug"), "{filter}");
    assert!(!filter.contains("hickory_net=error"), "{filter}");
}

#[tokio::test]
async fn packets_from_a_third_address_cause_no_lines() {
    let (filtered, unfiltered) = (Lines::default(), Lines::default());
    let (to_filtered, to_unfiltered) = (filtered.clone(), unfiltered.clone());
    registry()
        .with(
            fmt::layer()
                .with_writer(move || to_filtered.clone())
                .with_filter(shown::filter(None)),
        )
        .with(
            fmt::layer()
                .with_writer(move || to_unfiltered.clone())
                .with_filter(LevelFilter::WARN),
        )
        .init();

    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let third = UdpSocket::bind("127.0.9.9:0").await.unwrap();
    let resolver = HickoryResolver::from_servers([server.local_addr().unwrap()]).unwrap();
    let host = "one.example".parse().unwrap();
    let list = AllowList::builder().host(host).spawn(resolver);
    let (_, asker) = within(server.recv_from(&mut [0; 4096])).await.unwrap();
    within(async {
        while unfiltered.text().matches("hickory_net").count() < 50 {
            third.send_to(&[0; 12], asker).await.unwrap();
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!filtered.text().contains("hickory"), "{}", filtered.text());
    drop(list);
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
