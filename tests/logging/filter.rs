use tracing_subscriber::EnvFilter;

/// The filter from `RUST_LOG`, or `info`. Directives for a crate by name override the defaults.
pub fn filter(rust_log: Option<&str>) -> EnvFilter {
    let quiet = "hickory_resolver=error,hickory_net=error,hickory_proto=error,h2=error";
    EnvFilter::new(format!("{quiet},{}", rust_log.unwrap_or("info")))
}
