//! Support for the end-to-end tests: a DNS server that can be told to fail, an HTTP client that can
//! choose the address it comes from, and real servers.

pub mod dns;
pub mod http;
pub mod servers;
