//! Policies: how the verdicts on source and message are joined.

use std::{fmt, str::FromStr, time::Duration};

use http::{Extensions, StatusCode};

use super::{
    Allowed, MessageRejection, MessageVerdict, Rejection, RejectionKind, Verdict, VerifiedMessage,
};

/// Which of the two locks must be open. A value, so that it can come from the configuration.
///
/// The source is the verdict of [`VerifySource`](crate::verify::VerifySource), the message that of
/// [`VerifySignature`](crate::signature::VerifySignature) or [`VerifyToken`](crate::signature::VerifyToken). `✓` admits, `✓!`
/// admits with a [warning](VerifiedCallback::warning), a number is the status of the refusal; “cannot decide” is
/// [`Unresolved`](RejectionKind::Unresolved) of the source and
/// [`SecretUnavailable`](crate::MessageRejectionKind::SecretUnavailable) of the message.
///
/// | source | message | `Both` | `MessageWarnOnSource` | `SourceOnly` | `MessageOnly` |
/// |---|---|---|---|---|---|
/// | allowed | valid | ✓ | ✓ | ✓ | ✓ |
/// | allowed | invalid | 401 | 401 | ✓ | 401 |
/// | allowed | cannot decide | 503 | 503 | ✓ | 503 |
/// | allowed | no layer | 500 | 500 | ✓ | 500 |
/// | not listed | valid | 403 | ✓! | 403 | ✓ |
/// | not listed | invalid | 403 | 401 | 403 | 401 |
/// | not listed | cannot decide | 403 | 503 | 403 | 503 |
/// | not listed | no layer | 500 | 500 | 403 | 500 |
/// | cannot decide | valid | 503 | ✓! | 503 | ✓ |
/// | cannot decide | invalid | 401 | 401 | 503 | 401 |
/// | cannot decide | cannot decide | 503 | 503 | 503 | 503 |
/// | cannot decide | no layer | 500 | 500 | 503 | 500 |
/// | malformed forwarding | valid | 400 | ✓! | 400 | ✓ |
/// | malformed forwarding | invalid | 400 | 401 | 400 | 401 |
/// | malformed forwarding | cannot decide | 400 | 503 | 400 | 503 |
/// | malformed forwarding | no layer | 500 | 500 | 400 | 500 |
/// | no layer | valid | 500 | 500 | 500 | ✓ |
/// | no layer | invalid | 500 | 500 | 500 | 401 |
/// | no layer | cannot decide | 500 | 500 | 500 | 503 |
/// | no layer | no layer | 500 | 500 | 500 | 500 |
///
/// So a right source never makes up for a wrong message, a final “no” wins over “try again”, and a lock
/// that the policy asks for and nobody installed refuses everything. A request without any peer
/// address counts as malformed forwarding, with 500. The other reasons of an invalid message have their own
/// [status](crate::MessageRejectionKind::status).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// The source must be listed, and the message proven. The default.
    #[default]
    Both,
    /// The message must be proven; what is wrong with the source only warns. For those who cannot
    /// afford to lose a callback from a server that DNS does not name yet.
    MessageWarnOnSource,
    /// The source must be listed; the message is not looked at. Others can send from listed addresses.
    SourceOnly,
    /// The message must be proven; the source is not looked at.
    MessageOnly,
}

