//! The signature of the Webhooks API, without I/O and without a clock.
//!
//! [`sign`] creates the headers of a delivery, [`Claim`] checks them, and [`diagnose`] finds the part of a delivery
//! that does not match its signature.
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

mod claim;
mod diagnose;
mod target;

#[cfg(fuzzing)]
pub(crate) use claim::parse_authorization;
pub use {
    claim::Claim,
    diagnose::{Diagnosis, Mismatch, diagnose},
    target::Target,
};
pub(super) use {
    claim::check_hash,
    target::{HTTPS_PORT, request_uri, sent_host},
};

use std::time::SystemTime;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use httpdate::fmt_http_date;
use sha2::{Digest, Sha256};

use super::Secret;
use crate::{
    MessageRejection,
    MessageRejectionKind::{DuplicateHeader, MissingHeader},
};

/// Creates the headers of a `POST` delivery to a registered URL: `host`, `x-ms-date`, `x-ms-content-sha256`,
/// `authorization` and its copy `x-vipps-authorization`.
///
/// A test of a service can send a delivery as the provider would:
///
/// ```
/// use std::time::SystemTime;
/// use callback_source::signature::{Secret, webhook};
/// use http::{Request, Uri};
///
/// let secret = Secret::new("of the registration")?;
/// let url = Uri::from_static("https://shop.example/webhooks");
/// let body = br#"{"name":"AUTHORIZED"}"#;
/// let mut delivery = Request::post("/webhooks").body(body)?;
/// *delivery.headers_mut() = webhook::sign(&secret, &url, body, SystemTime::now())?;
/// assert_eq!(delivery.headers()["host"], "shop.example");
///
/// // The signature covers the host, so the URL must be whole.
/// let path = Uri::from_static("/webhooks");
/// let error = webhook::sign(&secret, &path, body, SystemTime::now()).unwrap_err();
/// assert_eq!(error, webhook::SignError::NoHost);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// Returns an error for a URL without a host, and for a date before 1970 or after 9999.
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

/// Error for a delivery that cannot be signed. See [`sign`] for an example.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The URL has no host.
    #[error("the URL has no host; give the whole URL that was registered")]
    NoHost,
    /// The date is before 1970 or after 9999.
    #[error("the date is not between 1970 and 9999")]
    Date,
}

crate::debug::debug_by_message!(SignError);

/// Returns the value of a header that must be present exactly once.
pub(super) fn one<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    label: &'static str,
) -> Result<&'a HeaderValue, MessageRejection> {
    let mut values = headers.get_all(name).into_iter();
    let value = values.next();
    if values.next().is_some() {
        return Err(MessageRejection::for_header(DuplicateHeader, label));
    }
    value.ok_or_else(|| MessageRejection::for_header(MissingHeader, label))
}

const SCHEME: &str = "HMAC-SHA256";
const SIGNED_HEADERS: &str = "SignedHeaders=x-ms-date;host;x-ms-content-sha256";
const X_MS_DATE: HeaderName = HeaderName::from_static("x-ms-date");
const X_MS_CONTENT_SHA256: HeaderName = HeaderName::from_static("x-ms-content-sha256");
const X_VIPPS_AUTHORIZATION: HeaderName = HeaderName::from_static("x-vipps-authorization");

/// Start of the year 10,000, in seconds since 1970. httpdate panics for this time and later times.
const YEAR_10_000: u64 = 253_402_300_800;

#[cfg(test)]
mod tests;
