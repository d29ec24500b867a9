//! Layer that joins the source check and the message check by a [`Policy`].
//!
//! Place [`RequireVerifiedLayer`] inside the two layers whose verdicts it joins. Use tagging layers, unless the policy
//! is [`Both`](Policy::Both). An admitted request has a [`VerifiedCallback`] in its extensions. A refused request gets
//! the response that [`RejectionResponse`] builds.
//!
//! ```
//! use std::{convert::Infallible, net::SocketAddr};
//! use callback_source::{AllowList, Policy, VerifiedCallback};
//! use callback_source::require::RequireVerifiedLayer;
//! use callback_source::signature::{Token, VerifyTokenLayer};
//! use callback_source::verify::{SocketAddrPeer, VerifySourceLayer};
//! use http::{Request, Response, StatusCode};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let merchant = service_fn(async |request: Request<()>| {
//!     let callback = request.extensions().get::<VerifiedCallback>().expect("the policy admits it");
//!     let text = if callback.warning().is_some() { "shipped, and the operator informed" } else { "shipped" };
//!     Ok::<_, Infallible>(Response::new(text))
//! });
//! let list = AllowList::fixed(["192.0.2.1".parse()?]);
//! let service = ServiceBuilder::new()
//!     .layer(VerifySourceLayer::tagging(list, SocketAddrPeer))
//!     .layer(VerifyTokenLayer::tagging(Token::new("s3cret")?))
//!     .layer(RequireVerifiedLayer::new(Policy::MessageWarnOnSource))
//!     .service(merchant);
//!
//! let callback = |peer: &str, token: &str| -> Result<_, Box<dyn std::error::Error>> {
//!     let mut request = Request::post("/callbacks").header("authorization", token).body(())?;
//!     request.extensions_mut().insert(peer.parse::<SocketAddr>()?);
//!     Ok(request)
//! };
//! let response = service.clone().oneshot(callback("192.0.2.1:4711", "s3cret")?).await?;
//! assert_eq!(response.into_body(), "shipped");
//! let response = service.clone().oneshot(callback("192.0.2.2:4711", "s3cret")?).await?;
//! assert_eq!(response.into_body(), "shipped, and the operator informed");
//! let response = service.oneshot(callback("192.0.2.1:4711", "guess")?).await?;
//! assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
//! # Ok(())
//! # }
//! ```

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

/// Wraps services in [`RequireVerified`]. See the [module docs](self) for an example.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct RequireVerifiedLayer<R = PlainText> {
    policy: Policy,
    response: R,
}

impl RequireVerifiedLayer {
    /// Refuses requests that the policy does not admit. [`Policy::default`] is [`Both`](Policy::Both), the strictest
    /// policy.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            response: PlainText,
        }
    }
}

impl<R> RequireVerifiedLayer<R> {
    /// Replaces the builder of responses to refused requests, `PlainText` by default. The new builder must handle
    /// rejections by both checks, and a missing layer:
    ///
    /// ```
    /// use callback_source::{CallbackRejection, Policy, require::RequireVerifiedLayer};
    /// use http::Response;
    ///
    /// let layer = RequireVerifiedLayer::new(Policy::Both).with_response(|rejection: &CallbackRejection| {
    ///     let mut response = Response::new(format!(r#"{{"error":"{rejection}"}}"#));
    ///     *response.status_mut() = rejection.status();
    ///     response
    /// });
    /// ```
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
/// The inner service must be [`Clone`], because a clone replaces the ready service after a refusal.
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

    async fn accept(
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
    use http::{StatusCode, request::Parts};

    use super::{CallbackRejection, Policy, VerifiedCallback, log};
    use crate::{ExtractorRejection, check};

    impl ExtractorRejection<CallbackRejection> {
        /// The status of the response. Same as the [status](CallbackRejection::status) of the reason.
        #[must_use]
        pub fn status(&self) -> StatusCode {
            self.reason().status()
        }

        /// The text of the response. Same as the [text](CallbackRejection::body_text) of the reason.
        #[must_use]
        pub fn body_text(&self) -> &'static str {
            self.reason().body_text()
        }
    }

    /// Extracts the callback that [`RequireVerified`](super::RequireVerified) added to the extensions. Without that
    /// layer, the request is judged by [`Policy::Both`].
    impl<S: Sync> FromRequestParts<S> for VerifiedCallback {
        type Rejection = ExtractorRejection<CallbackRejection>;

        async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
            let judged = match parts.extensions.get::<Self>() {
                Some(callback) => Ok(callback.clone()),
                None => Self::from_extensions(&parts.extensions, Policy::Both),
            };
            match judged {
                Ok(callback) => {
                    check::admitted(&parts.extensions);
                    Ok(callback)
                }
                Err(rejection) => {
                    if matches!(rejection, CallbackRejection::NoLayer) {
                        log::no_layer();
                    }
                    Err(ExtractorRejection::new(rejection, parts))
                }
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_rejection_has_the_status_and_the_text_of_its_reason() {
            let (parts, ()) = http::Request::new(()).into_parts();
            let reason = CallbackRejection::NoLayer;
            let rejection = ExtractorRejection::new(reason.clone(), &parts);
            assert_eq!(rejection.status(), 500);
            assert_eq!(rejection.body_text(), reason.body_text());
        }
    }
}
