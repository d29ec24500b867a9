use std::time::Duration;

use http::{Request, request::Parts};
use httpdate::parse_http_date;
use proptest::prelude::*;

use super::{
    claim::{parse_authorization, parse_date, parse_digest},
    *,
};
use crate::MessageRejectionKind::{self, *};

const SECRET: &str =
    "A0+AeKBRG2KRGvnNwJpQlb6IJFk48CKXCIcrLoHncVJKDILsQSxS6NWCccwWm6r6FhGKhiHTBsG2wo/xU6FY/A==";
const URL: &str = "https://webhook.site/e2cee29b-012e-4f1d-8ef4-e95fd74a7a63";
const DATE: &str = "Thu, 30 Mar 2023 08:38:32 GMT";
const BODY: &str = r#"{"some-unique-content":"ee6e441b-cc4a-46f8-895d-a5af79bcc233/hello-world"}"#;
const HASH: &str = "lNlsp1XA03N34HrQsVzPgJKtC+r7l/RBF4V3JQUWMj4=";
const SIGNATURE: &str = "agAiSyogQbDHpeucoNwYz+yAr5nJ+v+zasdkSbqzv+U=";
const OF_DECODED_SECRET: &str = "T3+NXHMmhNVEjW5PeJ4Gql70nf0MOXCAY9CoZDxuVQw=";
const SECOND: Duration = Duration::from_secs(1);
const WINDOW: Duration = Duration::from_secs(300);

fn secret() -> Secret {
    Secret::new(SECRET).unwrap()
}

fn date() -> SystemTime {
    parse_http_date(DATE).unwrap()
}

fn headers(signature: &str) -> HeaderMap {
    let authorization = format!(
        "HMAC-SHA256 SignedHeaders=x-ms-date;host;x-ms-content-sha256&Signature={signature}"
    );
    let headers = [
        ("host", "webhook.site"),
        ("x-ms-date", DATE),
        ("x-ms-content-sha256", HASH),
        ("authorization", &authorization),
    ];
    let header = |(name, value): (&str, &str)| (name.parse().unwrap(), value.parse().unwrap());
    headers.into_iter().map(header).collect()
}

/// Returns a delivery as it arrives over HTTP/1.1.
fn arrived(path: &str, headers: HeaderMap) -> Parts {
    let mut request = Request::post(path).body(()).unwrap();
    *request.headers_mut() = headers;
    request.into_parts().0
}

fn vector() -> Parts {
    arrived("/e2cee29b-012e-4f1d-8ef4-e95fd74a7a63", headers(SIGNATURE))
}

fn check(parts: &Parts, body: &[u8]) -> Result<(), MessageRejectionKind> {
    let all = || {
        let claim = Claim::from_headers(&parts.headers)?;
        claim.check_date(date(), WINDOW)?;
        claim.check_signature(&Target::from_request(parts)?, &secret().into())?;
        claim.check_body(body)
    };
    all().map_err(|rejection: MessageRejection| rejection.kind())
}

fn insert(parts: &mut Parts, name: &'static str, value: &[u8]) {
    let value = HeaderValue::from_bytes(value).unwrap();
    parts.headers.insert(name, value);
}

/// Returns copies of the text with one flipped bit each. The changed byte stays printable.
fn flipped(text: &str) -> impl Iterator<Item = Vec<u8>> {
    (0..text.len()).flat_map(move |at| {
        [1, 2, 32].into_iter().filter_map(move |bit| {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] ^= bit;
            bytes[at].is_ascii_graphic().then_some(bytes)
        })
    })
}

#[test]
fn the_published_vector_is_verified() {
    assert_eq!(check(&vector(), BODY.as_bytes()), Ok(()));
}

#[test]
fn signing_gives_the_published_headers() {
    let signed = sign(&secret(), &URL.parse().unwrap(), BODY.as_bytes(), date()).unwrap();
    let mut expected = headers(SIGNATURE);
    expected.insert(X_VIPPS_AUTHORIZATION, expected["authorization"].clone());
    assert_eq!(signed, expected);
}

