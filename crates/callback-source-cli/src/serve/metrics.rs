//! `/metrics`: the metrics of the list and of the server, as text for Prometheus.

use std::{sync::Once, time::Duration};

use callback_source::{AllowList, set::QuestionStatus};
use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::time::{Instant, sleep};

use crate::{
    follow::{FollowStatus, TargetStatus},
    log,
};

/// The metrics of this process.
#[derive(Clone, Debug)]
pub(super) struct Metrics(PrometheusHandle);

impl Metrics {
    /// Builds the recorder and installs it for the process. Only the first recorder of a process records anything.
    pub(super) fn install() -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full(RESPONSE_TIME.to_owned()), &BUCKETS)
            .expect("the buckets are not empty")
            .build_recorder();
        let handle = recorder.handle();
        static INSTALL: Once = Once::new();
        INSTALL.call_once(|| {
            // The call fails if another recorder was installed, but no code of this command installs another recorder.
            let _ = metrics::set_global_recorder(recorder);
        });
        describe();
        Self(handle)
    }

    pub(super) fn render(&self, list: &AllowList, follow: &FollowStatus) -> String {
        counter!(DROPPED).absolute(log::dropped());
        let targets = follow.all();
        if !targets.is_empty() {
            let problems = targets.iter().filter_map(TargetStatus::problem);
            #[expect(clippy::cast_precision_loss, reason = "a gauge")]
            gauge!(TARGETS).set(problems.count() as f64);
        }
        let health = list.health();
        let questions = health.iter().flat_map(|host| &host.families);
        let given_up = questions.filter(|question| question.state == QuestionStatus::GivenUp);
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        gauge!(GIVEN_UP).set(given_up.count() as f64);
        self.0.render()
    }

    /// Empties the buffers of the histogram every 5 s, so that the buffers stay small while nothing reads the metrics.
    pub(super) async fn keep_up(self) {
        loop {
            sleep(UPKEEP_INTERVAL).await;
            self.0.run_upkeep();
        }
    }
}

/// Records the response to a request for `/verify`.
pub(super) fn responded(status: u16, start: Instant) {
    counter!(RESPONSES, "status" => status_text(status)).increment(1);
    histogram!(RESPONSE_TIME).record(start.elapsed());
}

/// An open connection. The gauge includes the connection until this value is dropped.
#[derive(Debug)]
pub(super) struct OpenConnection(());

impl OpenConnection {
    pub(super) fn new() -> Self {
        gauge!(CONNECTIONS).increment(1);
        Self(())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        gauge!(CONNECTIONS).decrement(1);
    }
}

/// Label for a status of `/verify`. Operators can choose a status with `--unsure-status`, and the number of series
/// must not depend on that choice.
fn status_text(status: u16) -> &'static str {
    match status {
        200 => "200",
        400 => "400",
        403 => "403",
        405 => "405",
        500 => "500",
        503 => "503",
        _ => "other",
    }
}

fn describe() {
    describe_gauge!(
        CONNECTIONS,
        "Open connections of all listeners except that of ext_authz."
    );
    describe_counter!(RESPONSES, "Responses to requests of `/verify`, by status.");
    describe_histogram!(
        RESPONSE_TIME,
        Unit::Seconds,
        "Time from the head of a request of `/verify` to its response."
    );
    describe_counter!(
        DROPPED,
        "Log lines that were dropped because stderr was not read in time."
    );
    describe_gauge!(
        TARGETS,
        "Targets of `follow` and of `serve --follow` that failed or were left unchanged."
    );
    describe_gauge!(
        GIVEN_UP,
        "Questions (host and record type) that failed for the whole stale window."
    );
    gauge!(CONNECTIONS).set(0.0);
    for status in ["200", "403", "503"] {
        counter!(RESPONSES, "status" => status).absolute(0);
    }
}

const CONNECTIONS: &str = "callback_source_serve_connections";
const GIVEN_UP: &str = "callback_source_serve_given_up_questions";
const RESPONSES: &str = "callback_source_serve_responses_total";
const RESPONSE_TIME: &str = "callback_source_serve_response_seconds";
const DROPPED: &str = "callback_source_serve_log_lines_dropped_total";
const TARGETS: &str = "callback_source_follow_targets_out_of_date";

/// Buckets in seconds, for an immediate response, for a response after an on-demand refresh, and for the shortest
/// timeout of the provider's APIs. There are few buckets, since the server may have at most 40 series.
const BUCKETS: [f64; 3] = [0.005, 1.1, 3.0];

const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
