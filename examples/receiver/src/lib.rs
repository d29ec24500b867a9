//! A merchant's service that receives every callback of Vipps MobilePay, from its callback servers
//! only.
//!
//! Copy [`app::router`]. The rest is the frame of any service, and an embedded DNS server for trials.

pub mod args;
mod embedded_dns;
pub mod run;
mod samples;

pub mod app;
mod bodies;
mod body;
mod received;