#[test]
fn the_signature_of_the_decoded_secret_is_refused() {
    let mut parts = vector();
    parts.headers = headers(OF_DECODED_SECRET);
    assert_eq!(check(&parts, BODY.as_bytes()), Err(Signature));
}

#[test]
fn the_content_hash_of_an_observed_delivery_matches() {
    let body = concat!(
        r#"{"msn":"373370","reference":"inv-8-attempt-2","#,
        r#""pspReference":"740e7483-c083-4b95-9246-a37299ad53b7","name":"CREATED","#,
        r#""amount":{"currency":"NOK","value":12100},"timestamp":"2025-05-31T17:29:23.358Z","#,
        r#""idempotencyKey":"683b3c72858e20.24358952","success":true}"#
    );
    let mut parts = vector();
    let hash = b"kQSmDK2O2OZoefs7WJBmm2OR4kuoPtDMNGGmh0QVvtA=";
    insert(&mut parts, "x-ms-content-sha256", hash);
    let claim = Claim::from_headers(&parts.headers).unwrap();
    claim.check_body(body.as_bytes()).unwrap();
    let spaced = body.replace(':', ": ");
    let error = claim.check_body(spaced.as_bytes()).unwrap_err();
    assert_eq!(error.kind(), ContentHash);
}

#[test]
fn each_flipped_byte_of_the_signature_is_refused() {
    for flipped in flipped(SIGNATURE) {
        let mut parts = vector();
        parts.headers = headers(std::str::from_utf8(&flipped).unwrap());
        let refused = check(&parts, BODY.as_bytes()).unwrap_err();
        let is_digest = parse_digest(&flipped).is_some();
        let expected = if is_digest {
            Signature
        } else {
            MalformedHeader
        };
        assert_eq!(refused, expected, "{}", String::from_utf8_lossy(&flipped));
    }
}

#[test]
fn each_flipped_byte_of_the_date_is_refused() {
    for flipped in flipped(DATE) {
        let mut parts = vector();
        insert(&mut parts, "x-ms-date", &flipped);
        let refused = check(&parts, BODY.as_bytes()).unwrap_err();
        let expected = match parse_date(&flipped) {
            None => MalformedHeader,
            Some(date_of) if date_of + WINDOW < date() => DateStale,
            Some(date_of) if date() + WINDOW < date_of => DateAhead,
            Some(_) => Signature,
        };
        assert_eq!(refused, expected, "{}", String::from_utf8_lossy(&flipped));
    }
}

#[test]
fn each_flipped_byte_of_the_host_is_refused() {
    for flipped in flipped("webhook.site") {
        let mut parts = vector();
        insert(&mut parts, "host", &flipped);
        assert_eq!(check(&parts, BODY.as_bytes()), Err(Signature));
    }
}

#[test]
fn each_flipped_byte_of_the_path_is_refused() {
    let mut tried = 0;
    for flipped in flipped(&URL["https://webhook.site".len()..]) {
        let Ok(uri) = Uri::try_from(flipped) else {
            continue;
        };
        tried += 1;
        let mut parts = vector();
        parts.uri = uri;
        parts
            .headers
            .insert("host", "webhook.site".parse().unwrap());
        let refused = check(&parts, BODY.as_bytes()).unwrap_err();
        assert!(
            [Signature, DuplicateHeader].contains(&refused),
            "{refused:?}"
        );
    }
    assert!(tried > 50);
}

#[test]
fn each_flipped_byte_of_the_body_is_refused() {
    for at in 0..BODY.len() {
        let mut body = BODY.as_bytes().to_vec();
        body[at] ^= 1;
        assert_eq!(check(&vector(), &body), Err(ContentHash));
    }
    for other in [
        &BODY[1..],
        &BODY[..BODY.len() - 1],
        "",
        &format!("{BODY}\n"),
    ] {
        assert_eq!(check(&vector(), other.as_bytes()), Err(ContentHash));
    }
}

