//! The gRPC service, which responds to each check with a verdict.
//!
//! The check becomes a request for [`verify`](super::verify), and the response to that request is translated for
//! Envoy. Status, reason and `Retry-After` are therefore those of the HTTP endpoint, in every mode.

use std::{
    convert::Infallible,
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use callback_source::{
    AllowList,
    verify::{ForwardedPeer, SocketAddrPeer, TAG_HEADERS, TrustedProxies, is_tag_header},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use tonic::{
    body::Body,
    server::{Grpc, NamedService, UnaryService},
};
use tonic_prost::ProstCodec;
use tower_service::Service;

use super::{
    ext_authz_limits::Limits,
    ext_authz_messages::{
        Attributes, CheckRequest, CheckResponse, DeniedResponse, Header, HeaderValueOption,
        HttpResponse, HttpStatus, OVERWRITE, OkResponse, RpcStatus,
    },
    response,
    status::VerdictCounts,
    verify::Verify,
};
use crate::{
    args::ServeArgs,
    config::{Client, Proxies, has_network},
};

/// Service `envoy.service.auth.v3.Authorization`.
#[derive(Clone, Debug)]
pub(super) struct Authorization {
    checks: Arc<ArcSwap<Checks>>,
    /// Limits of the listener, which a reload must not reset.
    limits: Limits,
}

/// The source check and its trusted proxies, which a reload replaces as a whole.
#[derive(Debug)]
struct Checks {
    verify: Verify,
    /// Proxies in front of Envoy, with their header for the client's address.
    forwarded: Option<(TrustedProxies, HeaderName)>,
}

impl Authorization {
    pub(super) fn new(
        list: AllowList,
        args: &ServeArgs,
        proxies: &Proxies,
        counts: Arc<VerdictCounts>,
    ) -> Self {
        Checks::new(list, args, proxies, counts).into()
    }

    /// Replaces the source check.
    pub(super) fn reconfigure(
        &self,
        list: AllowList,
        args: &ServeArgs,
        proxies: &Proxies,
        counts: Arc<VerdictCounts>,
    ) {
        let checks = Checks::new(list, args, proxies, counts);
        self.checks.store(Arc::new(checks));
    }
}

impl From<Checks> for Authorization {
    fn from(checks: Checks) -> Self {
        Self {
            checks: Arc::new(ArcSwap::from_pointee(checks)),
            limits: Limits::default(),
        }
    }
}

impl Checks {
    /// Creates the check. The client is `attributes.source.address`, or the address in the header of a trusted proxy
    /// in front of Envoy.
    fn new(
        list: AllowList,
        args: &ServeArgs,
        proxies: &Proxies,
        counts: Arc<VerdictCounts>,
    ) -> Self {
        let (client, forwarded) = match &args.proxy.client_ip_header {
            Some(header) if has_network(&args.proxy.trusted_proxy) => {
                let trusted = proxies.trusted.clone();
                let client = ForwardedPeer::header(SocketAddrPeer, trusted.clone(), header.clone());
                (Client::Forwarded(client), Some((trusted, header.clone())))
            }
            _ => (Client::Peer, None),
        };
        Self {
            verify: Verify::new(list, args, client, counts),
            forwarded,
        }
    }

    async fn check(&self, request: CheckRequest) -> CheckResponse {
        let attributes = request.attributes.unwrap_or_default();
        let client = source(&attributes);
        let forged = spellings_of_tags(&attributes);
        let mut judged = Request::new(());
        if let Some(client) = client {
            // No verdict depends on the port.
            judged.extensions_mut().insert(SocketAddr::new(client, 0));
            if let Some((_, header)) = self.naming_header(client) {
                *judged.headers_mut() = headers_of_name(header, attributes);
            }
        }
        // A check waits up to a second for an on-demand refresh. In this time, callers can make the server keep many
        // checks in memory. Therefore the server keeps only the header that names the client, and the names of headers
        // that resemble tags. Both are limited.
        let kept = judged
            .headers()
            .values()
            .map(HeaderValue::len)
            .sum::<usize>();
        if kept > MAX_NAMING_HEADER || forged.len() > MAX_SPELLINGS {
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            return answer(response::plain(status, "the headers are too long"), forged).await;
        }
        let response = self.verify.judge(judged).await;
        answer(response, forged).await
    }

    /// Returns the header for the client's address, if this peer of Envoy is a trusted proxy.
    fn naming_header(&self, peer: IpAddr) -> Option<&(TrustedProxies, HeaderName)> {
        let forwarded = self.forwarded.as_ref();
        forwarded.filter(|(proxies, _)| proxies.contains(peer))
    }
}

impl NamedService for Authorization {
    const NAME: &'static str = "envoy.service.auth.v3.Authorization";
}

impl Service<Request<Body>> for Authorization {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = Check(self.checks.load_full());
        let limits = self.limits.clone();
        Box::pin(async move {
            if request.uri().path() != CHECK {
                return Ok(tonic::Status::unimplemented("the method is `Check`").into_http());
            }
            let _permit = match limits.check() {
                Ok(permit) => permit,
                Err(status) => return Ok(status.into_http()),
            };
            let request = request.map(|body| limits.message(body));
            let codec = ProstCodec::<CheckResponse, CheckRequest>::default();
            Ok(Grpc::new(codec).unary(method, request).await)
        })
    }
}

struct Check(Arc<Checks>);

impl UnaryService<CheckRequest> for Check {
    type Response = CheckResponse;
    type Future =
        Pin<Box<dyn Future<Output = Result<tonic::Response<CheckResponse>, tonic::Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<CheckRequest>) -> Self::Future {
        let checks = Arc::clone(&self.0);
        Box::pin(async move {
            let answer = checks.check(request.into_inner()).await;
            Ok(tonic::Response::new(answer))
        })
    }
}

