//! callback-source
