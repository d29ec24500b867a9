//! Verdicts as plain data: what the checks decide, and why.

mod source;

pub use source::{Allowed, Freshness, Rejection, RejectionKind, Verdict};
pub(crate) use source::{RETRY_AFTER, Source};