/// Returns the peer of the connection to Envoy. Returns `None` for a pipe, or if Envoy sends no address. In both cases,
/// the request is rejected with the reason `no-peer`, and the response is 500, except in report-only mode.
fn source(attributes: &Attributes) -> Option<IpAddr> {
    let address = attributes.source.as_ref()?.address.as_ref()?;
    address.socket_address.as_ref()?.address.parse().ok()
}

/// Returns the valid headers with this name. An invalid value cannot name a client.
fn headers_of_name(name: &HeaderName, attributes: Attributes) -> HeaderMap {
    let http = attributes.request.and_then(|request| request.http);
    let pairs = http.map(|http| http.headers).unwrap_or_default();
    let named = pairs
        .into_iter()
        .filter(|(key, _)| key.eq_ignore_ascii_case(name.as_str()));
    let valid =
        named.filter_map(|(_, value)| HeaderValue::from_maybe_shared(Bytes::from(value)).ok());
    valid.map(|value| (name.clone(), value)).collect()
}

/// Returns the names of request headers that an upstream may mistake for a tag. The tags themselves are not included.
fn spellings_of_tags(attributes: &Attributes) -> Vec<String> {
    let request = attributes.request.as_ref();
    let http = request.and_then(|request| request.http.as_ref());
    let names = http.into_iter().flat_map(|http| http.headers.keys());
    let is_tag = |name: &str| TAG_HEADERS.iter().any(|tag| tag.as_str() == name);
    names
        .filter(|name| is_tag_header(name) && !is_tag(name))
        .cloned()
        .collect()
}

