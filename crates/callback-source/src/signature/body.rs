//! Buffering and hashing of the body.
//!
//! The sender determines the body's length, pace and number of frames, so each of these is bounded. The layer's limits
//! bound the bytes and the time. The constant `MAX_RESERVED` bounds the memory that is reserved in advance. Even while
//! endless empty frames arrive, tokio's budget makes the read yield, so that the time limit can end the read.

use std::{pin::pin, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body::Body;
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};
use tokio::{task::consume_budget, time::timeout};

use crate::MessageRejectionKind::{self, BodyAborted, BodyTimeout, BodyTooLarge};

/// Limits of a body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) bytes: usize,
    pub(super) time: Duration,
}

/// Returns the whole body and its SHA-256. Trailers are dropped, since the signature does not cover them.
pub(super) async fn collect<B: Body>(
    body: B,
    headers: &HeaderMap,
    limits: Limits,
) -> Result<(Bytes, [u8; 32]), MessageRejectionKind> {
    let limit = u64::try_from(limits.bytes).unwrap_or(u64::MAX);
    // A body that another layer has wrapped might not report its length, so `Content-Length` is read as well.
    let announced = headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let hinted = body.size_hint();
    if limit < announced.unwrap_or(0).max(hinted.lower()) {
        return Err(BodyTooLarge);
    }
    let expected = usize::try_from(hinted.lower()).unwrap_or(0);
    let collecting = collect_frames(body, limits.bytes, expected);
    timeout(limits.time, collecting)
        .await
        .unwrap_or(Err(BodyTimeout))
}

/// Hashes each frame when it arrives, so that a large body does not block the thread. A body of a single frame, the
/// usual case, is not copied.
async fn collect_frames<B: Body>(
    body: B,
    limit: usize,
    expected: usize,
) -> Result<(Bytes, [u8; 32]), MessageRejectionKind> {
    let mut body = pin!(body);
    let mut hash = Sha256::new();
    let mut only = Bytes::new();
    let mut several = BytesMut::new();
    loop {
        // A body that always has a frame ready, even an empty frame, would otherwise keep the time limit from being
        // polled.
        consume_budget().await;
        let Some(frame) = body.frame().await else {
            break;
        };
        let Ok(mut data) = frame.map_err(|_| BodyAborted)?.into_data() else {
            continue;
        };
        if limit - only.len() - several.len() < data.remaining() {
            return Err(BodyTooLarge);
        }
        let data = data.copy_to_bytes(data.remaining());
        hash.update(&data);
        if only.is_empty() && several.is_empty() {
            only = data;
            continue;
        }
        if several.is_empty() {
            // The sender chooses the announced length, so at most `MAX_RESERVED` bytes are reserved because of that
            // length.
            several.reserve(expected.min(MAX_RESERVED).max(only.len() + data.len()));
            several.extend_from_slice(&std::mem::take(&mut only));
        }
        several.extend_from_slice(&data);
    }
    let whole = if several.is_empty() {
        only
    } else {
        several.freeze()
    };
    Ok((whole, hash.finalize().into()))
}

const MAX_RESERVED: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    #[tokio::test]
    async fn two_frames_use_little_more_memory_than_their_bytes() {
        let frame = || Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b'x'; 1000])));
        let body = StreamBody::new(stream::iter([frame(), frame()]));
        let (whole, _) = collect_frames(body, 1 << 20, 0).await.unwrap();
        assert_eq!(whole, vec![b'x'; 2000]);
        let memory = whole.try_into_mut().unwrap().capacity();
        assert!(memory < 4000, "{memory} bytes");
    }
}
