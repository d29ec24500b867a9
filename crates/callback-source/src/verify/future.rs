//! The response future.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use super::service::{Judge, act};
use crate::{
    RejectionResponse, Verdict,
    check::{Undelivered, refuse},
};

pin_project! {
    /// The response of [`VerifySource`](super::VerifySource).
    ///
    /// Nothing is boxed for a listed peer.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, R, ReqBody, ResBody>
    where
        S: Service<Request<ReqBody>>,
    {
        #[pin]
        state: State<S, R, ReqBody, ResBody>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, R, ReqBody, ResBody>
    where
        S: Service<Request<ReqBody>>,
    {
        Inner { #[pin] future: S::Future },
        Waiting { waiting: Option<Box<Waiting<S, R, ReqBody>>> },
        Admitted { admitted: Option<Box<Admitted<S, ReqBody>>> },
        Rejected { response: Option<Response<ResBody>> },
    }
}

/// A request whose peer is not listed, while the list is asked again.
struct Waiting<S, R, ReqBody> {
    settled: Pin<Box<dyn Future<Output = Verdict> + Send>>,
    request: Request<ReqBody>,
    undelivered: Undelivered,
    inner: S,
    judge: Judge<R>,
}

/// A request that was let in after all, while the inner service gets ready for it.
struct Admitted<S, ReqBody> {
    request: Request<ReqBody>,
    undelivered: Undelivered,
    inner: S,
}

impl<S, R, ReqBody, ResBody> ResponseFuture<S, R, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>>,
{
    pub(super) fn inner(future: S::Future) -> Self {
        Self {
            state: State::Inner { future },
        }
    }

    pub(super) fn rejected(response: Response<ResBody>) -> Self {
        Self {
            state: State::Rejected {
                response: Some(response),
            },
        }
    }

    pub(super) fn waiting(
        settled: impl Future<Output = Verdict> + Send + 'static,
        request: Request<ReqBody>,
        inner: S,
        judge: Judge<R>,
    ) -> Self {
        let settled = Box::pin(settled);
        let waiting = Some(Box::new(Waiting {
            settled,
            undelivered: Undelivered::new(request.extensions()),
            request,
            inner,
            judge,
        }));
        Self {
            state: State::Waiting { waiting },
        }
    }
}

impl<S, R, ReqBody, ResBody> Future for ResponseFuture<S, R, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    R: RejectionResponse<ResBody>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProjection::Inner { future } => return future.poll(cx),
                StateProjection::Rejected { response } => {
                    return Poll::Ready(Ok(response.take().expect("polled after it was done")));
                }
                StateProjection::Waiting { waiting } => {
                    let place = waiting.as_mut().expect("polled after it panicked");
                    let verdict = ready!(place.settled.as_mut().poll(cx));
                    let place = waiting.take().expect("it was there a line above");
                    let Waiting {
                        mut request,
                        undelivered,
                        inner,
                        judge,
                        ..
                    } = *place;
                    let now = Instant::now();
                    let acted = act(&judge.allow, judge.mode, verdict, &mut request, now);
                    let next = match acted {
                        Ok(()) => State::Admitted {
                            admitted: Some(Box::new(Admitted {
                                request,
                                undelivered,
                                inner,
                            })),
                        },
                        Err(rejection) => State::Rejected {
                            response: Some(refuse(&judge.response, &rejection, &request)),
                        },
                    };
                    state.set(next);
                }
                StateProjection::Admitted { admitted } => {
                    let place = admitted.as_mut().expect("polled after it was done");
                    ready!(place.inner.poll_ready(cx))?;
                    let place = admitted.take().expect("it was there a line above");
                    let Admitted {
                        request,
                        undelivered,
                        mut inner,
                    } = *place;
                    undelivered.deliver();
                    let next = State::Inner {
                        future: inner.call(request),
                    };
                    state.set(next);
                }
            }
        }
    }
}

impl<S, R, ReqBody, ResBody> std::fmt::Debug for ResponseFuture<S, R, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>>,
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
