//! `bench CHECK PORT` serves a merchant's route on one thread, behind one of the checks.

use std::{
    collections::HashSet,
    convert::Infallible,
    env,
    error::Error,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router, ServiceExt,
    extract::{ConnectInfo, Request, State},
    http::StatusCode,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::post,
};
use axum_client_ip::{ClientIp, ClientIpSource};
use callback_source::{
    AllowList, Answer, Question,
    verify::{ConnectInfoPeer, VerifySourceLayer},
};
use futures_util::future::{Either, Ready, ready};
use tokio::net::TcpListener;
use tower::{Layer, layer::layer_fn};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let (Some(check), Some(port)) = (args.next(), args.next()) else {
        return Err("usage: bench bare|no-op|least|layer|around|client-ip PORT".into());
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse()?));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(&check, address))
}

async fn serve(check: &str, address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let route = Router::new().route(
        "/callbacks/v2/payments/{order_id}",
        post(async |body: String| format!("received {}", body.len())),
    );
    let app = match check {
        "bare" => route,
        "no-op" => route.layer(layer_fn(NoOp)),
        "layer" => route.layer(VerifySourceLayer::rejecting(list().await, ConnectInfoPeer)),
        "client-ip" => route
            .layer(from_fn_with_state(Arc::new(listed().collect()), client_ip))
            .layer(ClientIpSource::ConnectInfo.into_extension()),
        "least" => return around(Least::layer(), route, address).await,
        "around" => {
            let layer = VerifySourceLayer::rejecting(list().await, ConnectInfoPeer);
            return around(layer, route, address).await;
        }
        _ => return Err(format!("no such check: {check}").into()),
    };
    let listener = TcpListener::bind(address).await?;
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    Ok(axum::serve(listener, app).await?)
}

/// Serves a layer around the router.
async fn around<L>(layer: L, route: Router, address: SocketAddr) -> Result<(), Box<dyn Error>>
where
    L: Layer<Router>,
    L::Service:
        tower::Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    <L::Service as tower::Service<Request>>::Future: Send,
{
    let app = layer.layer(route.with_state(()));
    let listener = TcpListener::bind(address).await?;
    let app = ServiceExt::<Request>::into_make_service_with_connect_info::<SocketAddr>(app);
    Ok(axum::serve(listener, app).await?)
}

/// Returns sixteen addresses. The last address is that of the load generator.
fn listed() -> impl Iterator<Item = IpAddr> {
    (0..15)
        .map(|at| IpAddr::from([20, 0, at, 7]))
        .chain([Ipv4Addr::LOCALHOST.into()])
}

async fn list() -> AllowList {
    let resolver = async |_: Question| Ok(Answer::new(listed(), Duration::from_secs(300)));
    let list = AllowList::builder()
        .host("callback.example.com".parse().expect("a name"))
        .insecure_allow_special_addresses()
        .spawn(resolver);
    list.ready().await;
    list
}

/// A check as a merchant could write it, with a list of addresses and `axum-client-ip`.
async fn client_ip(
    State(listed): State<Arc<HashSet<IpAddr>>>,
    ClientIp(peer): ClientIp,
    request: Request,
    next: Next,
) -> Response {
    if listed.contains(&peer) {
        next.run(request).await
    } else {
        StatusCode::FORBIDDEN.into_response()
    }
}

#[derive(Clone)]
struct NoOp<S>(S);

impl<S, R> tower::Service<R> for NoOp<S>
where
    S: tower::Service<R>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.0.call(request)
    }
}

/// Cheapest check that still passes its verdict to the handler. It compares the peer with a fixed list, reads the
/// clock, and inserts an extension.
#[derive(Clone)]
struct Least<S> {
    inner: S,
    listed: Arc<[IpAddr]>,
}

#[derive(Clone)]
struct Seen {
    _peer: IpAddr,
    _at: Instant,
    _host: &'static str,
}

impl Least<()> {
    fn layer<S>() -> impl Layer<S, Service = Least<S>> {
        let listed: Arc<[IpAddr]> = listed().collect();
        layer_fn(move |inner| Least {
            inner,
            listed: Arc::clone(&listed),
        })
    }
}

impl<S> tower::Service<Request> for Least<S>
where
    S: tower::Service<Request, Response = Response>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response, S::Error>>>;

    fn poll_ready(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let now = Instant::now();
        match request.extensions().get::<ConnectInfo<SocketAddr>>() {
            Some(ConnectInfo(peer)) if self.listed.contains(&peer.ip()) => {
                let seen = Seen {
                    _peer: peer.ip(),
                    _at: now,
                    _host: "callback.example.com",
                };
                request.extensions_mut().insert(seen);
                Either::Left(self.inner.call(request))
            }
            _ => Either::Right(ready(Ok(StatusCode::FORBIDDEN.into_response()))),
        }
    }
}
