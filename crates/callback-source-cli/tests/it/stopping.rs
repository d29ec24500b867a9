//! Signals to `serve`, and the delay before it stops.

use crate::{server::Server, setup::LISTED};

#[tokio::test]
async fn keeps_serving_for_the_delay_after_the_signal_to_stop() {
    let mut server = Server::admitting_one_host("--stop-delay 1h").await;
    let mut kept = server.connect(LISTED).await;
    assert!(kept.send("GET", "/verify", &[], b"").await.unwrap().status < 300);
    server.signal("TERM").await;
    server.has_logged("stopping in 1h").await;
    let reply = server.get(LISTED, "/readyz").await;
    assert_eq!((reply.status, reply.text().as_str()), (503, "stopping\n"));
    assert_eq!(server.get(LISTED, "/healthz").await.status, 200);
    assert!(server.get(LISTED, "/verify").await.status < 300);
    let reply = kept.send("GET", "/verify", &[], b"").await.unwrap();
    assert!(reply.status < 300);
    assert_eq!(reply.header("connection"), None);
    server.signal("INT").await;
    assert_eq!(server.ended().await.code(), Some(0));
    server.has_logged("second signal").await;
}

#[tokio::test]
async fn stops_by_itself_after_the_delay() {
    let mut server = Server::admitting_one_host("--stop-delay 1ms").await;
    server.signal("TERM").await;
    assert_eq!(server.ended().await.code(), Some(0));
    server.has_logged("stopped").await;
    assert!(!server.log().contains("second signal"));
}

#[cfg(unix)]
#[tokio::test]
async fn only_three_signals_end_the_server() {
    for ending in ["TERM", "INT", "QUIT"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("verify.sock");
        let flags = format!(
            "--listen unix:{} --client-ip-header x-real-ip --admin-listen 127.0.0.1:0",
            path.display()
        );
        let mut server = Server::admitting_one_host(&flags).await;
        for ignored in ["HUP", "USR1", "USR2", "PIPE", "HUP"] {
            server.signal(ignored).await;
            assert_eq!(
                server.get(LISTED, "/healthz").await.status,
                200,
                "{ignored}"
            );
        }
        server.has_logged("nothing to reload").await;
        assert!(path.exists());
        server.signal(ending).await;
        assert_eq!(server.ended().await.code(), Some(0), "{ending}");
        assert!(!path.exists(), "{ending}");
    }
}
