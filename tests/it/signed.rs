//! Tests of signed webhooks through the proxies that merchants use. The provider signs the registered URL and the body.
//! The signature therefore no longer matches if a proxy changes the host, the path or the body.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Request},
    middleware::{self, Next},
    response::Response,
};
use callback_source::{
    MessageRejection, MessageVerdict,
    signature::{Secret, VerifySignatureLayer, webhook},
};
use hyper::{
    StatusCode, Uri,
    header::{HOST, HeaderValue},
};
use integration_tests::{http::Connection, merchant::Merchant};

use crate::proxies::{Kind, Proxy};

type TestResult = Result<(), Box<dyn std::error::Error>>;

/// Spellings of paths that some proxies change.
const SPELLINGS: [&str; 18] = [
    "/",
    "/hooks",
    "/hooks/",
    "/hooks?tenant=7&b=%20+%3D;d&&e?/",
    "/hooks?",
    "/hooks?%zz&%c3%a5&[x]=|",
    "/?a=b",
    "/hooks///a/",
    "/a/../b/./c",
    "/a/%2e%2e/b",
    "/bl%C3%A5b%C3%A6r",
    "/bl%c3%a5",
    "/a%20b+c",
    "/id%3D%3D",
    "/a%2Fb",
    "/a%41~%7e",
    "/a%3Bb;c=d%25",
    "/a(b)!*'@:$,",
];

#[tokio::test]
async fn a_proxy_that_keeps_host_and_path_keeps_the_signature() -> TestResult {
    for (kind, config) in KEEPING {
        let Some((proxy, _receiver)) = behind(kind, config, |layer| layer).await? else {
            continue;
        };
        for host in ["shop.example", "shop.example:8080"] {
            for path in SPELLINGS {
                let url = format!("https://{host}{path}");
                let judged = Webhook::to(&url).send(&proxy).await?;
                assert_eq!(judged.arrived, format!("{host}{path}"), "{config}");
                assert_eq!((judged.status, judged.mismatch.as_str()), (200, "none"));
            }
        }
    }
    Ok(())
}

// The provider percent-encodes a path that is not ASCII, as HTTP clients do. `sign` and `curl` do not.
#[tokio::test]
async fn a_path_that_is_not_ascii_is_not_kept_by_every_proxy() -> TestResult {
    for (kind, config, arrives) in [
        (Kind::Nginx, NGINX, Some("shop.example/blå")),
        (Kind::Apache, APACHE, Some("shop.example/blå")),
        (Kind::Caddy, CADDY, Some("shop.example/bl%C3%A5")),
        (Kind::HaProxy, HAPROXY, None),
    ] {
        let Some((proxy, _receiver)) = behind(kind, config, |layer| layer).await? else {
            continue;
        };
        let judged = Webhook::to("https://shop.example/blå").send(&proxy).await?;
        let expected = match arrives {
            Some(arrived) if arrived.is_ascii() => (401, "Path"),
            Some(_) => (200, "none"),
            None => (400, ""),
        };
        assert_eq!(
            (judged.status, judged.mismatch.as_str()),
            expected,
            "{config}"
        );
        assert_eq!(judged.arrived, arrives.unwrap_or_default());
    }
    Ok(())
}

