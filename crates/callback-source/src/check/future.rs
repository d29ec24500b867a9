//! The response future of all checks.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

pin_project! {
    /// Future of the response of a service that checks requests.
    ///
    /// `F` is the inner service's future. The future of a request that is judged at once is not boxed.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, T, E> {
        #[pin]
        state: State<F, T, E>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, T, E> {
        Inner { #[pin] future: F },
        Refused { response: Option<T> },
        Pending { future: Pin<Box<dyn Future<Output = Result<T, E>> + Send>> },
    }
}

impl<F, T, E> ResponseFuture<F, T, E> {
    pub(super) fn inner(future: F) -> Self {
        let state = State::Inner { future };
        Self { state }
    }

    pub(super) fn refused(response: T) -> Self {
        let response = Some(response);
        let state = State::Refused { response };
        Self { state }
    }

    pub(super) fn pending(future: impl Future<Output = Result<T, E>> + Send + 'static) -> Self {
        let future = Box::pin(future);
        let state = State::Pending { future };
        Self { state }
    }
}

impl<F, T, E> Future for ResponseFuture<F, T, E>
where
    F: Future<Output = Result<T, E>>,
{
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Inner { future } => future.poll(cx),
            StateProjection::Refused { response } => {
                Poll::Ready(Ok(response.take().expect("polled after it was done")))
            }
            StateProjection::Pending { future } => future.as_mut().poll(cx),
        }
    }
}

impl<F, T, E> fmt::Debug for ResponseFuture<F, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