#[test]
fn each_flipped_byte_of_the_hash_is_refused() {
    for flipped in flipped(HASH) {
        let mut parts = vector();
        insert(&mut parts, "x-ms-content-sha256", &flipped);
        let refused = check(&parts, BODY.as_bytes()).unwrap_err();
        let is_digest = parse_digest(&flipped).is_some();
        assert_eq!(
            refused,
            if is_digest {
                Signature
            } else {
                MalformedHeader
            }
        );
    }
}

#[test]
fn a_body_with_its_own_hash_is_refused_without_a_new_signature() {
    let mut parts = vector();
    let hash = STANDARD.encode(Sha256::digest(b"forged"));
    insert(&mut parts, "x-ms-content-sha256", hash.as_bytes());
    assert_eq!(check(&parts, b"forged"), Err(Signature));
}

#[test]
fn another_method_is_refused() {
    for method in [http::Method::PUT, http::Method::DELETE, http::Method::GET] {
        let mut parts = vector();
        parts.method = method;
        assert_eq!(check(&parts, BODY.as_bytes()), Err(Signature));
    }
}

#[test]
fn a_missing_header_is_refused_by_name() {
    for name in ["x-ms-date", "x-ms-content-sha256", "authorization"] {
        let mut headers = headers(SIGNATURE);
        headers.remove(name);
        let rejection = Claim::from_headers(&headers).unwrap_err();
        assert_eq!(rejection.kind(), MissingHeader);
        assert_eq!(rejection.header(), Some(name));
    }
    let mut parts = vector();
    parts.headers.remove("host");
    assert_eq!(check(&parts, BODY.as_bytes()), Err(MissingHeader));
}

#[test]
fn a_duplicate_header_is_refused_even_if_both_values_are_equal() {
    for name in ["x-ms-date", "x-ms-content-sha256", "authorization", "host"] {
        for (first, second) in [("", "b"), ("a", "b")] {
            let mut parts = vector();
            let right = parts.headers[name].clone();
            let other = |text: &'static str| match text {
                "" => right.clone(),
                text => HeaderValue::from_static(text),
            };
            parts.headers.insert(name, other(first));
            parts.headers.append(name, other(second));
            assert_eq!(
                check(&parts, BODY.as_bytes()),
                Err(DuplicateHeader),
                "{name}"
            );
            parts.headers.insert(name, right.clone());
            parts.headers.append(name, right);
            assert_eq!(
                check(&parts, BODY.as_bytes()),
                Err(DuplicateHeader),
                "{name}"
            );
        }
    }
}

#[test]
fn the_order_of_header_lines_does_not_matter() {
    let mut lines: Vec<_> = vector().headers.into_iter().collect();
    for _ in 0..lines.len() {
        lines.rotate_left(1);
        let headers = lines.iter().cloned();
        let headers = headers
            .map(|(name, value)| (name.unwrap(), value))
            .collect();
        let parts = arrived("/e2cee29b-012e-4f1d-8ef4-e95fd74a7a63", headers);
        assert_eq!(check(&parts, BODY.as_bytes()), Ok(()));
    }
}

