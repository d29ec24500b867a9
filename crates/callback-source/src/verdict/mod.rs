//! Verdicts as plain data: what the checks decide, and why.

mod source;

#[cfg(feature = "signature")]
pub(crate) use source::RETRY_AFTER;
pub(crate) use source::Source;
pub use source::{Allowed, Freshness, Rejection, RejectionKind, Verdict};
