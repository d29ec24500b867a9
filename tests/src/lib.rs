//! Support for the end-to-end tests: a DNS server that can be told to fail, and an HTTP client
//! that can choose the address it comes from.

pub mod dns;
pub mod http;
