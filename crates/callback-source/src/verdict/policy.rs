//! Policies, which join the verdicts on source and message.

use std::{fmt, str::FromStr, time::Duration};

use http::{Extensions, StatusCode};

use super::{
    Allowed, MessageRejection, MessageVerdict, Rejection, RejectionKind, Verdict, VerifiedMessage,
};

/// Rule that joins the verdicts on source and message. It can be parsed from its name, for example in a configuration.
///
/// The column “source” contains the verdict of [`VerifySource`](crate::verify::VerifySource). The column “message”
/// contains the verdict of [`VerifySignature`](crate::signature::VerifySignature) or
/// [`VerifyToken`](crate::signature::VerifyToken). `✓` admits, `✓!` admits with a [warning](VerifiedCallback::warning),
/// and a number is the status of the refusal. “Undecided” is [`Unresolved`](RejectionKind::Unresolved) for the source.
/// For the message, “undecided” is [`SecretUnavailable`](crate::MessageRejectionKind::SecretUnavailable) or
/// [`ReplayStoreUnavailable`](crate::MessageRejectionKind::ReplayStoreUnavailable).
///
/// | source | message | `Both` | `MessageWarnOnSource` | `SourceOnly` | `MessageOnly` |
/// |---|---|---|---|---|---|
/// | allowed | valid | ✓ | ✓ | ✓ | ✓ |
/// | allowed | invalid | 401 | 401 | ✓ | 401 |
/// | allowed | undecided | 503 | 503 | ✓ | 503 |
/// | allowed | no layer | 500 | 500 | ✓ | 500 |
/// | not listed | valid | 403 | ✓! | 403 | ✓ |
/// | not listed | invalid | 403 | 401 | 403 | 401 |
/// | not listed | undecided | 403 | 503 | 403 | 503 |
/// | not listed | no layer | 500 | 500 | 403 | 500 |
/// | undecided | valid | 503 | ✓! | 503 | ✓ |
/// | undecided | invalid | 401 | 401 | 503 | 401 |
/// | undecided | undecided | 503 | 503 | 503 | 503 |
/// | undecided | no layer | 500 | 500 | 503 | 500 |
/// | malformed forwarding | valid | 400 | ✓! | 400 | ✓ |
/// | malformed forwarding | invalid | 400 | 401 | 400 | 401 |
/// | malformed forwarding | undecided | 400 | 503 | 400 | 503 |
/// | malformed forwarding | no layer | 500 | 500 | 400 | 500 |
/// | no layer | valid | 500 | 500 | 500 | ✓ |
/// | no layer | invalid | 500 | 500 | 500 | 401 |
/// | no layer | undecided | 500 | 500 | 500 | 503 |
/// | no layer | no layer | 500 | 500 | 500 | 500 |
///
/// If a policy checks the message, a listed source never compensates for an invalid message. A final refusal takes
/// precedence over an undecided verdict. If the layer of a check that the policy needs is missing, every request is
/// refused. A request without a peer address is treated like malformed forwarding, but the status is 500. Some reasons
/// for an invalid message have their own [status](crate::MessageRejectionKind::status).
///
/// ```
/// use callback_source::{MessageAuth, MessageVerdict, Policy, Rejection, RejectionKind, Verdict, VerifiedMessage};
///
/// let policy: Policy = "message-warn-on-source".parse()?;
/// let unlisted = Verdict::Reject(Rejection::new(RejectionKind::NotListed, None));
/// let message = MessageVerdict::Allow(VerifiedMessage::new(MessageAuth::Signature, None));
///
/// let callback = policy.judge(Some(&unlisted), Some(&message))?;
/// assert_eq!(callback.warning().map(Rejection::kind), Some(RejectionKind::NotListed));
/// assert!(Policy::Both.judge(Some(&unlisted), Some(&message)).is_err());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// The source must be listed, and the message must be verified. This is the default.
    #[default]
    Both,
    /// The message must be verified. A rejected source causes only a warning. This policy is for services that cannot
    /// afford to lose a callback from a server that is not in DNS yet.
    MessageWarnOnSource,
    /// The source must be listed, and the message is ignored. Other customers of the provider's cloud may send from
    /// listed addresses.
    SourceOnly,
    /// The message must be verified, and the source is ignored.
    MessageOnly,
}

impl Policy {
    /// The name in lower case, from which the policy can be parsed: `both`, `message-warn-on-source`, `source-only` or
    /// `message-only`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::MessageWarnOnSource => "message-warn-on-source",
            Self::SourceOnly => "source-only",
            Self::MessageOnly => "message-only",
        }
    }

    /// Joins two verdicts. A verdict is `None` if its layer is missing. The table in the documentation of `Policy`
    /// shows each result.
    ///
    /// # Errors
    ///
    /// Returns the reason why the request is refused.
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

    /// Reads a policy from its [name](Self::as_str).
    ///
    /// # Errors
    ///
    /// Returns an error for any other text. An empty text does not mean the default.
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

#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown policy `{}`; expected `both`, `message-warn-on-source`, `source-only` or \
     `message-only`",
    .0.escape_default()
)]
/// Error for a text that is not the name of a [`Policy`].
///
/// ```
/// use callback_source::Policy;
///
/// let error = "any".parse::<Policy>().unwrap_err();
/// assert!(error.to_string().starts_with("unknown policy `any`; expected `both`, "));
/// assert!("".parse::<Policy>().is_err(), "an empty setting does not mean the default");
/// ```
pub struct PolicyError(String);

