//! `verify`: the part of a saved webhook that does not match.
//!
//! The library's layer refuses a request with the first reason that it finds. `verify` checks each part separately: a
//! saved request usually has an old date, which must not hide a rewritten host or a wrong secret.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use callback_source::{
    MessageRejection, MessageRejectionKind,
    signature::Secret,
    signature::webhook::{self, Claim, Diagnosis, Mismatch, Target},
};
use http::{Uri, request::Parts};
use serde::Serialize;

use crate::{
    args::VerifyArgs,
    error::Error,
    outcome::Outcome,
    output, request_file,
    secret::{self, GivenSecret},
};

pub(crate) fn run(args: &VerifyArgs) -> Result<Outcome, Error> {
    let GivenSecret { secret, variants } = secret::given(&args.secret)?;
    let (parts, body) = request_file::read(&args.request)?;
    let at = args.at.unwrap_or_else(SystemTime::now);
    let url = args.url.as_ref();
    let diagnose = |secret: &Secret| {
        let secrets = secret.clone().into();
        webhook::diagnose(&parts, &body, &secrets, url, at, WINDOW)
    };
    // A secret that the layer rejects may match without surrounding characters.
    let diagnosis = match (&secret, variants.first()) {
        (Ok(secret), _) | (Err(_), Some((secret, _))) => diagnose(secret),
        (Err(error), None) => return Err((*error).into()),
    };
    let mut report = match &diagnosis {
        Ok(diagnosis) => Report::from_diagnosis(diagnosis, &parts, url, at),
        Err(unreadable) => Report::unreadable(unreadable),
    };
    let fits_as_given = secret.is_ok() && report.signature.fits == Some(true);
    if diagnosis.is_ok() && !fits_as_given {
        let fits = |secret: &Secret| diagnose(secret).is_ok_and(|found| found.signature.is_ok());
        if let Some((_, surplus)) = variants.iter().find(|(secret, _)| fits(secret)) {
            let text = format!("key differs: the secret matches without the {surplus} around it");
            report = Report::new(report.date, report.content_hash, Part::differs("key", text));
            report.surplus = Some(surplus);
        }
    }
    if args.json {
        output::json(&report)?;
    } else {
        output::data(report.to_string().as_bytes())?;
    }
    if !report.fits {
        report.print_hint(args);
    }
    Ok(match report.fits {
        true => Outcome::Yes,
        false => Outcome::No,
    })
}

/// Report on each part of a request.
#[derive(Debug, Serialize)]
struct Report {
    fits: bool,
    date: Part,
    content_hash: Part,
    signature: Part,
    /// Name of the characters to remove from the secret.
    #[serde(skip)]
    surplus: Option<&'static str>,
}

/// Report on one part. A part that was not checked neither matches nor differs.
#[derive(Debug, Serialize)]
struct Part {
    fits: Option<bool>,
    /// Machine-readable reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip)]
    text: String,
}

impl Report {
    fn from_diagnosis(
        diagnosis: &Diagnosis,
        parts: &Parts,
        url: Option<&Uri>,
        at: SystemTime,
    ) -> Self {
        let date = match &diagnosis.date {
            Ok(()) => Part::fits(),
            Err(rejection) => Part::differs(rejection.kind().as_str(), off_by(parts, at)),
        };
        let content_hash = match &diagnosis.content {
            Ok(()) => Part::fits(),
            Err(rejection) => Part::differs(
                rejection.kind().as_str(),
                "the body does not have the hash in `x-ms-content-sha256`",
            ),
        };
        let signature = match diagnosis.signature {
            Ok(()) => Part::fits(),
            Err(mismatch) => signature(mismatch, parts, url),
        };
        Self::new(date, content_hash, signature)
    }

