//! Both checks together: where a callback comes from, and what it carries.

use std::task::{Context, Poll};

use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    CallbackRejection, PlainText, Policy, RejectionResponse, VerifiedCallback,
    check::{self, refuse},
    signature::{ResponseFuture, log},
};

/// Wraps services in [`RequireVerified`]. It stands inside of the two layers whose verdicts it joins;
/// these tag, unless the policy is [`Both`](Policy::Both). See
/// the [module docs](self) for an example.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct RequireVerifiedLayer<R = PlainText> {
    policy: Policy,
    response: R,
}

impl RequireVerifiedLayer {
    /// Refuses what the policy does not admit.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            response: PlainText,
        }
    }
}

impl<R> RequireVerifiedLayer<R> {
    /// Makes the responses to refused requests in another way.
    pub fn with_response<T>(self, response: T) -> RequireVerifiedLayer<T> {
        RequireVerifiedLayer {
            policy: self.policy,
            response,
        }
    }
}

impl<S, R: Clone> Layer<S> for RequireVerifiedLayer<R> {
    type Service = RequireVerified<S, R>;

    fn layer(&self, inner: S) -> Self::Service {
        RequireVerified {
            inner,
            policy: self.policy,
            response: self.response.clone(),
        }
    }
}

/// Calls the inner service only for requests that a [`Policy`] admits. See the
/// [module docs](self) for an example.
///
/// The inner service must be [`Clone`]: after a refusal a clone replaces the one that was found ready.
#[derive(Clone, Debug)]
pub struct RequireVerified<S, R = PlainText> {
    inner: S,
    policy: Policy,
    response: R,
}

impl<S, R, ReqBody, ResBody> Service<Request<ReqBody>> for RequireVerified<S, R>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: RejectionResponse<ResBody, CallbackRejection>,
    ResBody: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Response, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        match VerifiedCallback::from_extensions(request.extensions(), self.policy) {
            Ok(proof) => {
                check::admitted(request.extensions());
                request.extensions_mut().insert(proof);
                ResponseFuture::new(self.inner.call(request))
            }
            Err(rejection) => {
                if matches!(rejection, CallbackRejection::NoLayer) {
                    log::no_layer();
                }
                // The one that was found ready may hold one of the inner service's places.
                self.inner = self.inner.clone();
                let response = refuse(&self.response, &rejection, &request);
                ResponseFuture::new(std::future::ready(Ok(response)))
            }
        }
    }
}

#[cfg(feature = "axum")]
mod extract {
    use axum::{
        extract::FromRequestParts,
        response::{IntoResponse, Response},
    };
    use http::request::Parts;

    use super::{CallbackRejection, PlainText, Policy, RejectionResponse, VerifiedCallback};
    use crate::check;

    /// What [`RequireVerified`](super::RequireVerified) left; where there is none, it is judged by
    /// [`Policy::Both`].
    impl<S: Sync> FromRequestParts<S> for VerifiedCallback {
        type Rejection = CallbackRejection;

        async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, CallbackRejection> {
            let judged = match parts.extensions.get::<Self>() {
                Some(proof) => Ok(proof.clone()),
                None => Self::from_extensions(&parts.extensions, Policy::Both),
            };
            match &judged {
                Ok(_) => check::admitted(&parts.extensions),
                Err(_) => check::refused(&parts.extensions),
            }
            judged
        }
    }

    impl IntoResponse for CallbackRejection {
        fn into_response(self) -> Response {
            PlainText.response(&self)
        }
    }
}
