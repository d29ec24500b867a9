//! Diagnosis of a delivery that is refused.

use std::time::{Duration, SystemTime};

use http::{Uri, request::Parts};

use super::{Claim, Target};
use crate::{MessageRejection, signature::Secrets};

/// Finds the part of a delivery that does not match its signature, to explain a refusal.
///
/// `url` is the registered URL, if it is known. With this URL, a host or path that a proxy rewrote can be
/// distinguished from a wrong key.
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
/// Returns an error for headers that are missing, duplicated or malformed, for another algorithm, or for other signed
/// headers.
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
    let matches = |target: &Target<'_>| claim.check_signature(target, secrets).is_ok();
    let mismatch = || {
        let Some(registered) = url.and_then(|url| Target::from_url(url).ok()) else {
            return Mismatch::Key;
        };
        if matches(&sent.clone().with_host(registered.host())) {
            Mismatch::Host
        } else if matches(
            &sent
                .clone()
                .with_path_and_query(registered.path_and_query()),
        ) {
            Mismatch::Path
        } else if matches(&registered) {
            Mismatch::Target
        } else {
            Mismatch::Key
        }
    };
    Ok(Diagnosis {
        date: claim.check_date(now, window),
        content: claim.check_body(body),
        signature: if matches(&sent) {
            Ok(())
        } else {
            Err(mismatch())
        },
    })
}

/// Result of [`diagnose`]. Each of the three checks has its own outcome, so that a stale date does not hide a wrong
/// key.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use callback_source::signature::{Secret, webhook};
/// use http::{Request, Uri};
///
/// let url = Uri::from_static("https://shop.example/webhooks");
/// let signed_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
/// let mut request = Request::post("/webhooks").body(())?;
/// let secret = Secret::new("of another registration")?;
/// *request.headers_mut() = webhook::sign(&secret, &url, b"paid", signed_at)?;
/// let (parts, ()) = request.into_parts();
///
/// // A delivery from the log of last week.
/// let now = signed_at + Duration::from_secs(7 * 24 * 60 * 60);
/// let window = Duration::from_secs(300);
/// let expected = Secret::new("of the registration")?;
/// let diagnosis = webhook::diagnose(&parts, b"paid", &expected.into(), Some(&url), now, window)?;
/// let problems = [
///     diagnosis.date.err().map(|rejection| rejection.body_text().trim_end().to_owned()),
///     diagnosis.content.err().map(|rejection| rejection.body_text().trim_end().to_owned()),
///     diagnosis.signature.err().map(|mismatch| mismatch.to_string()),
/// ];
/// let problems: Vec<_> = problems.into_iter().flatten().collect();
/// assert_eq!(problems, [
///     "the request was signed too long ago",
///     "no secret matches; it belongs to another registration, or the headers were changed",
/// ]);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Diagnosis {
    /// Outcome of the check of the date.
    pub date: Result<(), MessageRejection>,
    /// Outcome of the check of the body against the claimed hash.
    pub content: Result<(), MessageRejection>,
    /// Outcome of the check of the signature.
    pub signature: Result<(), Mismatch>,
}

/// The part of a delivery that does not match its signature.
///
/// See [`diagnose`] for an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// The delivery was signed for the host of the registered URL, but arrived with another host.
    #[error("the host is not that of the registered URL; make the proxy preserve it, or pin it")]
    Host,
    /// The delivery was signed for the path of the registered URL, but arrived with another path.
    #[error("the path is not that of the registered URL; make the proxy preserve it, or pin it")]
    Path,
    /// The delivery was signed for the registered URL, but arrived with another method, or with another host and path.
    #[error("method, host or path are not those of the registered URL")]
    Target,
    /// None of the secrets signed the delivery for the target that was sent, or for the registered URL.
    #[error("no secret matches; it belongs to another registration, or the headers were changed")]
    Key,
}
