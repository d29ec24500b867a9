//! Both checks together: where a callback comes from, and what it carries.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use http::{Request, Response, request::Parts};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    CallbackRejection, PlainText, Policy, RejectionResponse, ResponseFuture, VerifiedCallback,
    check::{self, Begun, Check, Checked, Delivered},
    signature::log,
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
        RequireVerified(Checked {
            inner,
            check: PolicyCheck(self.policy),
            response: self.response.clone(),
        })
    }
}

/// Calls the inner service only for requests that a [`Policy`] admits. See the
/// [module docs](self) for an example.
///
/// The inner service must be [`Clone`]: after a refusal a clone replaces the one that was found ready.
#[derive(Clone, Debug)]
pub struct RequireVerified<S, R = PlainText>(Checked<S, PolicyCheck, R>);

impl<S, R, ReqBody, ResBody> Service<Request<ReqBody>> for RequireVerified<S, R>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
    R: RejectionResponse<ResBody, CallbackRejection> + Clone + Send + 'static,
    ReqBody: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, S::Response, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        self.0.call(request)
    }
}

#[derive(Clone, Copy, Debug)]
struct PolicyCheck(Policy);

impl<B: Send> Check<B> for PolicyCheck {
    type Body = B;
    type Rejection = CallbackRejection;
    type Pending = Infallible;
    type Found = Infallible;

    fn begin(&self, parts: &mut Parts, body: B) -> Begun<B, Infallible, CallbackRejection> {
        match VerifiedCallback::from_extensions(&parts.extensions, self.0) {
            Ok(callback) => {
                check::admitted(&parts.extensions);
                parts.extensions.insert(callback);
                Begun::Passed(body)
            }
            Err(rejection) => {
                if matches!(rejection, CallbackRejection::NoLayer) {
                    log::no_layer();
                }
                Begun::Refused(rejection)
            }
        }
    }

    async fn finish(
        &self,
        never: Infallible,
        _: &mut Parts,
    ) -> Result<(B, Infallible), CallbackRejection> {
        match never {}
    }

    fn accept(
        &self,
        never: Infallible,
        _: &mut Parts,
    ) -> Result<Option<Delivered>, CallbackRejection> {
        match never {}
    }
}

#[cfg(feature = "axum")]
mod extract {
    use axum::extract::FromRequestParts;
    use http::request::Parts;

    use super::{CallbackRejection, Policy, VerifiedCallback};
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
}
