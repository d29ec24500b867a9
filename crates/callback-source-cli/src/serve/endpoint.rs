//! Paths that a listener serves.
//!
//! With an admin listener, the main listener serves only `/verify`, since everyone may be able to reach the main
//! listener. The admin listener does not serve `/verify`: it trusts no proxy, so its verdicts would differ.

/// Set of paths that a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Everything,
    VerifyOnly,
    AdminOnly,
}

impl Endpoint {
    pub(super) fn log_suffix(self) -> &'static str {
        match self {
            Self::Everything | Self::VerifyOnly => "",
            Self::AdminOnly => " (admin)",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Verify,
    Health,
    Ready,
    Status,
    Metrics,
    StatusPage,
    History,
    Explain,
    Nothing,
}

impl Route {
    pub(super) fn new(endpoint: Endpoint, path: &str) -> Self {
        let route = match path {
            "/verify" => Self::Verify,
            below if below.starts_with("/verify/") => Self::Verify,
            "/healthz" => Self::Health,
            "/readyz" => Self::Ready,
            "/status.json" => Self::Status,
            "/metrics" => Self::Metrics,
            "/status" => Self::StatusPage,
            "/history.jsonl" => Self::History,
            "/explain.json" => Self::Explain,
            _ => Self::Nothing,
        };
        match (endpoint, route) {
            (Endpoint::VerifyOnly, Self::Verify) => route,
            (Endpoint::AdminOnly, Self::Verify) | (Endpoint::VerifyOnly, _) => Self::Nothing,
            (Endpoint::Everything | Endpoint::AdminOnly, _) => route,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_to_one_answer() {
        for (path, route) in [
            ("/verify", Route::Verify),
            ("/verify/", Route::Verify),
            ("/verify/vipps/callbacks/v2/payments/1", Route::Verify),
            ("/verify/../status.json", Route::Verify),
            ("/verifyX", Route::Nothing),
            ("/Verify", Route::Nothing),
            ("//verify", Route::Nothing),
            ("/%76erify", Route::Nothing),
            ("/x/verify", Route::Nothing),
            ("/healthz", Route::Health),
            ("/healthz/", Route::Nothing),
            ("/readyz", Route::Ready),
            ("/status.json", Route::Status),
            ("/metrics", Route::Metrics),
            ("/metrics/", Route::Nothing),
            ("/status", Route::StatusPage),
            ("/statuses", Route::Nothing),
            ("/", Route::Nothing),
            ("", Route::Nothing),
            ("*", Route::Nothing),
        ] {
            assert_eq!(Route::new(Endpoint::Everything, path), route, "{path}");
        }
    }

    #[test]
    fn an_admin_endpoint_serves_everything_except_verify() {
        for (path, route) in [
            ("/healthz", Route::Health),
            ("/readyz", Route::Ready),
            ("/status.json", Route::Status),
            ("/metrics", Route::Metrics),
        ] {
            assert_eq!(Route::new(Endpoint::AdminOnly, path), route);
            assert_eq!(Route::new(Endpoint::VerifyOnly, path), Route::Nothing);
        }
        assert_eq!(Route::new(Endpoint::AdminOnly, "/verify"), Route::Nothing);
        assert_eq!(Route::new(Endpoint::VerifyOnly, "/verify"), Route::Verify);
    }
}
