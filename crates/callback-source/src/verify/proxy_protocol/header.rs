//! The header of the PROXY protocol.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::verify::forwarded::usable_client;

/// A header of the PROXY protocol.
///
/// See [`parse`](Self::parse) for an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    client: Option<SocketAddr>,
    len: usize,
}

impl Header {
    /// Reads the header at the start of a connection. Returns `None` when more bytes are needed.
    ///
    /// ```
    /// use callback_source::verify::proxy_protocol::{Header, HeaderError};
    ///
    /// let bytes = b"PROXY TCP4 192.0.2.1 192.0.2.80 4711 443\r\nGET / HTTP/1.1\r\n";
    /// let header = Header::parse(bytes)?.expect("complete");
    /// assert_eq!(header.client(), Some("192.0.2.1:4711".parse().unwrap()));
    /// assert_eq!(&bytes[header.length()..], b"GET / HTTP/1.1\r\n");
    ///
    /// assert_eq!(Header::parse(b"PROXY TCP4 192.0.2.1"), Ok(None));
    /// assert_eq!(Header::parse(b"GET / HTTP/1.1\r\n"), Err(HeaderError::Missing));
    /// # Ok::<_, HeaderError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error for bytes that do not begin with a valid header. Further bytes would not make them valid.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, HeaderError> {
        if bytes.starts_with(v2::PROTOCOL_PREFIX) {
            return Self::parse_v2(bytes);
        }
        if bytes.starts_with(V1_PREFIX) {
            return Self::parse_v1(bytes);
        }
        if v2::PROTOCOL_PREFIX.starts_with(bytes) || V1_PREFIX.starts_with(bytes) {
            return Ok(None);
        }
        Err(HeaderError::Missing)
    }

    /// Reads the header from the start of a connection, for servers other than axum's.
    ///
    /// `ahead` contains the bytes that were read already. After a successful call, it contains the bytes that followed
    /// the header.
    ///
    /// Read the header only if the connection's peer is one of the [`TrustedProxies`](crate::verify::TrustedProxies):
    /// any other peer could name any client. Close a connection without a valid header. If a connection ends and
    /// `ahead` is empty, the peer probably only probed whether the port is open. Set a time limit around the call,
    /// since a proxy can stop sending.
    ///
    /// ```
    /// use callback_source::verify::proxy_protocol::Header;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut connection = &b"PROXY TCP4 192.0.2.1 192.0.2.80 4711 443\r\nGET / HTTP/1.1\r\n"[..];
    /// let mut ahead = Vec::new();
    /// let header = Header::read(&mut connection, &mut ahead).await??;
    /// assert_eq!(header.client(), Some("192.0.2.1:4711".parse()?));
    /// assert_eq!(ahead, b"GET / HTTP/1.1\r\n");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns errors of the connection, and [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if the connection ends
    /// before the header is complete. The inner result contains the errors of [`parse`](Self::parse).
    pub async fn read(
        io: &mut (impl AsyncRead + Unpin),
        ahead: &mut Vec<u8>,
    ) -> io::Result<Result<Self, HeaderError>> {
        ahead.reserve(USUAL_LENGTH);
        loop {
            match Self::parse(ahead) {
                Ok(Some(header)) => {
                    ahead.drain(..header.len);
                    return Ok(Ok(header));
                }
                Ok(None) => {}
                Err(error) => return Ok(Err(error)),
            }
            if io.read_buf(ahead).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    // The parsers of `ppp` receive only complete headers. `parse_v2` and `parse_v1` decide whether a header is
    // complete, and where it ends.
    fn parse_v2(bytes: &[u8]) -> Result<Option<Self>, HeaderError> {
        let Some(fixed) = bytes.first_chunk::<V2_FIXED>() else {
            return Ok(None);
        };
        let len = V2_FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
        if len > V2_LONGEST {
            return Err(HeaderError::TooLong);
        }
        let Some(header) = bytes.get(..len) else {
            return Ok(None);
        };
        // For `LOCAL`, section 2.2 of the specification requires that the family and the length of the addresses are
        // ignored. The parser of `ppp` reads both, so it is not called.
        if header[12] == V2_LOCAL {
            return Ok(Some(Self { client: None, len }));
        }
        let header = v2::Header::try_from(header).map_err(|_| HeaderError::Malformed)?;
        let client = match (header.protocol, header.addresses) {
            (v2::Protocol::Unspecified, v2::Addresses::Unspecified) => None,
            (v2::Protocol::Stream, v2::Addresses::IPv4(v4)) => {
                Some(client(v4.source_address, v4.source_port)?)
            }
            (v2::Protocol::Stream, v2::Addresses::IPv6(v6)) => {
                Some(client(v6.source_address, v6.source_port)?)
            }
            _ => return Err(HeaderError::NoAddress),
        };
        Ok(Some(Self { client, len }))
    }

    fn parse_v1(bytes: &[u8]) -> Result<Option<Self>, HeaderError> {
        let line = &bytes[..bytes.len().min(V1_LONGEST)];
        let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
            return match line.len() {
                V1_LONGEST => Err(HeaderError::TooLong),
                _ => Ok(None),
            };
        };
        let line = &line[..=end];
        let header = v1::Header::try_from(line).map_err(|_| HeaderError::Malformed)?;
        if header.header.len() != line.len() {
            return Err(HeaderError::Malformed);
        }
        let client = match header.addresses {
            v1::Addresses::Unknown => None,
            v1::Addresses::Tcp4(v4) => Some(client(v4.source_address, v4.source_port)?),
            v1::Addresses::Tcp6(v6) => Some(client(v6.source_address, v6.source_port)?),
        };
        let len = line.len();
        Ok(Some(Self { client, len }))
    }

    /// Returns the client in canonical form, or `None` for a connection of the proxy itself, such as a health check. In
    /// that case, judge the address of the proxy.
    ///
    /// ```
    /// use callback_source::verify::proxy_protocol::{Header, HeaderError};
    ///
    /// let health_check = Header::parse(b"PROXY UNKNOWN\r\n")?.expect("complete");
    /// assert_eq!(health_check.client(), None);
    /// # Ok::<_, HeaderError>(())
    /// ```
    #[must_use]
    pub fn client(&self) -> Option<SocketAddr> {
        self.client
    }

    /// Returns the length of the header in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.len
    }
}

