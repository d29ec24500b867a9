//! End-to-end tests.

mod answers;
mod connections;
mod dns_faults;
mod dns_server;
mod http_client;
mod outage;
mod peers;
mod service;
mod tagging;
