//! Cost of a message check, in instructions as callgrind counts them. The benchmark fails if
//!
//! - the refusal of a wrong signature, content hash or token depends on the position of the first wrong byte,
//!   since a sender could then find the right value byte by byte;
//! - a delivery through the layer, without the work of the inner service, costs over 15 % more than the bare
//!   SHA-256 of its body and the HMAC of its string to sign.
//!
//! A limit on each count alone would detect neither fault. This benchmark does not detect a plain `==` of 32 bytes,
//! since the compiler turns it into vector instructions that always compare every byte.
//!
//! The benchmark needs valgrind on x86-64. Valgrind does not support SHA instructions there, so both sides of the
//! second comparison run portable code.

use std::{
    convert::Infallible,
    env,
    future::Future,
    hint::black_box,
    pin::pin,
    process::{Command, ExitCode},
    task::{Context, Poll, Waker},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use callback_source::{
    MessageRejection, MessageRejectionKind,
    signature::webhook::{Claim, Target},
    signature::{Secret, Secrets, Token, VerifySignatureLayer},
};
use futures_util::stream;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use sha2::{Digest, Sha256};
use tower::{Layer, Service, service_fn};

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [MEASURE, what, number] => measure(what, number),
        // Cargo passes `--bench` instead of a case.
        _ => compare(),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Counts the instructions of each case in a separate process, and returns whether all cases pass.
fn compare() -> Result<bool, BoxError> {
    let mut is_right = true;
    for what in ["signature", "content-hash", "token"] {
        let mut counts = Vec::new();
        for (place, byte) in PLACES {
            let count = count(what, byte)?;
            println!("{what}, {place} byte wrong: {count} instructions");
            counts.push(count);
        }
        if counts.iter().any(|count| *count != counts[0]) {
            println!(
                "FAILED: the comparison of the {what} reveals the position of the first wrong byte"
            );
            is_right = false;
        }
    }
    for length in ["001024", "262144"] {
        let (layer, inside) = (count("layer", length)?, count("inside", length)?);
        let (check, bare) = (layer.saturating_sub(inside), count("bare", length)?);
        println!("{length} bytes: {check} instructions for the check, {bare} bare");
        if check * 100 > bare * (100 + MAX_ADDED) {
            println!("FAILED: that is more than {MAX_ADDED} % over");
            is_right = false;
        }
    }
    Ok(is_right)
}

fn count(what: &str, number: &str) -> Result<u64, BoxError> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=*signature::measured*")
        .arg(env::current_exe()?)
        .args([MEASURE, what, number])
        .output()
        .map_err(|error| format!("cannot run valgrind: {error}"))?;
    let printed = String::from_utf8_lossy(&output.stderr);
    let count = printed
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let count = count.and_then(|(_, count)| count.trim().parse().ok());
    // The count is zero if callgrind did not find the function.
    match count {
        Some(count) if count > 0 && output.status.success() => Ok(count),
        _ => Err(format!("{what} {number}: {printed}").into()),
    }
}

/// Calls `work` inside `measured`, the only function in which callgrind counts.
fn counted<T>(mut work: impl FnMut() -> T) -> T {
    let mut done = None;
    measured(&mut || done = Some(black_box(work())));
    done.expect("it was called")
}

#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    work();
}

/// Runs one case, and returns whether its outcome is the expected one.
fn measure(what: &str, number: &str) -> Result<bool, BoxError> {
    let number: usize = number.parse()?;
    let secret = Secret::new(SECRET)?;
    let hash = Sha256::digest(BODY).into();
    let is_refused = |outcome: Result<(), MessageRejection>, expected| {
        outcome.is_err_and(|rejection| rejection.kind() == expected)
    };
    Ok(match what {
        "signature" => {
            let mut wrong = mac(&hash);
            wrong[number] ^= 1;
            let (parts, _) = delivery(BODY, &hash, &wrong).into_parts();
            let (claim, target) = (
                Claim::from_headers(&parts.headers)?,
                Target::from_request(&parts)?,
            );
            let secrets = secret.into();
            let outcome = counted(|| claim.check_signature(&target, &secrets));
            is_refused(outcome, MessageRejectionKind::Signature)
        }
        "content-hash" => {
            let mut wrong: [u8; 32] = hash;
            wrong[number] ^= 1;
            let (parts, _) = delivery(BODY, &wrong, &mac(&wrong)).into_parts();
            let claim = Claim::from_headers(&parts.headers)?;
            let outcome = counted(|| claim.check_body(BODY));
            is_refused(outcome, MessageRejectionKind::ContentHash)
        }
        "token" => {
            let mut wrong = TOKEN.as_bytes().to_vec();
            wrong[number] ^= 1;
            let expected = Secrets::from(Token::new(TOKEN)?);
            let outcome = counted(|| expected.check(&wrong));
            is_refused(outcome, MessageRejectionKind::Token)
        }
        "layer" => {
            let date = httpdate::parse_http_date(DATE)?;
            let layer = VerifySignatureLayer::rejecting(secret).clock(move || date);
            let layer = layer.with_body::<Full<Bytes>>();
            serve(layer.layer(service_fn(merchant)), number)? == StatusCode::OK
        }
        "inside" => serve(service_fn(merchant), number)? == StatusCode::OK,
        "bare" => bare(&vec![b'x'; number])?,
        other => return Err(other.into()),
    })
}

