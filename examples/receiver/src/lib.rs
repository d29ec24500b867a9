//! A merchant's service that receives every callback of Vipps MobilePay, from its callback servers
//! only.
//!
//! The part to copy is [`app::router`]; the rest is what a service has anyway, and an embedded DNS
//! server to try it with.

pub mod args;
mod embedded_dns;
pub mod run;
mod samples;

pub mod app;
mod bodies;
mod body;
mod received;
