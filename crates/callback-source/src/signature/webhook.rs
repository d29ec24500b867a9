//! The signature of the Webhooks API, without I/O and without a clock.
//!
//! [`sign`] makes the headers of a delivery, [`Claim`] checks them, and [`diagnose`] says which part of
//! a delivery does not fit.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use callback_source::signature::{Secret, webhook};
//! use http::Uri;
//!
//! let secret = Secret::new("of the registration")?;
//! let url = Uri::from_static("https://shop.example/webhooks?tenant=7");
//! let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
//! let headers = webhook::sign(&secret, &url, b"{}", now)?;
//!
//! let claim = webhook::Claim::from_headers(&headers)?;
//! claim.check_date(now, Duration::from_secs(300))?;
//! claim.check_signature(&webhook::Target::from_url(&url)?, &secret.into())?;
//! claim.check_body(b"{}")?;
//! assert!(claim.check_body(b"{ }").is_err());
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderName, HeaderValue, Uri, header,
    request::Parts,
    uri::{Authority, PathAndQuery},
};
use httpdate::{fmt_http_date, parse_http_date};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::{Secret, Secrets, secret::equal_and_wiped};
use crate::{
    MessageRejection,
    MessageRejectionKind::{
        self, Algorithm, ContentHash, DateAhead, DateStale, DuplicateHeader, MalformedHeader,
        MissingHeader, Signature, SignedHeaders, UnknownKey,
    },
};

/// The headers of a `POST` delivery to a registered URL: `host`, `x-ms-date`, `x-ms-content-sha256`,
/// `authorization` and its copy `x-vipps-authorization`.
///
/// See the [module docs](self) for an example.
///
/// # Errors
///
/// A URL without a host, and a date that a header cannot say (before 1970, after 9999).
pub fn sign(
    secret: &Secret,
    url: &Uri,
    body: &[u8],
    date: SystemTime,
) -> Result<HeaderMap, SignError> {
    let target = Target::from_url(url)?;
    let since_1970 = date.duration_since(SystemTime::UNIX_EPOCH);
    if !since_1970.is_ok_and(|age| age.as_secs() < YEAR_10_000) {
        return Err(SignError::Date);
    }
    let date = fmt_http_date(date);
    let hash = STANDARD.encode(Sha256::digest(body));
    let mac = target.mac(secret, date.as_bytes(), hash.as_bytes());
    let authorization = format!(
        "{SCHEME} {SIGNED_HEADERS}&Signature={}",
        STANDARD.encode(mac)
    );
    let headers = [
        (header::HOST, target.host()),
        (X_MS_DATE, date.as_str()),
        (X_MS_CONTENT_SHA256, hash.as_str()),
        (header::AUTHORIZATION, authorization.as_str()),
        (X_VIPPS_AUTHORIZATION, authorization.as_str()),
    ];
    let headers = headers.into_iter().map(|(name, value)| {
        let value = HeaderValue::from_str(value).map_err(|_| SignError::NoHost)?;
        Ok((name, value))
    });
    headers.collect()
}

/// Why a delivery cannot be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The URL has no host.
    #[error("the URL has no host: say it in full, as it was registered")]
    NoHost,
    /// The date is before 1970 or after 9999.
    #[error("the date is not between 1970 and 9999")]
    Date,
}

/// Where a request goes to, as far as its signature covers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    method: &'a str,
    host: Cow<'a, str>,
    path_and_query: Cow<'a, str>,
}

impl<'a> Target<'a> {
    /// Of a request: host and path as they were sent, byte for byte.
    ///
    /// The host is the URI's authority (HTTP/2, absolute form) or the `Host` header. With the feature
    /// `axum` the URI is axum's `OriginalUri`, since `nest` takes the prefix off the request's own.
    ///
    /// # Errors
    ///
    /// A host that is missing, there twice, not in its form, or said in two ways that differ.
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

    /// Of a request whose host is known otherwise.
    pub(super) fn from_request_at(parts: &'a Parts, host: &'a str) -> Self {
        Self {
            method: parts.method.as_str(),
            host: Cow::Borrowed(host),
            path_and_query: path_and_query(request_uri(parts)),
        }
    }