/// Translates a response for Envoy. `forged` lists the caller's headers whose names are other spellings of a tag.
async fn answer(response: Response<response::Body>, mut forged: Vec<String>) -> CheckResponse {
    let (parts, body) = response.into_parts();
    let admitted = parts.status == StatusCode::OK;
    let headers = parts.headers.iter().filter(|(name, _)| {
        // Envoy computes `Content-Length` itself. In an admitted request, `Content-Type` would replace the caller's.
        **name != header::CONTENT_LENGTH && (!admitted || **name != header::CONTENT_TYPE)
    });
    let headers: Vec<_> = headers
        .filter_map(|(name, value)| {
            let header = Header {
                key: name.as_str().to_owned(),
                value: value.to_str().ok()?.to_owned(),
            };
            Some(HeaderValueOption {
                header: Some(header),
                append_action: OVERWRITE,
            })
        })
        .collect();
    if admitted {
        // The shop may read the tags. A tag that the verdict does not set is removed, since the caller may have sent it.
        let unset = TAG_HEADERS
            .into_iter()
            .filter(|tag| !parts.headers.contains_key(tag));
        forged.extend(unset.map(|tag| tag.as_str().to_owned()));
        return CheckResponse {
            status: Some(RpcStatus { code: CODE_OK }),
            http_response: Some(HttpResponse::Ok(OkResponse {
                headers,
                headers_to_remove: forged,
            })),
        };
    }
    let body = body.collect().await.map(|body| body.to_bytes());
    let body = body.unwrap_or_else(|never| match never {});
    CheckResponse {
        status: Some(RpcStatus {
            code: CODE_PERMISSION_DENIED,
        }),
        http_response: Some(HttpResponse::Denied(DeniedResponse {
            status: Some(HttpStatus {
                code: parts.status.as_u16().into(),
            }),
            headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        })),
    }
}

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// Maximum size of the header that names the client. The main listener has the same maximum for a whole head.
const MAX_NAMING_HEADER: usize = 16 << 10;

/// Maximum number of other spellings of tags in a request. A genuine callback has no such spelling.
const MAX_SPELLINGS: usize = 64;