#[test]
fn an_authorization_in_any_other_form_is_refused_with_its_reason() {
    let list = "SignedHeaders=x-ms-date;host;x-ms-content-sha256";
    let table = [
        (
            format!("HMAC-SHA512 {list}&Signature={SIGNATURE}"),
            Algorithm,
        ),
        (format!("HMAC-SHA1 {list}&Signature={SIGNATURE}"), Algorithm),
        (
            format!("hmac-sha256 {list}&Signature={SIGNATURE}"),
            Algorithm,
        ),
        (
            format!("HMAC-SHA256{list}&Signature={SIGNATURE}"),
            Algorithm,
        ),
        (
            format!("HMAC-SHA2567 {list}&Signature={SIGNATURE}"),
            Algorithm,
        ),
        (format!("none {list}&Signature={SIGNATURE}"), Algorithm),
        (format!("{list}&Signature={SIGNATURE}"), Algorithm),
        ("Bearer abc".to_owned(), Algorithm),
        (String::new(), Algorithm),
        ("HMAC-SHA256".to_owned(), Algorithm),
        ("HMAC-SHA256 ".to_owned(), MalformedHeader),
        (
            format!("HMAC-SHA256  {list}&Signature={SIGNATURE}"),
            MalformedHeader,
        ),
        (
            format!("HMAC-SHA256 Signature={SIGNATURE}&{list}"),
            MalformedHeader,
        ),
        (
            format!("HMAC-SHA256 Signature={SIGNATURE}"),
            MalformedHeader,
        ),
        (format!("HMAC-SHA256 {list}"), MalformedHeader),
        (format!("HMAC-SHA256 {list}&Signature="), MalformedHeader),
        (format!("HMAC-SHA256 {list}&Signature"), MalformedHeader),
        (
            format!("HMAC-SHA256 {list}&signature={SIGNATURE}"),
            MalformedHeader,
        ),
        (
            format!("HMAC-SHA256 {list}&Signature={SIGNATURE}&"),
            MalformedHeader,
        ),
        (
            format!("HMAC-SHA256 {list}&Signature={SIGNATURE} "),
            MalformedHeader,
        ),
        (
            format!("HMAC-SHA256 {list}&Signature={SIGNATURE}="),
            MalformedHeader,
        ),
        (
            format!("HMAC-SHA256 {list}&Signature={}", &SIGNATURE[..43]),
            MalformedHeader,
        ),
        (
            format!("HMAC-SHA256 {list}&Signature={SIGNATURE}&Credential=a"),
            MalformedHeader,
        ),
        (
            format!("HMAC-SHA256 Credential=a&{list}&Signature={SIGNATURE}"),
            MalformedHeader,
        ),
        (
            format!("HMAC-SHA256 {list}&Signature={SIGNATURE}&Signature={SIGNATURE}"),
            MalformedHeader,
        ),
        (
            format!("HMAC-SHA256 {list}&Signature={OF_DECODED_SECRET}&Signature={SIGNATURE}"),
            MalformedHeader,
        ),
        (
            format!(
                "HMAC-SHA256 SignedHeaders=host;x-ms-date;x-ms-content-sha256&Signature={SIGNATURE}"
            ),
            SignedHeaders,
        ),
        (
            format!("HMAC-SHA256 SignedHeaders=x-ms-date&Signature={SIGNATURE}"),
            SignedHeaders,
        ),
        (
            format!("HMAC-SHA256 SignedHeaders=&Signature={SIGNATURE}"),
            SignedHeaders,
        ),
        (
            format!("HMAC-SHA256 {list};x-extra&Signature={SIGNATURE}"),
            SignedHeaders,
        ),
    ];
    for (value, expected) in table {
        let mut parts = vector();
        insert(&mut parts, "authorization", value.as_bytes());
        assert_eq!(check(&parts, BODY.as_bytes()), Err(expected), "{value}");
        // The copy must have the same form if a proxy's own credentials replaced the original.
        insert(&mut parts, "x-vipps-authorization", value.as_bytes());
        parts.headers.remove("authorization");
        assert_eq!(check(&parts, BODY.as_bytes()), Err(expected), "{value}");
        insert(&mut parts, "authorization", b"Basic YTpi");
        assert_eq!(check(&parts, BODY.as_bytes()), Err(expected), "{value}");
    }
}

