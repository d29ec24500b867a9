//! A callback as the provider sends it.

use std::{
    net::{IpAddr, SocketAddr},
    time::SystemTime,
};

use bytes::Bytes;
use callback_source::signature::{Secret, webhook};
#[cfg(feature = "axum")]
use http::StatusCode;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri,
    header::{AUTHORIZATION, HOST},
};
#[cfg(feature = "axum")]
use tower_service::Service;

/// A request as a server receives it. It has the peer in its extensions, the URL's path and query as its URI, and the
/// URL's host as its `Host` header.
///
/// # Example
///
/// A signed delivery, and a delivery whose body was changed in transit:
///
/// ```
/// use axum::{Router, body::Body, http::StatusCode, routing::post};
/// use callback_source::{AllowList, signature::{Secret, VerifySignatureLayer}};
/// use callback_source::verify::{ConnectInfoPeer, VerifySourceLayer};
/// use callback_source_testkit::Delivery;
/// use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let secret = Secret::new("of the registration")?;
/// let app = Router::new()
///     .route("/webhooks", post(async || "received"))
///     .layer(VerifySignatureLayer::rejecting(secret.clone()));
///
/// let delivery = Delivery::new("https://shop.example/webhooks")
///     .body(r#"{"name":"AUTHORIZED"}"#)
///     .signed(&secret);
/// let response = app.clone().oneshot(delivery.request::<Body>()).await?;
/// assert_eq!(response.status(), StatusCode::OK);
///
/// let forged = delivery.tampered(r#"{"name":"CANCELLED"}"#);
/// let response = app.oneshot(forged.request::<Body>()).await?;
/// assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a delivery does nothing until its request is sent"]
pub struct Delivery {
    url: Uri,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
    peer: Option<IpAddr>,
    proxy: Option<IpAddr>,
    signed: Option<(Secret, Option<SystemTime>)>,
    tampered: Option<Bytes>,
}

