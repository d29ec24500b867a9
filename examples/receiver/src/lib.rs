//! A merchant's service that receives every kind of callback of Vipps MobilePay, and only from the provider's callback
//! servers.
//!
//! Copy [`app::router`]. The rest is the usual code around a service, and an embedded DNS server for trials.

pub mod args;
mod embedded_dns;
pub mod run;
mod samples;

pub mod app;
mod bodies;
mod body;
mod received;
