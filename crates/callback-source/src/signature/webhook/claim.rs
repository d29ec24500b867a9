//! The claim of a delivery: date, hash and signature, as its headers state them.

use std::time::{Duration, SystemTime};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, header};
use httpdate::parse_http_date;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::{
    SCHEME, SIGNED_HEADERS, Target, X_MS_CONTENT_SHA256, X_MS_DATE, X_VIPPS_AUTHORIZATION, one,
};
use crate::{
    MessageRejection,
    MessageRejectionKind::{
        self, Algorithm, ContentHash, DateAhead, DateStale, DuplicateHeader, MalformedHeader,
        MissingHeader, Signature, SignedHeaders, UnknownKey,
    },
    signature::{Secret, Secrets, secret::equal_and_wiped},
};

/// Date, hash and signature that the headers of a delivery claim.
///
/// A service without tower checks date and signature before it reads the body, so that it buffers only signed bodies:
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use callback_source::MessageRejection;
/// use callback_source::signature::{Secret, Secrets, webhook::{self, Claim, Target}};
/// use http::{Request, Uri, request::Parts};
///
/// fn check_head(parts: &Parts, secrets: &Secrets) -> Result<(), MessageRejection> {
///     let claim = Claim::from_headers(&parts.headers)?;
///     claim.check_date(SystemTime::now(), Duration::from_secs(300))?;
///     claim.check_signature(&Target::from_request(parts)?, secrets)
/// }
///
/// fn check_body(parts: &Parts, body: &[u8]) -> Result<(), MessageRejection> {
///     Claim::from_headers(&parts.headers)?.check_body(body)
/// }
///
/// let secret = Secret::new("of the registration")?;
/// let url = Uri::from_static("https://shop.example/webhooks");
/// let mut request = Request::post("/webhooks").body(())?;
/// *request.headers_mut() = webhook::sign(&secret, &url, b"paid", SystemTime::now())?;
/// let (parts, ()) = request.into_parts();
/// check_head(&parts, &secret.into())?;
/// check_body(&parts, b"paid")?;
/// assert_eq!(check_body(&parts, b"refunded").unwrap_err().status(), 401);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    date_text: &'a [u8],
    date: SystemTime,
    hash_text: &'a [u8],
    hash: [u8; 32],
    signature: [u8; 32],
}

impl<'a> Claim<'a> {
    /// Reads the claim from the headers.
    ///
    /// `x-ms-date` and `x-ms-content-sha256` must each be present exactly once. The signature is read from
    /// `authorization`. If that header is missing or has another scheme (for example a proxy's own credentials), the
    /// signature is read from its copy `x-vipps-authorization`. Neither of these two headers may be repeated. If both
    /// contain signatures, they must be equal.
    ///
    /// # Errors
    ///
    /// Returns an error for a header that is missing, duplicated or malformed, for another algorithm, or for other
    /// signed headers.
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

    /// Returns the time at which the delivery was signed, as its date claims.
    #[must_use]
    pub fn date(&self) -> SystemTime {
        self.date
    }

    pub(in crate::signature) fn signature(&self) -> [u8; 32] {
        self.signature
    }

    pub(in crate::signature) fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Checks that the date differs from `now` by at most the window.
    ///
    /// # Errors
    ///
    /// Returns [`DateStale`] or [`DateAhead`] for another date.
    pub fn check_date(&self, now: SystemTime, window: Duration) -> Result<(), MessageRejection> {
        match now.duration_since(self.date) {
            Ok(age) if window < age => Err(MessageRejection::new(DateStale)),
            Err(ahead) if window < ahead.duration() => Err(MessageRejection::new(DateAhead)),
            _ => Ok(()),
        }
    }

    /// Checks that one of the secrets signed these headers for this target.
    ///
    /// Every secret is tried, and no comparison ends early.
    ///
    /// # Errors
    ///
    /// Returns [`Signature`] if none of the secrets signed the headers, or [`UnknownKey`] for an empty list of secrets.
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

    /// Checks that the body has the claimed hash.
    ///
    /// This check verifies the body only together with [`check_signature`](Self::check_signature), which verifies the
    /// claimed hash.
    ///
    /// # Errors
    ///
    /// Returns [`ContentHash`] for another body.
    pub fn check_body(&self, body: &[u8]) -> Result<(), MessageRejection> {
        check_hash(&self.hash, &Sha256::digest(body).into())
    }
}

pub(in crate::signature) fn check_hash(
    claimed: &[u8; 32],
    hash: &[u8; 32],
) -> Result<(), MessageRejection> {
    if bool::from(claimed.ct_eq(hash)) {
        Ok(())
    } else {
        Err(MessageRejection::new(ContentHash))
    }
}

/// Returns the digest in the value of an `Authorization` header.
pub(crate) fn parse_authorization(value: &[u8]) -> Result<[u8; 32], MessageRejectionKind> {
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
        // A proxy replaced the signature with its own credentials.
        (Ok(original), Ok(copy)) if strip_scheme(original.as_bytes()).is_none() => Ok(copy),
        (Ok(original), Ok(copy)) if original == copy => Ok(original),
        (Ok(_), Ok(_)) => Err(MessageRejection::for_header(
            DuplicateHeader,
            "x-vipps-authorization",
        )),
    }
}

/// Parses a date in the form IMF-fixdate (RFC 9110 section 5.6.7). The length and the end are checked first, because
/// httpdate also accepts the two obsolete forms, and white space around a date.
pub(super) fn parse_date(text: &[u8]) -> Option<SystemTime> {
    if text.len() != 29 || !text.ends_with(b" GMT") {
        return None;
    }
    parse_http_date(std::str::from_utf8(text).ok()?).ok()
}

/// Decodes 32 bytes from canonical base64.
pub(super) fn parse_digest(text: &[u8]) -> Option<[u8; 32]> {
    // The decoder needs room for whole groups of three bytes.
    let mut decoded = [0; 33];
    let length = STANDARD.decode_slice(text, &mut decoded).ok()?;
    decoded[..length].try_into().ok()
}
