//! Detection of the protocol of a connection.
//!
//! Without TLS, a proxy speaks HTTP/2 without announcing it, so the first bytes are examined. They are read within the
//! time limit of the first head, and then passed on to hyper.

use std::io;

use bytes::Bytes;
use tokio::io::AsyncReadExt;

use super::peer::Stream;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// Detects the protocol from the first bytes, and returns the protocol and these bytes.
pub(super) async fn protocol(
    stream: &mut Stream,
    mut read: Vec<u8>,
) -> io::Result<(Protocol, Bytes)> {
    loop {
        let known = read.len().min(HTTP2_PREFACE.len());
        if read[..known] != HTTP2_PREFACE[..known] {
            return Ok((Protocol::Http1, read.into()));
        }
        if known == HTTP2_PREFACE.len() {
            return Ok((Protocol::Http2, read.into()));
        }
        let mut bytes = [0; HTTP2_PREFACE.len()];
        match stream.read(&mut bytes[known..]).await? {
            0 => return Ok((Protocol::Http1, read.into())),
            length => read.extend_from_slice(&bytes[known..known + length]),
        }
    }
}

const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
