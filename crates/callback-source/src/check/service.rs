//! The service of all checks.
//!
//! Three pitfalls determine its structure:
//!
//! - A service that was found ready may have reserved a permit of an inner concurrency limit. After a refusal, the
//!   service is therefore replaced by a clone that has not reserved a permit.
//! - A waiting request holds a clone that is not ready yet, instead of the ready service. Otherwise waiting unlisted
//!   peers would keep the permits that the provider's servers need.
//! - There is no `await` between the last check and the call of the inner service. If a sender disconnected during such
//!   an `await`, a mark would remain for a request that no handler has seen. A repetition of that request would be
//!   refused as a replay.
//!
//! For a request that is admitted at once, no future is boxed and no service is cloned.

use std::{
    future::poll_fn,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower_service::Service;

use super::{Begun, Check, ResponseFuture, acceptance::Undelivered, refuse::refuse};
use crate::RejectionResponse;

/// Calls the inner service for requests that a [`Check`] admits or tags.
#[derive(Clone, Debug)]
pub(crate) struct Checked<S, C, R> {
    pub(crate) inner: S,
    pub(crate) check: C,
    pub(crate) response: R,
}

impl<S, C, R, ReqBody, ResBody> Service<Request<ReqBody>> for Checked<S, C, R>
where
    S: Service<Request<C::Body>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
    C: Check<ReqBody, Body: Send, Pending: Send, Found: Send> + Send + Sync + 'static,
    R: RejectionResponse<ResBody, C::Rejection> + Clone + Send + 'static,
    C::Pending: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, S::Response, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        match self.check.begin(&mut parts, body) {
            Begun::Passed(body) => {
                ResponseFuture::inner(self.inner.call(Request::from_parts(parts, body)))
            }
            Begun::Refused(rejection) => {
                // The service that was found ready may occupy a permit of an inner concurrency limit until that service
                // is called or dropped. The server would keep that service for the connection's next request.
                self.inner = self.inner.clone();
                ResponseFuture::refused(refuse(&self.response, rejection, parts))
            }
            Begun::Pending(pending) => {
                // For the same reason, the waiting request holds a clone that is not ready yet.
                let mut inner = self.inner.clone();
                self.inner = inner.clone();
                let check = self.check.clone();
                let response = self.response.clone();
                // Created outside of the async block, since the sender may disconnect before the block is polled.
                let undelivered = Undelivered::new(&parts.extensions);
                ResponseFuture::pending(async move {
                    let (body, found) = match check.finish(pending, &mut parts).await {
                        Ok(finished) => finished,
                        Err(rejection) => return Ok(refuse(&response, rejection, parts)),
                    };
                    poll_fn(|cx| inner.poll_ready(cx)).await?;
                    // Setting a mark is the last step of `accept`, and there is no `await` between this step and the
                    // call. If the sender disconnects before the handler has seen the request, no mark may remain.
                    let delivered = match check.accept(found, &mut parts).await {
                        Ok(delivered) => delivered,
                        Err(rejection) => return Ok(refuse(&response, rejection, parts)),
                    };
                    undelivered.deliver();
                    let called = inner.call(Request::from_parts(parts, body)).await;
                    if let Some(delivered) = delivered {
                        match called {
                            Ok(_) => delivered.answered(),
                            Err(_) => delivered.failed(),
                        }
                    }
                    called
                })
            }
        }
    }
}

#[cfg(all(test, feature = "signature"))]
mod tests {
    use std::{
        convert::Infallible,
        future::pending,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
    };

    use http::request::Parts;
    use tower::service_fn;

    use super::*;
    use crate::check::{Acceptance, Delivered};

    /// A check that never reaches a verdict.
    #[derive(Clone)]
    struct Waits;

    impl Check<()> for Waits {
        type Body = ();
        type Rejection = ();
        type Pending = ();
        type Found = Infallible;

        fn begin(&self, _: &mut Parts, (): ()) -> Begun<(), (), ()> {
            Begun::Pending(())
        }

        async fn finish(&self, (): (), _: &mut Parts) -> Result<((), Infallible), ()> {
            pending().await
        }

        async fn accept(&self, never: Infallible, _: &mut Parts) -> Result<Option<Delivered>, ()> {
            match never {}
        }
    }

    #[test]
    fn a_request_that_is_dropped_before_it_is_polled_leaves_no_mark() {
        let withdrawn = Arc::new(AtomicBool::new(false));
        let mark = {
            let withdrawn = Arc::clone(&withdrawn);
            Acceptance::new(move || withdrawn.store(true, Ordering::Relaxed))
        };
        let mut request = Request::new(());
        mark.send_along(request.extensions_mut());
        let inner = async |_: Request<()>| Ok::<_, Infallible>(Response::new(()));
        let mut service = Checked {
            inner: service_fn(inner),
            check: Waits,
            response: |(): &()| Response::new(()),
        };
        drop(service.call(request));
        assert!(withdrawn.load(Ordering::Relaxed));
    }
}
