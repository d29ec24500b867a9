//! Requests to the admin listener of a running server.

use std::{io, net::SocketAddr, time::Duration};

use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    runtime::Builder,
    time::timeout,
};

use crate::{
    args::{AskArgs, Listen},
    error::Error,
};

/// Requests a path, and returns the body of the response.
pub(super) fn get(args: &AskArgs, path: &str) -> Result<Vec<u8>, Error> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Start)?;
    let asked = runtime.block_on(async {
        match timeout(LIMIT, ask(&args.admin_listen, path)).await {
            Ok(asked) => asked,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    });
    let (status, body) = asked.map_err(|cause| Error::Ask {
        address: address_text(&args.admin_listen),
        cause,
    })?;
    match status {
        StatusCode::OK => Ok(body),
        StatusCode::NOT_FOUND => Err(Error::NoJournal),
        status => Err(Error::Ask {
            address: address_text(&args.admin_listen),
            cause: io::Error::other(format!("the response is {status}")),
        }),
    }
}

pub(super) fn get_json(args: &AskArgs, path: &str) -> Result<Value, Error> {
    let body = get(args, path)?;
    serde_json::from_slice(&body).map_err(|error| Error::Ask {
        address: address_text(&args.admin_listen),
        cause: error.into(),
    })
}

async fn ask(server: &Listen, path: &str) -> io::Result<(StatusCode, Vec<u8>)> {
    match server {
        Listen::Tcp(address) => {
            let stream = TcpStream::connect(reachable(*address)).await?;
            exchange(stream, path).await
        }
        #[cfg(unix)]
        Listen::Unix(socket) => {
            exchange(tokio::net::UnixStream::connect(socket).await?, path).await
        }
        #[cfg(not(unix))]
        Listen::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    path: &str,
) -> io::Result<(StatusCode, Vec<u8>)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(connection);
    let request = Request::get(path)
        .header("host", "callback-source")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let response = sender
        .send_request(request)
        .await
        .map_err(io::Error::other)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_BODY);
    let body = body.collect().await.map_err(io::Error::other)?;
    Ok((status, body.to_bytes().into()))
}

/// Returns the address to connect to. A server that listens on all addresses is reached at the loopback address.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

fn address_text(server: &Listen) -> String {
    match server {
        Listen::Tcp(address) => address.to_string(),
        Listen::Unix(path) => format!("unix:{}", path.display()),
    }
}

const LIMIT: Duration = Duration::from_secs(10);
const MAX_BODY: usize = 64 * 1024 * 1024;