crate::debug::debug_by_message!(PolicyError);

/// A callback that a [`Policy`] admits, with the evidence that admits it.
///
/// [`RequireVerified`](crate::require::RequireVerified) adds a value of this type to the request's extensions. With the
/// feature `axum`, this type is an extractor, which judges by [`Policy::Both`] if that layer is missing.
///
/// ```
/// use callback_source::{
///     MessageAuth, MessageVerdict, Policy, Rejection, RejectionKind, Verdict, VerifiedCallback, VerifiedMessage,
/// };
///
/// /// A callback with a warning is accepted, so that it is not lost, and looked at by a person.
/// fn queue(callback: &VerifiedCallback) -> &'static str {
///     match callback.warning() {
///         None => "orders",
///         Some(_) => "orders to check",
///     }
/// }
///
/// let unlisted = Verdict::Reject(Rejection::new(RejectionKind::NotListed, None));
/// let message = MessageVerdict::Allow(VerifiedMessage::new(MessageAuth::Signature, None));
/// let callback = Policy::MessageWarnOnSource.judge(Some(&unlisted), Some(&message))?;
/// assert_eq!(queue(&callback), "orders to check");
/// assert!(callback.allowed().is_none() && callback.message().is_some());
/// # Ok::<_, callback_source::CallbackRejection>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedCallback {
    policy: Policy,
    allowed: Option<Allowed>,
    warning: Option<Rejection>,
    message: Option<VerifiedMessage>,
}

impl VerifiedCallback {
    /// Judges a request by the verdicts that the layers added to its extensions.
    ///
    /// # Errors
    ///
    /// Returns the reason why the request is refused.
    pub fn from_extensions(
        extensions: &Extensions,
        policy: Policy,
    ) -> Result<Self, CallbackRejection> {
        policy.judge(extensions.get(), extensions.get())
    }

    /// The policy that admitted the callback.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// The source, if it is listed and the policy does not ignore it.
    #[must_use]
    pub fn allowed(&self) -> Option<&Allowed> {
        self.allowed.as_ref()
    }

    /// The message, unless the policy ignores it.
    #[must_use]
    pub fn message(&self) -> Option<&VerifiedMessage> {
        self.message.as_ref()
    }

    /// The rejection by the source check, if [`MessageWarnOnSource`](Policy::MessageWarnOnSource) admits the callback
    /// nevertheless. The source layer has already logged this rejection, within its rate limit.
    #[must_use]
    pub fn warning(&self) -> Option<&Rejection> {
        self.warning.as_ref()
    }
}

/// The reason why a [`Policy`] refuses a request.
///
/// ```
/// use callback_source::{CallbackRejection, Policy, Rejection, RejectionKind, Verdict};
///
/// let undecided = Verdict::Reject(Rejection::new(RejectionKind::Unresolved, None));
/// let rejection = Policy::SourceOnly.judge(Some(&undecided), None).unwrap_err();
/// assert_eq!(rejection.status(), 503);
/// assert!(rejection.retry_after().is_some());
///
/// // `Both` also needs the verdict of a message layer, whatever the source is.
/// let rejection = Policy::Both.judge(Some(&undecided), None).unwrap_err();
/// assert!(matches!(rejection, CallbackRejection::NoLayer));
/// assert_eq!(rejection.status(), 500);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CallbackRejection {
    /// The source is rejected or undecided.
    Source(Rejection),
    /// The message is not verified, or is undecided.
    Message(MessageRejection),
    /// A layer whose verdict the policy needs is missing: the service is set up wrongly.
    NoLayer,
}

impl CallbackRejection {
    /// The status of the response: the status of the source's or the message's rejection, or 500 for a missing layer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Source(rejection) => rejection.status(),
            Self::Message(rejection) => rejection.status(),
            Self::NoLayer => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The text of the response, which is a single line.
    #[must_use]
    pub fn body_text(&self) -> &'static str {
        match self {
            Self::Source(rejection) => rejection.body_text(),
            Self::Message(rejection) => rejection.body_text(),
            Self::NoLayer => "the route is not wrapped in the layers that its policy needs\n",
        }
    }

    /// Pause before the sender's next try. `None` unless the verdict is undecided.
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
            Self::Source(rejection) => rejection.fmt(f),
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

    fn source(cell: &str) -> Option<Verdict> {
        let kind = match cell {
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
            "undecided" => RejectionKind::Unresolved,
            "malformed forwarding" => RejectionKind::ForwardedMalformed,
            "no layer" => return None,
            other => panic!("{other}"),
        };
        Some(Verdict::Reject(Rejection::new(kind, None)))
    }

    fn message(cell: &str) -> Option<MessageVerdict> {
        let kind = match cell {
            "valid" => {
                return Some(MessageVerdict::Allow(VerifiedMessage {
                    auth: MessageAuth::Signature,
                    date: None,
                }));
            }
            "invalid" => MessageRejectionKind::Signature,
            "undecided" => MessageRejectionKind::SecretUnavailable,
            "no layer" => return None,
            other => panic!("{other}"),
        };
        Some(MessageVerdict::Reject(MessageRejection::new(kind)))
    }

    #[test]
    fn every_pair_of_verdicts_is_joined_as_in_the_table() {
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
                    Ok(callback) if callback.warning().is_some() => "✓!".to_owned(),
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
    fn the_default_requires_both() {
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
        let judged = Policy::Both.judge(source("undecided").as_ref(), Some(&replay));
        assert_eq!(judged.unwrap_err().status(), StatusCode::CONFLICT);
    }
}