impl Policy {
    /// The name in lower case, as it is read from a configuration: `both`, `message-warn-on-source`,
    /// `source-only` or `message-only`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::MessageWarnOnSource => "message-warn-on-source",
            Self::SourceOnly => "source-only",
            Self::MessageOnly => "message-only",
        }
    }

    /// What it makes of a pair of verdicts; `None` where no layer left one. See the table above.
    ///
    /// # Errors
    ///
    /// Why the request is refused.
    pub fn judge(
        self,
        source: Option<&Verdict>,
        message: Option<&MessageVerdict>,
    ) -> Result<VerifiedCallback, CallbackRejection> {
        let needs_source = self != Self::MessageOnly;
        let needs_message = self != Self::SourceOnly;
        if (needs_source && source.is_none()) || (needs_message && message.is_none()) {
            return Err(CallbackRejection::NoLayer);
        }
        let rejected = source.filter(|_| needs_source).and_then(Verdict::rejection);
        let refuted = message
            .filter(|_| needs_message)
            .and_then(MessageVerdict::rejection);
        let warns = self == Self::MessageWarnOnSource;
        let final_source = rejected
            .filter(|rejection| !warns && rejection.kind() != RejectionKind::Unresolved)
            .map(|rejection| CallbackRejection::Source(rejection.clone()));
        let final_message = refuted
            .filter(|rejection| !rejection.kind().is_undecided())
            .map(|rejection| CallbackRejection::Message(rejection.clone()));
        let source_undecided = rejected
            .filter(|_| !warns)
            .map(|rejection| CallbackRejection::Source(rejection.clone()));
        let message_undecided =
            refuted.map(|rejection| CallbackRejection::Message(rejection.clone()));
        let refusal = final_source
            .or(final_message)
            .or(source_undecided)
            .or(message_undecided);
        match refusal {
            Some(refusal) => Err(refusal),
            None => Ok(VerifiedCallback {
                policy: self,
                allowed: source
                    .filter(|_| needs_source)
                    .and_then(Verdict::allowed)
                    .cloned(),
                warning: rejected.cloned(),
                message: message
                    .filter(|_| needs_message)
                    .and_then(MessageVerdict::allowed)
                    .cloned(),
            }),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Policy {
    type Err = PolicyError;

    /// Reads the [name](Self::as_str).
    ///
    /// # Errors
    ///
    /// Any other text, an empty one too: no policy is taken for granted.
    fn from_str(text: &str) -> Result<Self, PolicyError> {
        [
            Self::Both,
            Self::MessageWarnOnSource,
            Self::SourceOnly,
            Self::MessageOnly,
        ]
        .into_iter()
        .find(|policy| policy.as_str() == text)
        .ok_or_else(|| PolicyError(text.to_owned()))
    }
}

/// A text that names no [`Policy`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is no policy; there are `both`, `message-warn-on-source`, `source-only` and \
     `message-only`",
    .0.escape_default()
)]
pub struct PolicyError(String);

/// What is known of a callback that its [`Policy`] admits.
///
/// [`RequireVerified`](crate::require::RequireVerified) leaves it in the request's extensions. With the feature `axum` it is an extractor,
/// which judges by [`Policy::Both`] where that layer is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedCallback {
    policy: Policy,
    allowed: Option<Allowed>,
    warning: Option<Rejection>,
    message: Option<VerifiedMessage>,
}

impl VerifiedCallback {
    /// Judges a request by what the layers left in its extensions.
    ///
    /// # Errors
    ///
    /// Why the request is refused.
    pub fn from_extensions(
        extensions: &Extensions,
        policy: Policy,
    ) -> Result<Self, CallbackRejection> {
        // A rejecting layer leaves no `Verdict`, a tagging one leaves an `Allowed` too.
        let source = extensions.get::<Verdict>().cloned();
        let source = source.or_else(|| extensions.get().cloned().map(Verdict::Allow));
        policy.judge(source.as_ref(), extensions.get())
    }

    /// By which policy it was admitted.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// The source, if it is listed and the policy looks at it.
    #[must_use]
    pub fn allowed(&self) -> Option<&Allowed> {
        self.allowed.as_ref()
    }

    /// The message's own proof, unless the policy does not look at it.
    #[must_use]
    pub fn message(&self) -> Option<&VerifiedMessage> {
        self.message.as_ref()
    }

    /// What is wrong with the source of a callback that
    /// [`MessageWarnOnSource`](Policy::MessageWarnOnSource) admits nevertheless. The source layer
    /// has it in the log.
    #[must_use]
    pub fn warning(&self) -> Option<&Rejection> {
        self.warning.as_ref()
    }
}

/// Why a [`Policy`] refuses a request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CallbackRejection {
    /// The source is not listed, or cannot be judged.
    Source(Rejection),
    /// The message is not proven, or cannot be judged.
    Message(MessageRejection),
    /// A layer whose verdict the policy asks for is missing: the service is set up wrongly.
    NoLayer,
}

impl CallbackRejection {
    /// The status of the response: that of the reason, or 500.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Source(rejection) => rejection.status(),
            Self::Message(rejection) => rejection.status(),
            Self::NoLayer => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// After how long the sender should try again; only where a retry can end otherwise.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Source(rejection) => rejection.retry_after(),
            Self::Message(rejection) => rejection.retry_after(),
            Self::NoLayer => None,
        }
    }
}

impl fmt::Display for CallbackRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(rejection) => f.write_str(rejection.kind().as_str()),
            Self::Message(rejection) => rejection.fmt(f),
            Self::NoLayer => f.write_str("no-layer"),
        }
    }
}