async fn merchant<B>(_: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::default()))
}

/// Counts the instructions of one delivery to a warmed-up service.
fn serve<S>(mut service: S, length: usize) -> Result<StatusCode, BoxError>
where
    S: Service<Request<Body>, Response = Response<Full<Bytes>>, Error = Infallible>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let _entered = runtime.enter();
    let bytes = vec![b'x'; length];
    let hash = Sha256::digest(&bytes).into();
    let mac = mac(&hash);
    for _ in 0..10 {
        ready(service.call(delivery(&bytes, &hash, &mac)))?;
    }
    let mut request = Some(delivery(&bytes, &hash, &mac));
    let response = counted(|| request.take().map(|request| ready(service.call(request))));
    Ok(response.ok_or("it is called once")??.status())
}

/// Counts the instructions of the indispensable work: the hash of the body, and, with a prepared key, the HMAC of the
/// string to sign.
fn bare(body: &[u8]) -> Result<bool, BoxError> {
    let keyed = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes())?;
    let to_sign = to_sign(&Sha256::digest(body).into());
    counted(|| {
        let hash = Sha256::digest(body);
        let mut mac = keyed.clone();
        mac.update(to_sign.as_bytes());
        (hash, mac.finalize())
    });
    Ok(true)
}

fn delivery(bytes: &[u8], hash: &[u8; 32], mac: &[u8; 32]) -> Request<Body> {
    let mut request = Request::new(body(bytes));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(PATH);
    let authorization = format!(
        "HMAC-SHA256 SignedHeaders=x-ms-date;host;x-ms-content-sha256&Signature={}",
        STANDARD.encode(mac)
    );
    // These are as many headers as an observed delivery has.
    let headers = [
        ("host", HOST),
        ("user-agent", "Vipps MobilePay/1.0 Webhooks/1.0"),
        ("content-type", "application/json; charset=utf-8"),
        ("accept-encoding", "gzip"),
        ("webhook-id", "683c3fbe-6bd8-44e0-b9ef-a8b1a4aa0b0c"),
        ("x-ms-date", DATE),
        ("x-ms-content-sha256", &STANDARD.encode(hash)),
        ("authorization", &authorization),
        ("x-vipps-authorization", &authorization),
        ("x-forwarded-for", "192.0.2.1"),
    ];
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).expect("it is printable");
        request.headers_mut().insert(name, value);
    }
    request
}

/// Returns the body in pieces of 16 KiB, like a body that is read from a socket.
fn body(bytes: &[u8]) -> Body {
    let pieces = bytes.chunks(16 * 1024).map(Bytes::copy_from_slice);
    let frames: Vec<_> = pieces.map(Frame::data).map(Ok).collect();
    StreamBody::new(stream::iter(frames))
}

fn mac(hash: &[u8; 32]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any key will do");
    mac.update(to_sign(hash).as_bytes());
    mac.finalize().into_bytes().into()
}

fn to_sign(hash: &[u8; 32]) -> String {
    format!("POST\n{PATH}\n{DATE};{HOST};{}", STANDARD.encode(hash))
}

fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("nothing has to wait"),
    }
}

type Body = StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

const MEASURE: &str = "measure";
const PLACES: [(&str, &str); 3] = [("first", "00"), ("middle", "16"), ("last", "31")];

/// Maximum cost that the layer may add to the indispensable work, in per cent.
const MAX_ADDED: u64 = 15;

const SECRET: &str =
    "A0+AeKBRG2KRGvnNwJpQlb6IJFk48CKXCIcrLoHncVJKDILsQSxS6NWCccwWm6r6FhGKhiHTBsG2wo/xU6FY/A==";
const TOKEN: &str = "s3cret-of-order-acme-shop-123-ab";
const HOST: &str = "shop.example";
const PATH: &str = "/e2cee29b-012e-4f1d-8ef4-e95fd74a7a63";
const DATE: &str = "Thu, 30 Mar 2023 08:38:32 GMT";
const BODY: &[u8] = b"{}";