#[test]
fn the_copy_is_read_where_the_original_was_stripped_or_replaced() {
    let right = headers(SIGNATURE)["authorization"].clone();
    let wrong = headers(OF_DECODED_SECRET)["authorization"].clone();
    let basic = HeaderValue::from_static("Basic YTpi");
    let table = [
        (None, Some(&right), Ok(())),
        (Some(&basic), Some(&right), Ok(())),
        (Some(&right), Some(&right), Ok(())),
        (Some(&right), Some(&wrong), Err(DuplicateHeader)),
        (Some(&wrong), Some(&right), Err(DuplicateHeader)),
        (Some(&right), Some(&basic), Err(DuplicateHeader)),
        (Some(&basic), None, Err(Algorithm)),
        (None, Some(&wrong), Err(Signature)),
        (None, None, Err(MissingHeader)),
    ];
    for (original, copy, expected) in table {
        let mut parts = vector();
        parts.headers.remove("authorization");
        let values = [("authorization", original), ("x-vipps-authorization", copy)];
        for (name, value) in values {
            if let Some(value) = value {
                parts.headers.insert(name, value.clone());
            }
        }
        assert_eq!(
            check(&parts, BODY.as_bytes()),
            expected,
            "{original:?} {copy:?}"
        );
    }
    let mut parts = vector();
    for _ in 0..2 {
        parts.headers.append("x-vipps-authorization", right.clone());
    }
    assert_eq!(check(&parts, BODY.as_bytes()), Err(DuplicateHeader));
    // A copy in `X-Vipps-Authorization` does not help if `Authorization` is present twice.
    let mut parts = vector();
    parts.headers.append("authorization", right.clone());
    parts.headers.insert("x-vipps-authorization", right);
    assert_eq!(check(&parts, BODY.as_bytes()), Err(DuplicateHeader));
}

#[test]
fn the_date_is_accepted_to_the_end_of_the_window_on_both_sides() {
    let headers = headers(SIGNATURE);
    let claim = Claim::from_headers(&headers).unwrap();
    let kind = |now| claim.check_date(now, WINDOW).map_err(|error| error.kind());
    assert_eq!(kind(date()), Ok(()));
    assert_eq!(kind(date() + WINDOW), Ok(()));
    assert_eq!(kind(date() + WINDOW + SECOND), Err(DateStale));
    assert_eq!(kind(date() - WINDOW), Ok(()));
    assert_eq!(kind(date() - WINDOW - SECOND), Err(DateAhead));
    assert_eq!(kind(SystemTime::UNIX_EPOCH), Err(DateAhead));
}

#[test]
fn a_date_in_another_form_is_malformed() {
    for text in [
        "",
        "Thu, 30 Mar 2023 08:38:32 UTC",
        "thu, 30 Mar 2023 08:38:32 GMT",
        "Wed, 30 Mar 2023 08:38:32 GMT",
        "Thu, 30 Mar 2023 08:38:32 +0000",
        "Thu, 30 Mar 2023 8:38:32 GMT",
        "Thursday, 30-Mar-23 08:38:32 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Thu Mar 30 08:38:32 2023",
        "  Thu Mar 30 08:38:32 2023   ",
        "Thu, 31 Feb 2023 08:38:32 GMT",
        "Thu, 30 Mar 2023 24:38:32 GMT",
        "Thu, 01 Jan 1969 00:00:00 GMT",
        "2023-03-30T08:38:32Z",
        "1680165512",
    ] {
        let mut parts = vector();
        insert(&mut parts, "x-ms-date", text.as_bytes());
        let rejection = Claim::from_headers(&parts.headers).unwrap_err();
        assert_eq!(rejection.kind(), MalformedHeader, "{text}");
        assert_eq!(rejection.header(), Some("x-ms-date"));
    }
}