const CODE_OK: i32 = 0;
const CODE_PERMISSION_DENIED: i32 = 7;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use callback_source::{Answer, Question, ResolveError, ResolveErrorKind};
    use http_body_util::Full;
    use prost::Message;

    use super::*;
    use crate::serve::ext_authz_messages::{
        Address, AttributesRequest, HttpRequest, Peer, SocketAddress,
    };

    const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

    fn request(source: Option<&str>, headers: &[(&str, &str)]) -> CheckRequest {
        let socket = |address: &str| SocketAddress {
            address: address.to_owned(),
        };
        let peer = |address| Peer {
            address: Some(Address {
                socket_address: Some(socket(address)),
            }),
        };
        let headers = headers.iter();
        let headers = headers.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        CheckRequest {
            attributes: Some(Attributes {
                source: source.map(peer),
                request: Some(AttributesRequest {
                    http: Some(HttpRequest {
                        headers: headers.collect(),
                    }),
                }),
            }),
        }
    }

    fn service(list: AllowList, report_only: bool) -> Checks {
        let counts = Arc::<VerdictCounts>::default();
        Checks {
            verify: match report_only {
                true => Verify::report_only(list, Client::Peer, counts),
                false => Verify::refusing(list, Client::Peer, None, counts),
            },
            forwarded: None,
        }
    }

    fn denied(response: CheckResponse) -> (i32, Vec<(String, String)>) {
        assert_eq!(response.status.unwrap().code, CODE_PERMISSION_DENIED);
        match response.http_response {
            Some(HttpResponse::Denied(denied)) => {
                let headers = denied
                    .headers
                    .into_iter()
                    .filter_map(|option| option.header);
                let headers = headers.map(|header| (header.key, header.value)).collect();
                (denied.status.unwrap().code, headers)
            }
            other => panic!("{other:?}"),
        }
    }

    fn has(headers: &[(String, String)], name: &str, value: &str) -> bool {
        headers.contains(&(name.to_owned(), value.to_owned()))
    }

    #[tokio::test]
    async fn a_listed_peer_is_admitted_with_tags_and_without_forged_ones() {
        let list = AllowList::fixed(["192.0.2.1".parse().unwrap()]);
        let forged = [
            ("x_callback_source", "allow"),
            ("x-callback-reason", "x"),
            (":path", "/"),
            ("content-length", "9"),
        ];
        let request = request(Some("192.0.2.1"), &forged);
        let response = service(list, false).check(request).await;
        assert_eq!(response.status.unwrap().code, CODE_OK);
        let Some(HttpResponse::Ok(ok)) = response.http_response else {
            panic!("it is refused");
        };
        let headers: Vec<_> = ok.headers.into_iter().collect();
        assert!(
            headers
                .iter()
                .all(|option| option.append_action == OVERWRITE)
        );
        let source = headers.iter().filter_map(|option| option.header.as_ref());
        let source = source.filter(|header| header.key == "x-callback-source");
        assert_eq!(
            source.map(|header| &*header.value).collect::<Vec<_>>(),
            ["allow"]
        );
        assert_eq!(
            ok.headers_to_remove,
            ["x_callback_source", "x-callback-host", "x-callback-reason"]
        );
    }

    #[tokio::test]
    async fn an_unlisted_peer_is_refused_whatever_its_headers() {
        let list = AllowList::fixed(["192.0.2.1".parse().unwrap()]);
        let forged = [
            ("x-forwarded-for", "192.0.2.1"),
            ("x-envoy-external-address", "192.0.2.1"),
        ];
        let response = service(list, false)
            .check(request(Some("192.0.2.2"), &forged))
            .await;
        let (status, headers) = denied(response);
        assert_eq!(status, 403);
        assert!(
            has(&headers, "x-callback-reason", "not-listed"),
            "{headers:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_undecided_list_is_503_with_retry_after() {
        let silent =
            |_: Question| async { Err::<Answer, _>(ResolveError::new(ResolveErrorKind::ServFail)) };
        let list = AllowList::builder()
            .host("h.example".parse().unwrap())
            .on_demand_wait(Duration::ZERO)
            .spawn(silent);
        let response = service(list, false)
            .check(request(Some("192.0.2.1"), &[]))
            .await;
        let (status, headers) = denied(response);
        assert_eq!(status, 503);
        assert!(has(&headers, "retry-after", "5"), "{headers:?}");
    }

    #[tokio::test]
    async fn without_an_address_the_response_is_500() {
        let list = AllowList::fixed(["192.0.2.1".parse().unwrap()]);
        for request in [
            request(None, &[]),
            request(Some("pipe"), &[]),
            CheckRequest::default(),
        ] {
            let (status, headers) = denied(service(list.clone(), false).check(request).await);
            assert_eq!(status, 500);
            assert!(has(&headers, "x-callback-reason", "no-peer"), "{headers:?}");
        }
    }

    #[tokio::test]
    async fn report_only_mode_admits_everyone_and_reports_the_reason() {
        let list = AllowList::fixed(["192.0.2.1".parse().unwrap()]);
        let response = service(list, true)
            .check(request(Some("192.0.2.2"), &[]))
            .await;
        assert_eq!(response.status.unwrap().code, CODE_OK);
        let Some(HttpResponse::Ok(ok)) = response.http_response else {
            panic!("it is refused");
        };
        let reasons = ok
            .headers
            .iter()
            .filter_map(|option| option.header.as_ref());
        assert!(
            reasons
                .clone()
                .any(|header| header.key == "x-callback-reason")
        );
        assert_eq!(ok.headers_to_remove, ["x-callback-host"]);
    }

    #[tokio::test]
    async fn a_header_names_the_client_only_if_a_trusted_proxy_is_in_front_of_envoy() {
        let list = AllowList::fixed(["192.0.2.1".parse().unwrap()]);
        let proxies = TrustedProxies::new(["10.0.0.0/8".parse().unwrap()]).unwrap();
        let client = ForwardedPeer::x_forwarded_for(SocketAddrPeer, proxies.clone());
        let service = Checks {
            verify: Verify::refusing(list, Client::Forwarded(client), None, Arc::default()),
            forwarded: Some((proxies, X_FORWARDED_FOR)),
        };
        let names_listed = [("x-forwarded-for", "192.0.2.1")];
        let check = |source: &'static str, headers: &[(&str, &str)]| {
            service.check(request(Some(source), headers))
        };
        let admitted = check("10.0.0.1", &names_listed).await;
        assert_eq!(admitted.status.unwrap().code, CODE_OK);
        let (status, _) = denied(check("192.0.2.2", &names_listed).await);
        assert_eq!(status, 403);
        let (status, _) = denied(check("10.0.0.1", &[]).await);
        assert_eq!(status, 400);
        // Within the limit, the last entry decides, whatever the length of the list. Above the limit, the check is
        // refused.
        for (entries, code) in [(1_000, CODE_OK), (2_000, CODE_PERMISSION_DENIED)] {
            let long = format!("{}192.0.2.1", "192.0.2.2, ".repeat(entries));
            let response = check("10.0.0.1", &[("X-Forwarded-For", &long)]).await;
            assert_eq!(response.status.as_ref().unwrap().code, code, "{entries}");
        }
        let long = "192.0.2.1, ".repeat(2_000);
        let unread = check("192.0.2.1", &[("x-forwarded-for", &long)]).await;
        assert_eq!(unread.status.unwrap().code, CODE_OK);
    }

    #[tokio::test]
    async fn a_request_with_many_spellings_of_a_tag_is_refused() {
        let list = AllowList::fixed(["192.0.2.1".parse().unwrap()]);
        let names: Vec<_> = (0..=MAX_SPELLINGS)
            .map(|number| {
                let byte = char::from(b'!' + u8::try_from(number % 15).unwrap());
                let other = ['_', '.', '~', '*', '!'][number / 15];
                format!("x{byte}callback{other}source")
            })
            .collect();
        let headers: Vec<_> = names.iter().map(|name| (name.as_str(), "allow")).collect();
        let check = |count| {
            let service = service(list.clone(), false);
            let request = request(Some("192.0.2.1"), &headers[..count]);
            async move { service.check(request).await }
        };
        assert_eq!(check(MAX_SPELLINGS).await.status.unwrap().code, CODE_OK);
        let (status, headers) = denied(check(MAX_SPELLINGS + 1).await);
        assert_eq!(status, 431);
        assert!(!headers.iter().any(|(name, _)| name == "x-callback-source"));
    }

    #[tokio::test]
    async fn a_check_above_a_limit_is_an_error_of_grpc() {
        let list = AllowList::fixed(["192.0.2.1".parse().unwrap()]);
        let message = request(Some("192.0.2.1"), &[]).encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let bytes = [&[0], &length[..], &message].concat();
        for (checks, message_bytes, status) in
            [(1, 1_000, None), (0, 1_000, Some("8")), (1, 1, Some("8"))]
        {
            let mut service = Authorization {
                limits: Limits::new(checks, message_bytes),
                ..service(list.clone(), false).into()
            };
            let request = Request::post(CHECK).header(header::CONTENT_TYPE, "application/grpc");
            let request = request.body(Body::new(Full::from(bytes.clone()))).unwrap();
            let response = service.call(request).await.unwrap();
            let code = response.headers().get("grpc-status");
            let code = code.map(|code| code.to_str().unwrap());
            assert_eq!(code, status, "{checks} {message_bytes}");
        }
    }

    #[test]
    fn fields_of_a_newer_envoy_are_skipped() {
        let mut bytes = request(Some("192.0.2.1"), &[("a", "b")]).encode_to_vec();
        // An unknown field is added: number 15, a string.
        bytes.extend([0x7a, 2, b'h', b'i']);
        let decoded = CheckRequest::decode(bytes.as_slice()).unwrap();
        let attributes = decoded.attributes.unwrap();
        assert_eq!(source(&attributes), Some("192.0.2.1".parse().unwrap()));
        let name = HeaderName::from_static("a");
        assert_eq!(headers_of_name(&name, attributes)["a"], "b");
    }
}