#[tokio::test]
async fn the_body_passes_unchanged_and_a_changed_one_is_refused() -> TestResult {
    let every_byte: Vec<u8> = (0..=255).collect();
    let bodies = [
        Vec::new(),
        every_byte.clone(),
        b"\xef\xbb\xbf{\"a\":\"bl\xc3\xa5\"}\r\n\r\n0\r\n\r\n".to_vec(),
        // This body looks compressed, and is so large that nginx writes it to a file.
        [b"\x1f\x8b\x08\0", &*every_byte.repeat(400)].concat(),
    ];
    for (kind, config) in KEEPING {
        let Some((proxy, _receiver)) = behind(kind, config, |layer| layer).await? else {
            continue;
        };
        for body in &bodies {
            for in_chunks in [false, true] {
                let webhook = Webhook {
                    signed: body,
                    sent: body,
                    in_chunks,
                    ..Webhook::to("https://shop.example/hooks")
                };
                let judged = webhook.send(&proxy).await?;
                assert_eq!(judged.status, 200, "{config}");
                assert!(judged.body == *body, "{config}");

                let mut other = body.clone();
                match other.last_mut() {
                    Some(last) => *last ^= 1,
                    None => other.push(b'\n'),
                }
                let tampered = Webhook {
                    sent: &other,
                    ..webhook
                };
                tampered
                    .send(&proxy)
                    .await?
                    .is_refused("content-hash", "none");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_host_that_the_proxy_rewrites_is_diagnosed_and_can_be_pinned() -> TestResult {
    let host = |value: &str| NGINX.replace("$http_host", value);
    let caddy = |value: &str| {
        let proxied = format!("reverse_proxy UPSTREAM {{\n\t\theader_up Host {value}\n\t}}");
        CADDY.replace("reverse_proxy UPSTREAM", &proxied)
    };
    for (kind, config) in [
        // By default, nginx sends the name of the upstream as the host, and Apache sends the address of the upstream.
        (
            Kind::Nginx,
            include_str!("../proxies/nginx-x-forwarded-for.conf"),
        ),
        (Kind::Apache, include_str!("../proxies/apache.conf")),
        // This configuration removes the port.
        (Kind::Nginx, &host("$host")),
        // This configuration adds the port of nginx itself.
        (Kind::Nginx, &host("$host:$server_port")),
        // This configuration is the default of Caddy 2.11 and later in front of a service with TLS.
        (Kind::Caddy, &caddy("{upstream_hostport}")),
        (Kind::Caddy, &caddy("{host}")),
    ] {
        let url = "https://shop.example:8080/hooks?tenant=7";
        let Some((proxy, _receiver)) = behind(kind, config, |layer| layer).await? else {
            continue;
        };
        let judged = Webhook::to(url).send(&proxy).await?;
        judged.is_refused("signature", "Host");

        let pinned = |layer: Layer| layer.host("shop.example:8080".parse().expect("a host"));
        let Some((proxy, _receiver)) = behind(kind, config, pinned).await? else {
            continue;
        };
        let judged = Webhook::to(url).send(&proxy).await?;
        assert_eq!(
            (judged.status, judged.mismatch.as_str()),
            (200, "Host"),
            "{config}"
        );
        let elsewhere = Webhook::to("https://other.example/hooks?tenant=7");
        assert_eq!(elsewhere.send(&proxy).await?.outcome(), (401, "signature"));
    }
    Ok(())
}

#[tokio::test]
async fn a_path_that_the_proxy_rewrites_is_diagnosed_and_can_be_pinned() -> TestResult {
    // With a URI after the name of the upstream, nginx decodes, normalizes and re-encodes the path.
    let cleaned = NGINX.replace("http://callbacks;", "http://callbacks/;");
    let stripped = cleaned.replace("location /", "location /shop/");
    let caddy = CADDY.replace(
        "reverse_proxy UPSTREAM",
        "handle_path /shop/* {\n\t\treverse_proxy UPSTREAM\n\t}",
    );
    let canonical = APACHE.replace(" nocanon", "");
    for (kind, config, path, arrives) in [
        (Kind::Nginx, &*cleaned, "/id%3D%3D", "/id=="),
        (Kind::Nginx, &cleaned, "/bl%c3%a5?x=%3d", "/bl%C3%A5?x=%3d"),
        (Kind::Nginx, &cleaned, "/a%2Fb", "/a/b"),
        (Kind::Nginx, &cleaned, "/hooks?", "/hooks"),
        (Kind::Nginx, &cleaned, "//hooks/../a/", "/a/"),
        (Kind::Nginx, &stripped, "/shop/hooks?a=b", "/hooks?a=b"),
        (Kind::Caddy, &caddy, "/shop/hooks?a=b", "/hooks?a=b"),
        (Kind::Apache, &canonical, "/id%3D%3D", "/id=="),
        (Kind::Apache, &canonical, "/bl%c3%a5", "/bl%C3%A5"),
        (Kind::Apache, APACHE, "//hooks", "/hooks"),
    ] {
        let url = format!("https://shop.example{path}");
        let Some((proxy, _receiver)) = behind(kind, config, |layer| layer).await? else {
            continue;
        };
        let judged = Webhook::to(&url).send(&proxy).await?;
        assert_eq!(judged.arrived, format!("shop.example{arrives}"), "{config}");
        judged.is_refused("signature", "Path");

        let pinned = |layer: Layer| layer.path(path.parse().expect("a path"));
        let Some((proxy, _receiver)) = behind(kind, config, pinned).await? else {
            continue;
        };
        let judged = Webhook::to(&url).send(&proxy).await?;
        assert_eq!(
            (judged.status, judged.mismatch.as_str()),
            (200, "Path"),
            "{config}"
        );
        let elsewhere = Webhook::to("https://shop.example/shop/other");
        assert_eq!(elsewhere.send(&proxy).await?.outcome(), (401, "signature"));
    }
    Ok(())
}

#[tokio::test]
async fn host_and_path_can_both_be_pinned() -> TestResult {
    let config = NGINX
        .replace("$http_host", "internal")
        .replace("location /", "location /shop/")
        .replace("http://callbacks;", "http://callbacks/internal/;");
    let url = "https://shop.example/shop/hooks?tenant=7";
    for (host, path, expected) in [
        (None, None, 401),
        (Some("shop.example"), None, 401),
        (None, Some("/shop/hooks?tenant=7"), 401),
        (Some("shop.example"), Some("/shop/hooks?tenant=7"), 200),
    ] {
        let pinned = |mut layer: Layer| {
            if let Some(host) = host {
                layer = layer.host(host.parse().expect("a host"));
            }
            if let Some(path) = path {
                layer = layer.path(path.parse().expect("a path"));
            }
            layer
        };
        let Some((proxy, _receiver)) = behind(Kind::Nginx, &config, pinned).await? else {
            return Ok(());
        };
        let judged = Webhook::to(url).send(&proxy).await?;
        assert_eq!(judged.arrived, "internal/internal/hooks?tenant=7");
        assert_eq!(
            (judged.status, judged.mismatch.as_str()),
            (expected, "Target")
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_proxy_may_remove_authorization_but_not_its_copy_too() -> TestResult {
    let nginx = |lines: &str| {
        NGINX.replace(
            "        proxy_set_header Host",
            &format!("{lines}\nproxy_set_header Host"),
        )
    };
    let caddy = |lines: &str| CADDY.replace("UPSTREAM", &format!("UPSTREAM {{\n{lines}\n}}"));
    for (kind, config, refused) in [
        (
            Kind::Nginx,
            nginx("proxy_set_header Authorization '';"),
            None,
        ),
        (
            Kind::Nginx,
            nginx("proxy_set_header Authorization 'Basic YTpi';"),
            None,
        ),
        (Kind::Caddy, caddy("header_up -Authorization"), None),
        (
            Kind::Caddy,
            caddy("header_up Authorization \"Basic YTpi\""),
            None,
        ),
        (
            Kind::Nginx,
            nginx("proxy_set_header Authorization '';proxy_set_header X-Vipps-Authorization '';"),
            Some("missing-header `authorization`"),
        ),
        (
            Kind::Caddy,
            caddy("header_up -*Authorization"),
            Some("missing-header `authorization`"),
        ),
    ] {
        let Some((proxy, _receiver)) = behind(kind, &config, |layer| layer).await? else {
            continue;
        };
        let judged = Webhook::to("https://shop.example/hooks")
            .send(&proxy)
            .await?;
        match refused {
            None => assert_eq!(
                (judged.status, judged.mismatch.as_str()),
                (200, "none"),
                "{config}"
            ),
            Some(reason) => judged.is_refused(reason, reason),
        }
    }
    Ok(())
}

/// A delivery from the provider.
#[derive(Clone, Copy)]
struct Webhook<'a> {
    url: &'a str,
    signed: &'a [u8],
    sent: &'a [u8],
    in_chunks: bool,
}

impl<'a> Webhook<'a> {
    fn to(url: &'a str) -> Self {
        Self {
            url,
            signed: b"{}",
            sent: b"{}",
            in_chunks: false,
        }
    }

    async fn send(self, proxy: &Proxy) -> io::Result<Judged> {
        let url: Uri = self.url.parse().map_err(io::Error::other)?;
        let signed = webhook::sign(&secret(), &url, self.signed, SystemTime::now());
        let signed = signed.map_err(io::Error::other)?;
        let mut headers = vec![(REGISTERED, self.url)];
        for (name, value) in &signed {
            headers.push((name.as_str(), value.to_str().map_err(io::Error::other)?));
        }
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let mut connection = Connection::connect(LOCALHOST, proxy.addr).await?;
        let reply = if self.in_chunks {
            let chunks = self.sent.chunks(1000).map(Bytes::copy_from_slice);
            let chunks: Vec<_> = chunks.collect();
            connection.send_chunks("POST", path, &headers, chunks).await
        } else {
            connection.send("POST", path, &headers, self.sent).await
        }?;
        let header = |name| reply.header(name).unwrap_or_default().to_owned();
        Ok(Judged {
            status: reply.status,
            mismatch: header(MISMATCH),
            arrived: header(ARRIVED),
            body: reply.body,
        })
    }
}

/// The result of a delivery.
#[derive(Debug)]
struct Judged {
    status: u16,
    /// The part that does not match the registered URL, as `webhook::diagnose` reports it.
    mismatch: String,
    /// Host, path and query as they arrived at the receiver.
    arrived: String,
    /// The body as it arrived at the handler, or the reason of the refusal.
    body: Vec<u8>,
}

impl Judged {
    #[track_caller]
    fn is_refused(&self, reason: &str, mismatch: &str) {
        let expected = ((401, reason), mismatch);
        assert_eq!(
            (self.outcome(), self.mismatch.as_str()),
            expected,
            "{self:?}"
        );
    }

    fn outcome(&self) -> (u16, &str) {
        (self.status, str::from_utf8(&self.body).unwrap_or_default())
    }
}

type Layer = VerifySignatureLayer<Secret>;

/// Starts a receiver with the layer behind a proxy. Returns `None` if the proxy is not installed.
async fn behind(
    kind: Kind,
    config: &str,
    pinned: impl FnOnce(Layer) -> Layer,
) -> io::Result<Option<(Proxy, Merchant)>> {
    let Some(program) = kind.find() else {
        return Ok(None);
    };
    let layer = pinned(VerifySignatureLayer::rejecting(secret()));
    let app = Router::new()
        .fallback(async |_: MessageVerdict, body: Bytes| body)
        .layer(DefaultBodyLimit::disable())
        .layer(layer.with_response(reason))
        .layer(middleware::from_fn(diagnose));
    let receiver = Merchant::serve(app, SocketAddr::new(LOCALHOST, 0)).await?;
    let proxy = kind.start(&program, config, receiver.addr()).await?;
    Ok(Some((proxy, receiver)))
}

fn reason(rejection: &MessageRejection) -> Response {
    let mut response = Response::new(Body::from(rejection.to_string()));
    *response.status_mut() = rejection.status();
    response
}

/// Adds the target of a request and the result of `webhook::diagnose` to its response.
async fn diagnose(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let url = parts.headers.get(REGISTERED).map(HeaderValue::as_bytes);
    let url = url.and_then(|url| Uri::try_from(url).ok());
    let secrets = secret().into();
    let now = SystemTime::now();
    let found = webhook::diagnose(&parts, b"", &secrets, url.as_ref(), now, WINDOW);
    let mismatch = match found.map(|found| found.signature) {
        Ok(Ok(())) => "none".to_owned(),
        Ok(Err(mismatch)) => format!("{mismatch:?}"),
        Err(unread) => unread.to_string(),
    };
    let header = parts.headers.get(HOST).map(HeaderValue::as_bytes);
    let authority = parts.uri.authority().map(|host| host.as_str().as_bytes());
    let host = authority.or(header).unwrap_or_default();
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let arrived = HeaderValue::from_bytes(&[host, path.as_bytes()].concat());

    let mut response = next.run(Request::from_parts(parts, body)).await;
    match (HeaderValue::try_from(mismatch), arrived) {
        (Ok(mismatch), Ok(arrived)) => {
            response.headers_mut().insert(MISMATCH, mismatch);
            response.headers_mut().insert(ARRIVED, arrived);
        }
        _ => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
    }
    response
}

fn secret() -> Secret {
    Secret::new("of the registration").expect("it is not empty")
}

/// Proxies that keep host and path.
const KEEPING: [(Kind, &str); 7] = [
    (Kind::Nginx, NGINX),
    (Kind::Caddy, CADDY),
    (Kind::Caddy, include_str!("../proxies/caddy-h2c.Caddyfile")),
    (
        Kind::Caddy,
        include_str!("../proxies/caddy-signature.Caddyfile"),
    ),
    (Kind::HaProxy, HAPROXY),
    (Kind::HaProxy, include_str!("../proxies/haproxy-h2.cfg")),
    (Kind::Apache, APACHE),
];

const NGINX: &str = include_str!("../proxies/nginx-signature.conf");
const CADDY: &str = include_str!("../proxies/caddy.Caddyfile");
const HAPROXY: &str = include_str!("../proxies/haproxy-x-forwarded-for.cfg");
const APACHE: &str = include_str!("../proxies/apache-signature.conf");

/// Headers of these tests: the registered URL, the mismatch, and the target that arrived.
const REGISTERED: &str = "x-registered";
const MISMATCH: &str = "x-mismatch";
const ARRIVED: &str = "x-arrived";

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const WINDOW: Duration = Duration::from_secs(300);
