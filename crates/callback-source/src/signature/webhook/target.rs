//! The target of a request: its method, host and path, which the signature covers.

use std::borrow::Cow;

use http::{
    Uri, header,
    request::Parts,
    uri::{Authority, PathAndQuery},
};

use super::{SignError, one};
use crate::{
    MessageRejection,
    MessageRejectionKind::{DuplicateHeader, MalformedHeader, MissingHeader},
    signature::Secret,
};

/// Method, host and path of a request, which the signature covers.
///
/// If a proxy rewrites host or path, they must be replaced by those of the registered URL:
///
/// ```
/// use std::time::SystemTime;
/// use callback_source::signature::{Secret, webhook::{self, Claim, Target}};
/// use http::{Request, Uri};
///
/// let secret = Secret::new("of the registration")?;
/// let url = Uri::from_static("https://shop.example/webhooks");
/// let headers = webhook::sign(&secret, &url, b"paid", SystemTime::now())?;
///
/// // The proxy strips the prefix, and sends its own `Host`.
/// let mut request = Request::post("/").body(())?;
/// *request.headers_mut() = headers.clone();
/// request.headers_mut().insert("host", "10.0.0.7:8080".parse()?);
/// let (parts, ()) = request.into_parts();
///
/// let claim = Claim::from_headers(&headers)?;
/// let sent = Target::from_request(&parts)?;
/// assert!(claim.check_signature(&sent, &secret.clone().into()).is_err());
/// let registered = sent.with_host("shop.example").with_path_and_query("/webhooks");
/// assert!(claim.check_signature(&registered, &secret.into()).is_ok());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    method: &'a str,
    host: Cow<'a, str>,
    path_and_query: Cow<'a, str>,
}

impl<'a> Target<'a> {
    /// Returns the target of a request, with host and path byte for byte as they were sent.
    ///
    /// The host is the URI's authority (HTTP/2, absolute form) or the `Host` header. With the feature `axum` the URI
    /// is axum's `OriginalUri`, since `nest` strips the prefix from the request's own URI.
    ///
    /// # Errors
    ///
    /// Returns an error for a host that is missing, present twice or malformed, or that differs between authority and
    /// header.
    pub fn from_request(parts: &'a Parts) -> Result<Self, MessageRejection> {
        let uri = request_uri(parts);
        let header = match one(&parts.headers, &header::HOST, "host") {
            Err(missing) if missing.kind() == MissingHeader => None,
            host => Some(host?),
        };
        let authority = uri.authority().map(Authority::as_str);
        let host = match (authority, header) {
            (Some(authority), None) => authority,
            (Some(authority), Some(host)) if host.as_bytes() == authority.as_bytes() => authority,
            (Some(_), Some(_)) => {
                return Err(MessageRejection::for_header(DuplicateHeader, "host"));
            }
            (None, Some(host)) => host
                .to_str()
                .map_err(|_| MessageRejection::for_header(MalformedHeader, "host"))?,
            (None, None) => return Err(MessageRejection::for_header(MissingHeader, "host")),
        };
        Ok(Self::from_request_at(parts, host))
    }

    /// Returns the target of a request whose host is pinned.
    pub(in crate::signature) fn from_request_at(parts: &'a Parts, host: &'a str) -> Self {
        Self {
            method: parts.method.as_str(),
            host: Cow::Borrowed(host),
            path_and_query: path_and_query(request_uri(parts)),
        }
    }

    /// Returns the target of a `POST` to a registered URL. Host and path have the form in which an HTTP client sends
    /// them: the host in lower case, without a default port, and `/` for an empty path.
    ///
    /// # Errors
    ///
    /// Returns an error for a URL without a host.
    pub fn from_url(url: &'a Uri) -> Result<Self, SignError> {
        let authority = url.authority().filter(|named| !named.host().is_empty());
        let authority = authority.ok_or(SignError::NoHost)?;
        let default_port = match url.scheme_str() {
            Some("http") => 80,
            _ => HTTPS_PORT,
        };
        Ok(Self {
            method: "POST",
            host: sent_host(authority, default_port),
            path_and_query: path_and_query(url),
        })
    }

    /// Replaces the host, for a proxy that does not preserve it.
    #[must_use]
    pub fn with_host(self, host: &'a str) -> Self {
        Self {
            host: Cow::Borrowed(host),
            ..self
        }
    }

    /// Replaces path and query, for a proxy that does not preserve them.
    #[must_use]
    pub fn with_path_and_query(self, path_and_query: &'a str) -> Self {
        Self {
            path_and_query: Cow::Borrowed(path_and_query),
            ..self
        }
    }

    /// Returns the host, with the port if the target contains one.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the path and query.
    #[must_use]
    pub fn path_and_query(&self) -> &str {
        &self.path_and_query
    }

    pub(super) fn mac(&self, secret: &Secret, date: &[u8], hash: &[u8]) -> [u8; 32] {
        secret.mac(&[
            self.method.as_bytes(),
            b"\n",
            self.path_and_query.as_bytes(),
            b"\n",
            date,
            b";",
            self.host.as_bytes(),
            b";",
            hash,
        ])
    }
}

/// Returns the host as an HTTP client sends it.
pub(in crate::signature) fn sent_host(authority: &Authority, default_port: u16) -> Cow<'_, str> {
    let host = match authority.port_u16() {
        Some(port) if port != default_port => {
            let text = authority.as_str();
            text.rsplit_once('@').map_or(text, |(_, host)| host)
        }
        _ => authority.host(),
    };
    match host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(host.to_ascii_lowercase()),
        false => Cow::Borrowed(host),
    }
}

fn path_and_query(uri: &Uri) -> Cow<'_, str> {
    match uri.path_and_query().map_or("/", PathAndQuery::as_str) {
        // An empty path before a query is sent as `/`.
        query if query.starts_with('?') => Cow::Owned(format!("/{query}")),
        path => Cow::Borrowed(path),
    }
}

/// Returns the URI as it was sent, even within axum's `nest`.
pub(in crate::signature) fn request_uri(parts: &Parts) -> &Uri {
    #[cfg(feature = "axum")]
    if let Some(axum::extract::OriginalUri(uri)) = parts.extensions.get() {
        return uri;
    }
    &parts.uri
}

pub(in crate::signature) const HTTPS_PORT: u16 = 443;