    /// Of a `POST` to a URL as it was registered. Host and path are what an HTTP client makes of it: the
    /// host in lower case, without a default port, and `/` for an empty path.
    ///
    /// # Errors
    ///
    /// A URL without a host.
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

    /// With another host: for a proxy that does not keep it.
    #[must_use]
    pub fn with_host(self, host: &'a str) -> Self {
        Self {
            host: Cow::Borrowed(host),
            ..self
        }
    }

    /// With another path and query: for a proxy that does not keep it.
    #[must_use]
    pub fn with_path_and_query(self, path_and_query: &'a str) -> Self {
        Self {
            path_and_query: Cow::Borrowed(path_and_query),
            ..self
        }
    }

    /// The host, with a port that is not the default.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path and query.
    #[must_use]
    pub fn path_and_query(&self) -> &str {
        &self.path_and_query
    }

    fn mac(&self, secret: &Secret, date: &[u8], hash: &[u8]) -> [u8; 32] {
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

/// What the headers of a delivery claim. See the [module docs](self) for an example.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    date_text: &'a [u8],
    date: SystemTime,
    hash_text: &'a [u8],
    hash: [u8; 32],
    signature: [u8; 32],
}

impl<'a> Claim<'a> {
    /// Reads the headers.
    ///
    /// Each must be there once. The signature is that of `authorization`, or of its copy
    /// `x-vipps-authorization` if the former is missing or of another scheme (a proxy's own); if both
    /// are signatures, they must be the same.
    ///
    /// # Errors
    ///
    /// Which header is missing, duplicated or malformed; another algorithm, other signed headers.
    pub fn from_headers(headers: &'a HeaderMap) -> Result<Self, MessageRejection> {
        let signature = parse_authorization(authorization(headers)?.as_bytes())
            .map_err(|kind| MessageRejection::for_header(kind, "authorization"))?;
        let date_text = one(headers, &X_MS_DATE, "x-ms-date")?.as_bytes();
        let date = parse_date(date_text)
            .ok_or_else(|| MessageRejection::for_header(MalformedHeader, "x-ms-date"))?;
        let hash_text = one(headers, &X_MS_CONTENT_SHA256, "x-ms-content-sha256")?.as_bytes();
        let hash = parse_digest(hash_text)
            .ok_or_else(|| MessageRejection::for_header(MalformedHeader, "x-ms-content-sha256"))?;
        Ok(Self {
            date_text,
            date,
            hash_text,
            hash,
            signature,
        })
    }

    /// When the delivery claims to have been signed.
    #[must_use]
    pub fn date(&self) -> SystemTime {
        self.date
    }

    pub(super) fn signature(&self) -> [u8; 32] {
        self.signature
    }

    pub(super) fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Whether the date is at most the window away from now, before or after.
    ///
    /// # Errors
    ///
    /// It is not: [`DateStale`] or [`DateAhead`].
    pub fn check_date(&self, now: SystemTime, window: Duration) -> Result<(), MessageRejection> {
        match now.duration_since(self.date) {
            Ok(age) if window < age => Err(MessageRejection::new(DateStale)),
            Err(ahead) if window < ahead.duration() => Err(MessageRejection::new(DateAhead)),
            _ => Ok(()),
        }
    }

    /// Whether one of the secrets signed these headers for this target.
    ///
    /// Every secret is tried, and no comparison ends early.
    ///
    /// # Errors
    ///
    /// None did ([`Signature`]), or there is none at all ([`UnknownKey`]).
    pub fn check_signature(
        &self,
        target: &Target<'_>,
        secrets: &Secrets,
    ) -> Result<(), MessageRejection> {
        if secrets.is_empty() {
            let _ = std::hint::black_box(self.is_signed_by(target, Secret::dummy()));
            return Err(MessageRejection::new(UnknownKey));
        }
        let mut signed = Choice::from(0);
        for secret in secrets.iter() {
            signed |= self.is_signed_by(target, secret);
        }
        if bool::from(signed) {
            Ok(())
        } else {
            Err(MessageRejection::new(Signature))
        }
    }

    fn is_signed_by(&self, target: &Target<'_>, secret: &Secret) -> Choice {
        let mac = target.mac(secret, self.date_text, self.hash_text);
        equal_and_wiped(mac, &self.signature)
    }