#[test]
fn a_delivery_signed_for_a_url_is_verified_where_it_arrives() {
    let table = [
        (
            "https://shop.example/hooks?tenant=7&x=%20",
            "shop.example",
            "/hooks?tenant=7&x=%20",
        ),
        (
            "https://shop.example:8443/hooks",
            "shop.example:8443",
            "/hooks",
        ),
        ("https://shop.example:443/hooks", "shop.example", "/hooks"),
        ("http://shop.example:80/hooks", "shop.example", "/hooks"),
        (
            "http://shop.example:443/hooks",
            "shop.example:443",
            "/hooks",
        ),
        ("https://user@shop.example/hooks", "shop.example", "/hooks"),
        ("https://[2001:db8::1]:8443/", "[2001:db8::1]:8443", "/"),
        ("https://shop.example", "shop.example", "/"),
        ("https://shop.example?a=b", "shop.example", "/?a=b"),
        ("https://shop.example:8443?", "shop.example:8443", "/?"),
        ("https://Shop.Example/Hooks", "shop.example", "/Hooks"),
        ("https://SHOP.example:8443/", "shop.example:8443", "/"),
        (
            "https://shop.example/a/../b//c/",
            "shop.example",
            "/a/../b//c/",
        ),
        (
            "https://shop.example/bl%C3%A5b%C3%A6r",
            "shop.example",
            "/bl%C3%A5b%C3%A6r",
        ),
        (
            "https://shop.example/blåbær?é=ø",
            "shop.example",
            "/blåbær?é=ø",
        ),
    ];
    for (url, host, path) in table {
        for body in ["", BODY] {
            let url: Uri = url.parse().unwrap();
            let headers = sign(&secret(), &url, body.as_bytes(), date()).unwrap();
            assert_eq!(headers["host"], host);
            let parts = arrived(path, headers.clone());
            assert_eq!(check(&parts, body.as_bytes()), Ok(()), "{url}");
            let mut parts = arrived("/elsewhere", headers);
            assert_eq!(check(&parts, body.as_bytes()), Err(Signature));
            parts.uri = path.parse().unwrap();
            insert(&mut parts, "host", b"elsewhere.example");
            assert_eq!(check(&parts, body.as_bytes()), Err(Signature));
        }
    }
}

#[test]
fn spellings_of_one_path_are_different_paths() {
    let url = "https://shop.example/bl%C3%A5".parse().unwrap();
    let headers = sign(&secret(), &url, b"", date()).unwrap();
    for path in [
        "/bl%c3%a5",
        "/blå",
        "/bl%C3%A5/",
        "//bl%C3%A5",
        "/bl%C3%A5?",
    ] {
        let parts = arrived(path, headers.clone());
        assert_eq!(check(&parts, b""), Err(Signature), "{path}");
    }
}

#[test]
fn the_host_is_the_authority_or_the_header_and_they_must_agree() {
    let table = [
        (
            "https://webhook.site/p",
            Some("webhook.site"),
            Ok("webhook.site"),
        ),
        ("https://webhook.site/p", None, Ok("webhook.site")),
        ("/p", Some("webhook.site"), Ok("webhook.site")),
        (
            "https://webhook.site/p",
            Some("other.example"),
            Err(DuplicateHeader),
        ),
        (
            "https://webhook.site/p",
            Some("webhook.site:443"),
            Err(DuplicateHeader),
        ),
        ("/p", None, Err(MissingHeader)),
    ];
    for (uri, header, expected) in table {
        let headers = header.map(|host| (header::HOST, host.parse().unwrap()));
        let parts = arrived(uri, headers.into_iter().collect());
        let found = Target::from_request(&parts).map(|target| target.host().to_owned());
        assert_eq!(
            found.as_deref().map_err(MessageRejection::kind),
            expected,
            "{uri} {header:?}"
        );
    }
    let mut parts = vector();
    insert(&mut parts, "host", b"bl\xe5.example");
    assert_eq!(check(&parts, b""), Err(MalformedHeader));
}

#[test]
fn any_of_several_secrets_is_accepted_and_an_empty_list_refuses() {
    let headers = headers(SIGNATURE);
    let claim = Claim::from_headers(&headers).unwrap();
    let url = URL.parse().unwrap();
    let target = Target::from_url(&url).unwrap();
    let other = || Secret::new("another").unwrap();
    let check = |secrets: Vec<Secret>| {
        let checked = claim.check_signature(&target, &secrets.into_iter().collect());
        checked.map_err(|error| error.kind())
    };
    assert_eq!(check(vec![secret(), other(), other()]), Ok(()));
    assert_eq!(check(vec![other(), other(), secret()]), Ok(()));
    assert_eq!(check(vec![other(), other()]), Err(Signature));
    assert_eq!(check(vec![]), Err(UnknownKey));
}

