//! The diagnosis of a delivery that is refused.

use std::time::{Duration, SystemTime};

use http::{Uri, request::Parts};

use super::{Claim, Target};
use crate::{MessageRejection, signature::Secrets};

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
