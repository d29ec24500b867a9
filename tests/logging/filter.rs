use tracing_subscriber::EnvFilter;

/// The filter that `RUST_LOG` asks for, or `info`. What it says of a crate by name wins.
pub fn filter(rust_log: Option<&str>) -> EnvFilter {
    let quiet = "hickory_resolver=error,hickory_net=error,hickory_proto=error,h2=error";
    EnvFilter::new(format!("{quiet},{}", rust_log.unwrap_or("info")))
}
