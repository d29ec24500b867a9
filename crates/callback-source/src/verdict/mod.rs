//! Verdicts as plain data: the decisions of the checks, with their reasons.

#[cfg(feature = "signature")]
mod message;
#[cfg(feature = "signature")]
mod policy;
mod source;

#[cfg(feature = "signature")]
pub use message::{
    MessageAuth, MessageRejection, MessageRejectionKind, MessageVerdict, VerifiedMessage,
};
#[cfg(feature = "signature")]
pub use policy::{CallbackRejection, Policy, PolicyError, VerifiedCallback};
pub use source::{Allowed, Freshness, Rejection, RejectionKind, Verdict};
pub(crate) use source::{Source, WatchedServer};
