//! An HTTP client with a choice of its source address.
//!
//! The layer under test judges the peer's address, so a test needs several source addresses. On Linux, a socket can be
//! bound to any address of 127.0.0.0/8.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response,
    body::{Frame, Incoming},
    client::conn::{http1, http2},
    header::{CONNECTION, HOST, HeaderName, HeaderValue},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

/// A client at one source address that opens a connection for each request.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    source: IpAddr,
}

impl Client {
    /// Sends a request over a new HTTP/1.1 connection, with `Connection: close`, and reads the reply to its end.
    ///
    /// # Errors
    ///
    /// If the connection from this address fails, the reply is incomplete, or the method, path or a
    /// header is invalid.
    pub async fn send(
        &self,
        server: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Reply> {
        let mut connection = Connection::connect(self.source, server).await?;
        let mut headers = headers.to_vec();
        headers.push((CONNECTION.as_str(), "close"));
        connection.send(method, path, &headers, body).await
    }
}

impl From<IpAddr> for Client {
    fn from(source: IpAddr) -> Self {
        Self { source }
    }
}

/// A connection for several requests, one after the other.
///
/// The connection is closed when this value is dropped.
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    local: SocketAddr,
    server: SocketAddr,
    /// Drives the connection until it is dropped.
    _driver: JoinSet<()>,
}

impl Connection {
    /// Opens an HTTP/1.1 connection from `source`.
    ///
    /// # Errors
    ///
    /// If `source` cannot be bound, or the server refuses the connection.
    pub async fn connect(source: IpAddr, server: SocketAddr) -> io::Result<Self> {
        let stream = open(source, server).await?;
        let local = stream.local_addr()?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(io::Error::other)?;
        let mut driver = JoinSet::new();
        // An error here is ignored, since an error of the connection also makes its requests fail.
        driver.spawn(async { connection.await.unwrap_or_default() });
        Ok(Self {
            sender: Sender::Http1(sender),
            local,
            server,
            _driver: driver,
        })
    }

    /// Opens an HTTP/2 connection from `source`, with prior knowledge.
    ///
    /// # Errors
    ///
    /// If `source` cannot be bound, or the server refuses the connection.
    pub async fn connect_h2(source: IpAddr, server: SocketAddr) -> io::Result<Self> {
        let stream = open(source, server).await?;
        let local = stream.local_addr()?;
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(io::Error::other)?;
        let mut driver = JoinSet::new();
        driver.spawn(async { connection.await.unwrap_or_default() });
        Ok(Self {
            sender: Sender::Http2(sender),
            local,
            server,
            _driver: driver,
        })
    }

    /// Sends a request and reads the reply to its end.
    ///
    /// # Errors
    ///
    /// If the connection closes before the reply ends, or the method, path or a header is invalid.
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Reply> {
        let body = Full::new(Bytes::copy_from_slice(body));
        let body = body.boxed_unsync();
        self.request(method, path, headers, body).await
    }

    /// Sends a request as [`send`](Self::send) does, with a body of unknown length in chunks.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub async fn send_chunks(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        chunks: impl IntoIterator<Item = Bytes, IntoIter: Send + 'static>,
    ) -> io::Result<Reply> {
        let frames = chunks.into_iter().map(Frame::data).map(Ok);
        let body = StreamBody::new(stream::iter(frames)).boxed_unsync();
        self.request(method, path, headers, body).await
    }

    /// The source address of this connection.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// True if either side has closed the connection.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    async fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> io::Result<Reply> {
        let uri = match self.sender {
            Sender::Http1(_) => path.to_owned(),
            // The pseudo-headers `:scheme` and `:authority` of HTTP/2 are derived from this URL.
            Sender::Http2(_) => format!("http://{}{path}", self.server),
        };
        let mut request = Request::new(body);
        *request.method_mut() = Method::from_bytes(method.as_bytes()).map_err(invalid)?;
        *request.uri_mut() = uri.parse().map_err(invalid)?;
        for (name, value) in headers {
            let name: HeaderName = name.parse().map_err(invalid)?;
            let value = HeaderValue::from_bytes(value.as_bytes()).map_err(invalid)?;
            request.headers_mut().append(name, value);
        }
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                let host = HeaderValue::try_from(self.server.to_string()).map_err(invalid)?;
                request.headers_mut().entry(HOST).or_insert(host);
                sender.ready().await.map_err(io::Error::other)?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => sender.send_request(request).await,
        };
        Reply::read(response.map_err(io::Error::other)?).await
    }
}

/// A reply of the server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The headers, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body, without chunked coding.
    pub body: Vec<u8>,
}

impl Reply {
    /// The first value of a header. The name may be in any letter case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let (_, value) = headers.find(|(header, _)| header.eq_ignore_ascii_case(name))?;
        Some(value)
    }

    /// The body as text. Invalid UTF-8 is replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    async fn read(response: Response<Incoming>) -> io::Result<Self> {
        let (head, body) = response.into_parts();
        let headers = head.headers.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.as_str().to_owned(), value.into_owned())
        });
        Ok(Self {
            status: head.status.as_u16(),
            headers: headers.collect(),
            body: body
                .collect()
                .await
                .map_err(io::Error::other)?
                .to_bytes()
                .into(),
        })
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

async fn open(source: IpAddr, server: SocketAddr) -> io::Result<TcpStream> {
    let socket = match source {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(server).await
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

#[cfg(test)]
mod tests;