fn client(address: impl Into<IpAddr>, port: u16) -> Result<SocketAddr, HeaderError> {
    let address = usable_client(address.into()).ok_or(HeaderError::NoAddress)?;
    Ok(SocketAddr::new(address, port))
}

/// Error for bytes that do not begin with a valid header of the PROXY protocol.
///
/// See [`Header::parse`] for an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The bytes do not begin like a header.
    #[error("no PROXY protocol header")]
    Missing,
    /// The bytes begin like a header, but the rest is malformed.
    #[error("malformed PROXY protocol header")]
    Malformed,
    /// The header is longer than 107 bytes (version 1) or 4,096 bytes (version 2).
    #[error("PROXY protocol header is too long")]
    TooLong,
    /// The header does not name an address that a client can have.
    #[error("PROXY protocol header does not name an address that a client can have")]
    NoAddress,
}

impl HeaderError {
    #[cfg(feature = "axum")]
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::TooLong => "too-long",
            Self::NoAddress => "no-address",
        }
    }
}

const V1_PREFIX: &[u8] = b"PROXY ";
/// Maximum length of a header of version 1, in bytes (section 2.1 of the specification).
const V1_LONGEST: usize = 107;

const V2_FIXED: usize = 16;
/// First byte after the protocol's signature: version 2, command 0 (`LOCAL`).
const V2_LOCAL: u8 = 0x20;
/// Maximum length of a header of version 2, in bytes. The specification allows 64 KiB, but even the details of a client
/// certificate need only a few hundred bytes.
const V2_LONGEST: usize = 4096;

/// Length that few headers exceed, in bytes.
const USUAL_LENGTH: usize = 512;
