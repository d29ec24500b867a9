//! Verdicts as plain data: the decisions of the checks, with their reasons.

#[cfg(feature = "signature")]
mod message;
#[cfg(feature = "signature")]
mod policy;
mod source;
mod watched;

#[cfg(feature = "signature")]
pub use message::{
    MessageAuth, MessageRejection, MessageRejectionKind, MessageVerdict, VerifiedMessage,
};
#[cfg(feature = "signature")]
pub use policy::{CallbackRejection, Policy, PolicyError, VerifiedCallback};
pub(crate) use source::Source;
pub use source::{Allowed, Freshness, Rejection, RejectionKind, Verdict};
pub(crate) use watched::WatchedServer;
