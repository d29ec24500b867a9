//! Body of a request. No verdict depends on the body.
//!
//! Some proxies forward the body to the endpoint. Other proxies announce the body and never send it. If the body ends
//! in time, the connection can be used again. Otherwise, the rest of the body could be parsed as the next request, so
//! an HTTP/1 connection ends. The wait is short, because it delays a genuine callback.

use std::time::Duration;

use bytes::Bytes;
use http::{Version, header, request::Parts};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

/// Body of a request, discarded as it arrives.
pub(super) struct DiscardedBody {
    body: Incoming,
    left: usize,
    time_limit: Duration,
    /// `true` if the client waits for `100 Continue`, which hyper sends when the body is read.
    awaits_continue: bool,
}

impl DiscardedBody {
    pub(super) fn new(head: &Parts, body: Incoming) -> Self {
        let is_http2 = head.version == Version::HTTP_2;
        Self {
            awaits_continue: !is_http2 && head.headers.contains_key(header::EXPECT),
            // Some proxies announce a body and never send it. In HTTP/2, the end of a body may arrive in a separate
            // frame, which hyper delivers after the head.
            time_limit: if is_http2 {
                END_FRAME_TIME
            } else {
                Duration::ZERO
            },
            left: DISCARD_LIMIT,
            body,
        }
    }

    /// Waits for the end of the body, and returns whether the end has arrived.
    pub(super) async fn end(&mut self) -> bool {
        loop {
            if self.body.is_end_stream() {
                return true;
            }
            if self.awaits_continue {
                return false;
            }
            match self.body.frame().await {
                None => return true,
                Some(Err(_)) => return false,
                Some(Ok(frame)) => {
                    self.time_limit = BODY_TIME;
                    let length = frame.data_ref().map_or(0, Bytes::len);
                    // Each frame uses up `FRAME_COST` bytes of `DISCARD_LIMIT` in addition to its data. Otherwise,
                    // empty frames could arrive forever without a wait between them.
                    match self.left.checked_sub(length + FRAME_COST) {
                        Some(left) => self.left = left,
                        None => return false,
                    }
                }
            }
        }
    }

    /// Waits for the end of the body, up to the maximum delay of the response.
    pub(super) async fn end_in_time(mut self) -> bool {
        if self.time_limit.is_zero() {
            return false;
        }
        timeout(self.time_limit, self.end()).await.unwrap_or(false)
    }
}

const DISCARD_LIMIT: usize = 1024 * 1024;
const FRAME_COST: usize = 32;

/// Maximum delay of a response while the rest of a body arrives. After the rest has arrived, the connection can be
/// used again.
const BODY_TIME: Duration = Duration::from_millis(500);
const END_FRAME_TIME: Duration = Duration::from_millis(20);
