//! What all checks share: refusals, and the mark of a message that is accepted only once.

mod acceptance;
mod refuse;

#[cfg(feature = "axum")]
pub(crate) use acceptance::refused;
pub(crate) use acceptance::{Undelivered, admitted};
pub(crate) use refuse::refuse;
#[cfg(feature = "signature")]
pub(crate) use {
    acceptance::{Acceptance, Delivered},
    refuse::refuse_parts,
};
