//! The command `callback-source`.
fn main() {}