    /// Returns the report on a request with a missing or invalid header. Only the first such header is known.
    fn unreadable(rejection: &MessageRejection) -> Self {
        let text = match (rejection.kind(), rejection.header()) {
            (MessageRejectionKind::MissingHeader, Some(name)) => {
                format!("the header `{name}` is missing")
            }
            (MessageRejectionKind::DuplicateHeader, Some("host")) => {
                "the host is given twice".to_owned()
            }
            (MessageRejectionKind::DuplicateHeader, Some("x-vipps-authorization")) => {
                "`x-vipps-authorization` is duplicated, or differs from `authorization`".to_owned()
            }
            (MessageRejectionKind::DuplicateHeader, Some(name)) => {
                format!("the header `{name}` is duplicated")
            }
            (MessageRejectionKind::Algorithm, _) => {
                "the scheme of `authorization` is not `HMAC-SHA256`".to_owned()
            }
            (MessageRejectionKind::SignedHeaders, _) => {
                "the signed headers are not `x-ms-date;host;x-ms-content-sha256`".to_owned()
            }
            (_, Some(name)) => format!("the header `{name}` is malformed"),
            (kind, None) => kind.as_str().to_owned(),
        };
        let wrong = Part::differs(rejection.kind().as_str(), text);
        let unknown = Part::unknown;
        match rejection.header() {
            Some("x-ms-date") => Self::new(wrong, unknown(), unknown()),
            Some("x-ms-content-sha256") => Self::new(unknown(), wrong, unknown()),
            _ => Self::new(unknown(), unknown(), wrong),
        }
    }

    fn new(date: Part, content_hash: Part, signature: Part) -> Self {
        let parts = [&date, &content_hash, &signature];
        Self {
            fits: parts.iter().all(|part| part.fits == Some(true)),
            date,
            content_hash,
            signature,
            surplus: None,
        }
    }

    fn print_hint(&self, args: &VerifyArgs) {
        let old = self.date.reason == Some(MessageRejectionKind::DateStale.as_str());
        if old && args.at.is_none() {
            output::message(
                "hint",
                "give the time at which the request arrived with `--at TIME`",
            );
        }
        if let Some(surplus) = self.surplus {
            let hint = format!(
                "remove the {surplus} around the secret, here and where the endpoint reads it"
            );
            output::message("hint", hint);
        }
        if self.signature.reason == Some(KEY_OR_TARGET) {
            let hint = "to distinguish them, give the registered URL with `--url URL`";
            output::message("hint", hint);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "date: {}", self.date.text)?;
        writeln!(f, "content hash: {}", self.content_hash.text)?;
        writeln!(f, "signature: {}", self.signature.text)
    }
}

impl Part {
    fn fits() -> Self {
        Self {
            fits: Some(true),
            reason: None,
            text: "matches".to_owned(),
        }
    }

    fn differs(reason: &'static str, text: impl Into<String>) -> Self {
        Self {
            fits: Some(false),
            reason: Some(reason),
            text: text.into(),
        }
    }

    fn unknown() -> Self {
        Self {
            fits: None,
            reason: None,
            text: "not checked".to_owned(),
        }
    }
}

fn off_by(parts: &Parts, at: SystemTime) -> String {
    let Ok(claim) = Claim::from_headers(&parts.headers) else {
        return "cannot be read".to_owned();
    };
    let (off, which) = match at.duration_since(claim.date()) {
        Ok(age) => (age, "old"),
        Err(ahead) => (ahead.duration(), "ahead"),
    };
    let off = humantime::format_duration(Duration::from_secs(off.as_secs()));
    let most = humantime::format_duration(WINDOW);
    format!("{off} {which}; at most {most} is accepted")
}

fn signature(mismatch: Mismatch, parts: &Parts, url: Option<&Uri>) -> Part {
    let arrived = Target::from_request(parts).ok();
    let registered = url.and_then(|url| Target::from_url(url).ok());
    let (Some(arrived), Some(registered)) = (arrived, registered) else {
        return Part::differs(KEY_OR_TARGET, "key, host or path differs");
    };
    let differs = |part: &'static str, arrived: &str, registered: &str| {
        let (arrived, registered) = (arrived.escape_debug(), registered.escape_debug());
        let text = format!(
            "{part} differs: `{arrived}` arrived, `{registered}` was registered; configure the proxy \
             to keep it, or pin it"
        );
        Part::differs(part, text)
    };
    match mismatch {
        Mismatch::Host => differs("host", arrived.host(), registered.host()),
        Mismatch::Path => differs(
            "path",
            arrived.path_and_query(),
            registered.path_and_query(),
        ),
        Mismatch::Target => Part::differs(
            "target",
            "host and path differ, or the method: the request was signed for the registered URL",
        ),
        _ => Part::differs(
            "key",
            "key differs: the secret belongs to another registration, the secret was changed (it looks \
             like base64 and must not be decoded), or a signed header was changed",
        ),
    }
}

const KEY_OR_TARGET: &str = "key-or-target";

/// Default window of the signature check.
const WINDOW: Duration = Duration::from_secs(5 * 60);