    /// Whether the hash is that of the body.
    ///
    /// It proves something only together with [`check_signature`](Self::check_signature), which covers
    /// the claimed hash.
    ///
    /// # Errors
    ///
    /// It is not: [`ContentHash`].
    pub fn check_body(&self, body: &[u8]) -> Result<(), MessageRejection> {
        check_hash(&self.hash, &Sha256::digest(body).into())
    }
}

pub(super) fn check_hash(claimed: &[u8; 32], hash: &[u8; 32]) -> Result<(), MessageRejection> {
    if bool::from(claimed.ct_eq(hash)) {
        Ok(())
    } else {
        Err(MessageRejection::new(ContentHash))
    }
}

/// Which parts of a delivery fit, for a person who wants to know why it is refused.
///
/// `url` is the one that was registered, if it is known: with it a host or path that a proxy rewrote
/// can be told from a wrong key.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use callback_source::signature::{Secret, webhook};
/// use http::{Request, Uri};
///
/// let secret = Secret::new("of the registration")?;
/// let url = Uri::from_static("https://shop.example/webhooks");
/// let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
/// let mut request = Request::post("/webhooks").body(())?;
/// *request.headers_mut() = webhook::sign(&secret, &url, b"{}", now)?;
/// request.headers_mut().insert("host", "10.0.0.7:8080".parse()?);
///
/// let (parts, ()) = request.into_parts();
/// let window = Duration::from_secs(300);
/// let diagnosis = webhook::diagnose(&parts, b"{}", &secret.into(), Some(&url), now, window)?;
/// assert_eq!(diagnosis.signature, Err(webhook::Mismatch::Host));
/// assert!(diagnosis.date.is_ok() && diagnosis.content.is_ok());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// Headers that cannot be read at all.
pub fn diagnose(
    parts: &Parts,
    body: &[u8],
    secrets: &Secrets,
    url: Option<&Uri>,
    now: SystemTime,
    window: Duration,
) -> Result<Diagnosis, MessageRejection> {
    let claim = Claim::from_headers(&parts.headers)?;
    let sent = Target::from_request(parts)?;
    let fits = |target: &Target<'_>| claim.check_signature(target, secrets).is_ok();
    let mismatch = || {
        let Some(registered) = url.and_then(|url| Target::from_url(url).ok()) else {
            return Mismatch::Key;
        };
        if fits(&sent.clone().with_host(registered.host())) {
            Mismatch::Host
        } else if fits(
            &sent
                .clone()
                .with_path_and_query(registered.path_and_query()),
        ) {
            Mismatch::Path
        } else if fits(&registered) {
            Mismatch::Target
        } else {
            Mismatch::Key
        }
    };
    Ok(Diagnosis {
        date: claim.check_date(now, window),
        content: claim.check_body(body),
        signature: if fits(&sent) { Ok(()) } else { Err(mismatch()) },
    })
}

/// What [`diagnose`] found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Diagnosis {
    /// Whether the date is within the window.
    pub date: Result<(), MessageRejection>,
    /// Whether the body is the one whose hash is claimed.
    pub content: Result<(), MessageRejection>,
    /// Whether the signature covers what was sent.
    pub signature: Result<(), Mismatch>,
}

/// The part that a signature does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// It was signed for the host of the registered URL, and arrived at another.
    #[error("the host is not that of the registered URL: let the proxy keep it, or pin it")]
    Host,
    /// It was signed for the path of the registered URL, and arrived at another.
    #[error("the path is not that of the registered URL: let the proxy keep it, or pin it")]
    Path,
    /// It was signed for the registered URL, and arrived with another method, or another host and path.
    #[error("method, host or path are not those of the registered URL")]
    Target,
    /// None of the secrets signed it, for what was sent or for the registered URL.
    #[error("no secret fits: it is that of another registration, or the headers were changed")]
    Key,
}