impl Delivery {
    /// Creates a `POST` to this URL. It is the URL that was registered with the provider, including scheme and host.
    ///
    /// # Panics
    ///
    /// If the text is not an absolute URL.
    pub fn new(url: &str) -> Self {
        let url: Uri = url.parse().expect("the test gives a valid URL");
        let host = url.authority().expect("the test gives a URL with a host");
        let host = HeaderValue::from_str(host.as_str()).expect("a host is a valid header value");
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host);
        Self {
            url,
            method: Method::POST,
            headers,
            body: Bytes::new(),
            peer: None,
            proxy: None,
            signed: None,
            tampered: None,
        }
    }

    /// Sets the method. The signature of [`signed`](Self::signed) is valid only for `POST`.
    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// Sets a header, replacing an earlier value.
    ///
    /// # Panics
    ///
    /// If the name or the value is not valid.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().expect("the test gives a valid header name");
        let value = HeaderValue::from_str(value).expect("the test gives a valid header value");
        self.headers.insert(name, value);
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the address of the peer, from which the request seems to arrive.
    ///
    /// [`SocketAddrPeer`](callback_source::verify::SocketAddrPeer) reads the address. With the feature `axum`,
    /// `ConnectInfoPeer` reads it as well. If no peer is set, a rejecting source check responds with 500:
    ///
    /// ```
    /// use axum::{Router, body::Body, http::StatusCode, routing::post};
    /// use callback_source::{AllowList, verify::{ConnectInfoPeer, VerifySourceLayer}};
    /// use callback_source_testkit::{Delivery, UNLISTED_PEER};
    /// use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let listed = [10, 0, 0, 1].into();
    /// let app = Router::new()
    ///     .route("/callbacks", post(async || "received"))
    ///     .layer(VerifySourceLayer::rejecting(AllowList::fixed([listed]), ConnectInfoPeer));
    /// let delivery = Delivery::new("https://shop.example/callbacks");
    /// for (delivery, status) in [
    ///     (delivery.clone().from_peer(listed), StatusCode::OK),
    ///     (delivery.clone().from_peer(UNLISTED_PEER), StatusCode::FORBIDDEN),
    ///     (delivery, StatusCode::INTERNAL_SERVER_ERROR),
    /// ] {
    ///     let response = app.clone().oneshot(delivery.request::<Body>()).await?;
    ///     assert_eq!(response.status(), status);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_peer(mut self, peer: IpAddr) -> Self {
        self.peer = Some(peer);
        self
    }

    /// Routes the request through a simulated proxy, whose address becomes the peer. The previous peer becomes the last
    /// entry of `X-Forwarded-For`, after the entries that the client itself has sent.
    ///
    /// ```
    /// use callback_source_testkit::{Delivery, UNLISTED_PEER};
    ///
    /// let forged = Delivery::new("https://shop.example/callbacks")
    ///     .from_peer(UNLISTED_PEER)
    ///     .header("x-forwarded-for", "20.100.0.1")
    ///     .through_proxy([127, 0, 0, 1].into());
    /// let request = forged.request::<Vec<u8>>();
    /// assert_eq!(request.headers()["x-forwarded-for"], "20.100.0.1, 203.0.113.66");
    /// ```
    pub fn through_proxy(mut self, proxy: IpAddr) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// Replaces the body after the request was signed, as an attacker between the provider and the service could do.
    ///
    /// See [`Delivery`] for an example.
    pub fn tampered(mut self, body: impl Into<Bytes>) -> Self {
        self.tampered = Some(body.into());
        self
    }

    /// Signs the request as the Webhooks API does. The date is the system's time.
    ///
    /// See [`Delivery`] for an example.
    pub fn signed(mut self, secret: &Secret) -> Self {
        self.signed = Some((secret.clone(), None));
        self
    }

    /// Signs the request with a date that the test chooses, to test replays and wrong clocks.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use axum::{Router, body::Body, http::StatusCode, routing::post};
    /// use callback_source::signature::{Secret, VerifySignatureLayer};
    /// use callback_source_testkit::Delivery;
    /// use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let secret = Secret::new("of the registration")?;
    /// let app = Router::new()
    ///     .route("/webhooks", post(async || "received"))
    ///     .layer(VerifySignatureLayer::rejecting(secret.clone()));
    /// let yesterday = SystemTime::now() - Duration::from_secs(24 * 60 * 60);
    /// let delivery = Delivery::new("https://shop.example/webhooks").signed_at(&secret, yesterday);
    /// let response = app.oneshot(delivery.request::<Body>()).await?;
    /// assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    /// # Ok(())
    /// # }
    /// ```
    pub fn signed_at(mut self, secret: &Secret, date: SystemTime) -> Self {
        self.signed = Some((secret.clone(), Some(date)));
        self
    }

    /// Sets the `Authorization` header to this token, as the eCom and Checkout APIs do.
    ///
    /// # Panics
    ///
    /// If the token is not a valid header value.
    pub fn token(self, token: &str) -> Self {
        self.header(AUTHORIZATION.as_str(), token)
    }

    /// Creates the request, with a body of the type that the service expects.
    ///
    /// # Panics
    ///
    /// If the request cannot be signed, because its date is before 1970 or after 9999.
    #[must_use]
    pub fn request<B: From<Bytes>>(&self) -> Request<B> {
        let body = self.tampered.as_ref().unwrap_or(&self.body);
        let mut request = Request::new(B::from(body.clone()));
        let path = self.url.path_and_query().cloned();
        *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = self.headers.clone();
        if let Some((secret, date)) = &self.signed {
            let date = date.unwrap_or_else(SystemTime::now);
            let signed = webhook::sign(secret, &self.url, &self.body, date);
            request
                .headers_mut()
                .extend(signed.expect("the test gives a date from 1970 to 9999"));
        }
        if let (Some(_), Some(peer)) = (self.proxy, self.peer) {
            forward(request.headers_mut(), peer);
        }
        if let Some(peer) = self.proxy.or(self.peer) {
            set_peer(&mut request, peer);
        }
        request
    }

    /// Sends the request to an app, and returns the status of the response.
    ///
    /// ```
    /// use axum::{Router, routing::post};
    /// use callback_source::{AllowList, CallbackRoutes, verify::ConnectInfoPeer};
    /// use callback_source_testkit::{Delivery, UNLISTED_PEER};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let callbacks = Router::new().route("/callbacks", post(async || "received"));
    /// let list = AllowList::fixed([[20, 0, 0, 1].into()]);
    /// let app = Router::from(CallbackRoutes::rejecting(callbacks, list, ConnectInfoPeer));
    /// let delivery = Delivery::new("https://shop.example/callbacks");
    /// assert_eq!(delivery.clone().from_peer([20, 0, 0, 1].into()).status(&app).await, 200);
    /// assert_eq!(delivery.from_peer(UNLISTED_PEER).status(&app).await, 403);
    /// # }
    /// ```
    #[cfg(feature = "axum")]
    pub async fn status(&self, app: &axum::Router) -> StatusCode {
        let response = app.clone().call(self.request::<axum::body::Body>());
        let Ok(response) = response.await;
        response.status()
    }
}

fn forward(headers: &mut HeaderMap, peer: IpAddr) {
    let sent = headers.get("x-forwarded-for");
    let sent = sent.and_then(|sent| sent.to_str().ok());
    let entries = match sent {
        Some(sent) => format!("{sent}, {peer}"),
        None => peer.to_string(),
    };
    let entries = HeaderValue::from_str(&entries).expect("addresses and visible ASCII are valid");
    headers.insert("x-forwarded-for", entries);
}

/// Sets the address of a request's peer, as [`Delivery::from_peer`] does.
///
/// ```
/// use callback_source::verify::{PeerIp, SocketAddrPeer};
/// use callback_source_testkit::{UNLISTED_PEER, set_peer};
///
/// let mut request = http::Request::new(());
/// set_peer(&mut request, UNLISTED_PEER);
/// let peer = SocketAddrPeer.peer_ip(request.headers(), request.extensions());
/// assert_eq!(peer, Ok(UNLISTED_PEER));
/// ```
pub fn set_peer<B>(request: &mut Request<B>, peer: IpAddr) {
    let peer = SocketAddr::new(peer, PEER_PORT);
    request.extensions_mut().insert(peer);
    #[cfg(feature = "axum")]
    request
        .extensions_mut()
        .insert(axum::extract::ConnectInfo(peer));
}

const PEER_PORT: u16 = 4711;