impl std::error::Error for CallbackRejection {}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use tokio::time::Instant;

    use super::*;
    use crate::verdict::{Freshness, MessageAuth, MessageRejectionKind, Source};

    fn source(said: &str) -> Option<Verdict> {
        let kind = match said {
            "allowed" => {
                let peer: IpAddr = "192.0.2.1".parse().unwrap();
                return Some(Verdict::Allow(Allowed {
                    peer,
                    source: Source::Network(peer.into()),
                    freshness: Freshness::Static,
                    since: Instant::now().into_std(),
                }));
            }
            "not listed" => RejectionKind::NotListed,
            "cannot decide" => RejectionKind::Unresolved,
            "malformed forwarding" => RejectionKind::ForwardedMalformed,
            "no layer" => return None,
            other => panic!("{other}"),
        };
        Some(Verdict::Reject(Rejection::new(kind, None)))
    }

    fn message(said: &str) -> Option<MessageVerdict> {
        let kind = match said {
            "valid" => {
                return Some(MessageVerdict::Allow(VerifiedMessage {
                    auth: MessageAuth::Signature,
                    date: None,
                }));
            }
            "invalid" => MessageRejectionKind::Signature,
            "cannot decide" => MessageRejectionKind::SecretUnavailable,
            "no layer" => return None,
            other => panic!("{other}"),
        };
        Some(MessageVerdict::Reject(MessageRejection::new(kind)))
    }

    #[test]
    fn every_pair_of_verdicts_gives_what_the_table_says() {
        let table = include_str!("policy.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("/// | "))
            .filter(|row| !row.starts_with("source"));
        let mut rows = 0;
        for row in table {
            rows += 1;
            let cells: Vec<_> = row.trim_end_matches(" |").split(" | ").collect();
            let policies = [
                Policy::Both,
                Policy::MessageWarnOnSource,
                Policy::SourceOnly,
                Policy::MessageOnly,
            ];
            for (policy, expected) in policies.into_iter().zip(&cells[2..]) {
                let judged = policy.judge(source(cells[0]).as_ref(), message(cells[1]).as_ref());
                let found = match judged {
                    Ok(proof) if proof.warning().is_some() => "✓!".to_owned(),
                    Ok(_) => "✓".to_owned(),
                    Err(rejection) => rejection.status().as_u16().to_string(),
                };
                assert_eq!(found, *expected, "{policy:?}: {row}");
            }
        }
        assert_eq!(rows, 5 * 4);
    }

    #[test]
    fn a_policy_is_read_by_the_name_that_it_prints_and_by_no_other() {
        for (name, policy) in [
            ("both", Policy::Both),
            ("message-warn-on-source", Policy::MessageWarnOnSource),
            ("source-only", Policy::SourceOnly),
            ("message-only", Policy::MessageOnly),
        ] {
            assert_eq!(name.parse(), Ok(policy));
            assert_eq!(policy.to_string(), name);
            let message = "x\n".parse::<Policy>().unwrap_err().to_string();
            assert!(message.contains(&format!("`{name}`")), "{message}");
            assert!(!message.contains('\n'));
        }
        for text in [
            "",
            "Both",
            " both",
            "both,source-only",
            "none",
            "SourceOnly",
        ] {
            assert!(text.parse::<Policy>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_default_asks_for_both() {
        assert_eq!(Policy::default(), Policy::Both);
    }

    #[test]
    fn every_rejection_of_the_source_refuses_with_its_status_under_both() {
        for kind in [
            RejectionKind::NotListed,
            RejectionKind::Unresolved,
            RejectionKind::NoPeer,
            RejectionKind::ForwardedMissing,
            RejectionKind::ForwardedAllTrusted,
            RejectionKind::ForwardedTooManyHops,
            RejectionKind::ForwardedDuplicate,
        ] {
            let source = Verdict::Reject(Rejection::new(kind, None));
            let judged = Policy::Both.judge(Some(&source), message("valid").as_ref());
            assert_eq!(judged.unwrap_err().status(), kind.status());
        }
    }

    #[test]
    fn a_replay_is_final_whatever_the_source() {
        let replay = MessageRejection::new(MessageRejectionKind::Replay);
        let replay = MessageVerdict::Reject(replay);
        let judged = Policy::Both.judge(source("cannot decide").as_ref(), Some(&replay));
        assert_eq!(judged.unwrap_err().status(), StatusCode::CONFLICT);
    }
}