/// The digest in the value of an `Authorization` header, for the fuzzer.
///
/// # Errors
///
/// Why there is none.
#[doc(hidden)]
pub fn parse_authorization(value: &[u8]) -> Result<[u8; 32], MessageRejectionKind> {
    let parameters = strip_scheme(value).ok_or(Algorithm)?;
    let mut parameters = parameters.split(|byte| *byte == b'&');
    let (signed, signature) = (parameters.next(), parameters.next());
    if parameters.next().is_some() {
        return Err(MalformedHeader);
    }
    let signed = signed.filter(|parameter| parameter.starts_with(b"SignedHeaders="));
    let signature = signature.and_then(|parameter| parameter.strip_prefix(b"Signature="));
    let (Some(signed), Some(signature)) = (signed, signature) else {
        return Err(MalformedHeader);
    };
    if signed != SIGNED_HEADERS.as_bytes() {
        return Err(SignedHeaders);
    }
    parse_digest(signature).ok_or(MalformedHeader)
}

fn strip_scheme(value: &[u8]) -> Option<&[u8]> {
    value.strip_prefix(SCHEME.as_bytes())?.strip_prefix(b" ")
}

fn authorization(headers: &HeaderMap) -> Result<&HeaderValue, MessageRejection> {
    let original = one(headers, &header::AUTHORIZATION, "authorization");
    let copy = one(headers, &X_VIPPS_AUTHORIZATION, "x-vipps-authorization");
    let is_missing = |error: &MessageRejection| error.kind() == MissingHeader;
    match (original, copy) {
        (Err(error), _) if !is_missing(&error) => Err(error),
        (_, Err(error)) if !is_missing(&error) => Err(error),
        (original, Err(_)) => original,
        (Err(_), Ok(copy)) => Ok(copy),
        // A proxy's own credentials are in the place of the signature.
        (Ok(original), Ok(copy)) if strip_scheme(original.as_bytes()).is_none() => Ok(copy),
        (Ok(original), Ok(copy)) if original == copy => Ok(original),
        (Ok(_), Ok(_)) => Err(MessageRejection::for_header(
            DuplicateHeader,
            "x-vipps-authorization",
        )),
    }
}

/// The value of a header that must be there once.
pub(super) fn one<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    said: &'static str,
) -> Result<&'a HeaderValue, MessageRejection> {
    let mut values = headers.get_all(name).into_iter();
    let value = values.next();
    if values.next().is_some() {
        return Err(MessageRejection::for_header(DuplicateHeader, said));
    }
    value.ok_or_else(|| MessageRejection::for_header(MissingHeader, said))
}

/// IMF-fixdate only (RFC 9110 section 5.6.7). httpdate also takes the two obsolete forms, which
/// have other lengths, and white space around them.
fn parse_date(text: &[u8]) -> Option<SystemTime> {
    if text.len() != 29 || !text.ends_with(b" GMT") {
        return None;
    }
    parse_http_date(std::str::from_utf8(text).ok()?).ok()
}

/// Base64 of 32 bytes, in the one canonical spelling.
fn parse_digest(text: &[u8]) -> Option<[u8; 32]> {
    // The decoder asks for room for whole groups of three.
    let mut decoded = [0; 33];
    let length = STANDARD.decode_slice(text, &mut decoded).ok()?;
    decoded[..length].try_into().ok()
}

/// The host as a client sends it that was given this one.
pub(super) fn sent_host(authority: &Authority, default_port: u16) -> Cow<'_, str> {
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
        // Between the host and a query an empty path is sent as `/`.
        query if query.starts_with('?') => Cow::Owned(format!("/{query}")),
        path => Cow::Borrowed(path),
    }
}

/// The URI as it was sent, also within axum's `nest`.
pub(super) fn request_uri(parts: &Parts) -> &Uri {
    #[cfg(feature = "axum")]
    if let Some(axum::extract::OriginalUri(uri)) = parts.extensions.get() {
        return uri;
    }
    &parts.uri
}

const SCHEME: &str = "HMAC-SHA256";
const SIGNED_HEADERS: &str = "SignedHeaders=x-ms-date;host;x-ms-content-sha256";
const X_MS_DATE: HeaderName = HeaderName::from_static("x-ms-date");
const X_MS_CONTENT_SHA256: HeaderName = HeaderName::from_static("x-ms-content-sha256");
const X_VIPPS_AUTHORIZATION: HeaderName = HeaderName::from_static("x-vipps-authorization");

pub(super) const HTTPS_PORT: u16 = 443;

/// In seconds since 1970; httpdate panics from here on.
const YEAR_10_000: u64 = 253_402_300_800;

#[cfg(test)]
mod tests;