#[test]
fn a_delivery_that_cannot_be_signed_is_an_error() {
    let url: Uri = URL.parse().unwrap();
    let before_1970 = SystemTime::UNIX_EPOCH - SECOND;
    let year_10_000 = SystemTime::UNIX_EPOCH + Duration::from_secs(YEAR_10_000);
    for date in [before_1970, year_10_000] {
        assert_eq!(sign(&secret(), &url, b"", date), Err(SignError::Date));
    }
    assert!(sign(&secret(), &url, b"", year_10_000 - SECOND).is_ok());
    let path = Uri::from_static("/only/a/path");
    assert_eq!(sign(&secret(), &path, b"", date()), Err(SignError::NoHost));
}

#[test]
fn a_diagnosis_names_the_part_that_does_not_match() {
    let url: Uri = URL.parse().unwrap();
    let diagnose = |parts: &Parts, body: &[u8], url: Option<&Uri>, now| {
        let found = diagnose(parts, body, &secret().into(), url, now, WINDOW).unwrap();
        let date = found.date.is_ok();
        (date, found.content.is_ok(), found.signature)
    };
    let body = BODY.as_bytes();
    assert_eq!(
        diagnose(&vector(), body, None, date()),
        (true, true, Ok(()))
    );
    let late = date() + 2 * WINDOW;
    assert_eq!(diagnose(&vector(), body, None, late), (false, true, Ok(())));
    assert_eq!(
        diagnose(&vector(), b"{}", None, date()),
        (true, false, Ok(()))
    );

    let mut parts = vector();
    insert(&mut parts, "host", b"10.0.0.7:8080");
    let host = (true, true, Err(Mismatch::Host));
    assert_eq!(diagnose(&parts, body, Some(&url), date()), host);
    assert_eq!(diagnose(&parts, body, None, date()).2, Err(Mismatch::Key));
    parts.uri = Uri::from_static("/rewritten");
    assert_eq!(
        diagnose(&parts, body, Some(&url), date()).2,
        Err(Mismatch::Target)
    );
    insert(&mut parts, "host", b"webhook.site");
    assert_eq!(
        diagnose(&parts, body, Some(&url), date()).2,
        Err(Mismatch::Path)
    );
    let mut parts = vector();
    parts.method = http::Method::PUT;
    assert_eq!(
        diagnose(&parts, body, Some(&url), date()).2,
        Err(Mismatch::Target)
    );
    parts.headers = headers(OF_DECODED_SECRET);
    assert_eq!(
        diagnose(&parts, body, Some(&url), date()).2,
        Err(Mismatch::Key)
    );
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(value: Vec<u8>) {
        let _ = parse_authorization(&value);
        let _ = parse_date(&value);
        let _ = parse_digest(&value);
    }

    #[test]
    fn the_text_after_the_prefix_is_one_digest_or_refused(value in "[A-Za-z0-9+/=&]{0,60}") {
        let text = format!("{SCHEME} {SIGNED_HEADERS}&Signature={value}");
        if let Ok(digest) = parse_authorization(text.as_bytes()) {
            prop_assert_eq!(STANDARD.encode(digest), value);
        }
    }

    #[test]
    fn only_the_signed_delivery_is_verified(
        body: Vec<u8>,
        other: Vec<u8>,
        path in "/[a-z0-9/._~-]{0,20}(\\?[a-z=&%0-9]{0,10})?",
        seconds in 0_u64..4_000_000_000,
    ) {
        let url: Uri = format!("https://shop.example{path}").parse().unwrap();
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let headers = sign(&secret(), &url, &body, date).unwrap();
        let claim = Claim::from_headers(&headers).unwrap();
        let target = Target::from_url(&url).unwrap();
        prop_assert_eq!(claim.date(), date);
        prop_assert!(claim.check_signature(&target, &secret().into()).is_ok());
        prop_assert!(claim.check_body(&body).is_ok());
        prop_assert_eq!(claim.check_body(&other).is_ok(), body == other);
    }
}
