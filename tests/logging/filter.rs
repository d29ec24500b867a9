use tracing_subscriber::EnvFilter;

/// Returns the filter from `RUST_LOG`, or `info`. A directive that names a crate overrides the default for that
/// crate.
pub fn filter(rust_log: Option<&str>) -> EnvFilter {
    let quiet = "hickory_resolver=error,hickory_net=error,hickory_proto=error,h2=error";
    EnvFilter::new(format!("{quiet},{}", rust_log.unwrap_or("info")))
}
