//! Reader of a saved request.
//!
//! Many tools, such as proxies, browsers and editors, save requests. Some tools write the path only in a pseudo-header
//! of HTTP/2. Some add a line break after the body, which changes the hash of the body. Such changes are undone where
//! that is safe. Other changes are not undone, since after a wrong guess a correct signature would be reported as
//! wrong.

use std::{
    borrow::Cow,
    fs,
    io::{self, Read},
    path::Path,
};

use http::{HeaderName, HeaderValue, Request, header, request::Parts};

use crate::{error::Error, output};

/// Reads the head and the body of a saved request.
pub(crate) fn read(path: &Path) -> Result<(Parts, Vec<u8>), Error> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        let read = io::stdin().lock().read_to_end(&mut bytes);
        read.map(|_| bytes)
    } else {
        fs::read(path)
    };
    let bytes = bytes.map_err(|cause| Error::Read {
        what: "the request",
        path: path.to_owned(),
        cause,
    })?;
    let (parts, mut body) = parse(&bytes).map_err(|why| Error::NoRequest {
        path: path.to_owned(),
        why,
    })?;
    if let Some(note) = truncate_body(&parts, &mut body) {
        output::message("note", note);
    }
    Ok((parts, body))
}

fn parse(bytes: &[u8]) -> Result<(Parts, Vec<u8>), String> {
    let bytes = &*as_http1(bytes)?;
    let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut lines);
    let length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => {
            return Err("the headers do not end with an empty line".to_owned());
        }
        Err(error) => return Err(error.to_string()),
    };
    if head.headers.is_empty() {
        return Err("it has no headers".to_owned());
    }
    let mut request = Request::builder()
        .method(head.method.unwrap_or_default())
        .uri(head.path.unwrap_or_default());
    for line in head.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes());
        let value = HeaderValue::from_bytes(line.value);
        request = match (name, value) {
            (Ok(name), Ok(value)) => request.header(name, value),
            _ => return Err(format!("the header `{}` is malformed", line.name)),
        };
    }
    let request = request.body(bytes[length..].to_vec());
    request
        .map(Request::into_parts)
        .map_err(|error| error.to_string())
}

/// Rewrites a request of HTTP/2 or HTTP/3 as HTTP/1.1. Tools save such a request with its version at the end of the
/// request line, or with the pseudo-header fields of RFC 9113, section 8.3.1.
fn as_http1(bytes: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    let mut pseudo = Vec::new();
    let mut head = Vec::new();
    let mut rest = bytes.trim_ascii_start();
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n');
        let (line, behind) = match end {
            Some(end) => rest.split_at(end + 1),
            None => (rest, &rest[rest.len()..]),
        };
        let text = line.trim_ascii_end();
        // Lines are not checked here: the parser reports malformed lines.
        if text.is_empty() {
            break;
        }
        rest = behind;
        match text.strip_prefix(b":").map(|field| split(field, b':')) {
            Some((name, value)) => pseudo.push((name, value.trim_ascii())),
            None => head.push((text, line)),
        }
    }
    let (first, version) = match head.first() {
        Some((text, _)) if pseudo.is_empty() || is_request_line(text) => split_last(text),
        _ => (&b""[..], &b""[..]),
    };
    let is_newer = [&b"HTTP/2"[..], b"HTTP/2.0", b"HTTP/3", b"HTTP/3.0"].contains(&version);
    if !is_newer && pseudo.is_empty() {
        return Ok(Cow::Borrowed(bytes));
    }

    let field = |wanted: &[u8]| pseudo.iter().find(|(name, _)| *name == wanted);
    let mut text = Vec::with_capacity(bytes.len());
    if version.is_empty() {
        let (Some((_, method)), Some((_, path))) = (field(b"method"), field(b"path")) else {
            return Err("there is neither a request line nor `:method` and `:path`".to_owned());
        };
        text.extend([*method, b" ", *path].concat());
    } else {
        text.extend(first);
        head.remove(0);
    }
    text.extend(b" HTTP/1.1\r\n");
    let is_host = |text: &[u8]| split(text, b':').0.eq_ignore_ascii_case(b"host");
    if let Some((_, host)) = field(b"authority")
        && !head.iter().any(|(text, _)| is_host(text))
    {
        text.extend([b"host: ", *host, b"\r\n"].concat());
    }
    for (_, line) in head {
        text.extend(line);
    }
    text.extend(rest);
    Ok(Cow::Owned(text))
}

fn is_request_line(text: &[u8]) -> bool {
    split_last(text).1.starts_with(b"HTTP/")
}

fn split(text: &[u8], at: u8) -> (&[u8], &[u8]) {
    match text.iter().position(|byte| *byte == at) {
        Some(end) => (&text[..end], &text[end + 1..]),
        None => (text, b""),
    }
}

fn split_last(text: &[u8]) -> (&[u8], &[u8]) {
    match text.iter().rposition(|byte| *byte == b' ') {
        Some(end) => (&text[..end], &text[end + 1..]),
        None => (text, b""),
    }
}

/// Removes bytes that an editor or another tool added after the body. Returns a note about removed bytes, about missing
/// bytes, or about a body in chunks.
fn truncate_body(parts: &Parts, body: &mut Vec<u8>) -> Option<String> {
    if parts.headers.contains_key(header::TRANSFER_ENCODING) {
        return Some(
            "the body was sent in chunks; save it without the sizes of the chunks".to_owned(),
        );
    }
    let announced = parts.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?;
    let announced: usize = announced.parse().ok()?;
    if announced > body.len() {
        let length = body.len();
        return Some(format!(
            "the body has {length} of {announced} bytes; save it whole"
        ));
    }
    let goes_on = announced < body.len();
    body.truncate(announced);
    goes_on.then(|| format!("bytes after the {announced} bytes of the body are ignored"))
}

const MAX_HEADERS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = "content-type: application/json\r\n\r\n{\"a\": \"HTTP/2\"}\n:b: c\n";

    fn read(text: &str) -> Result<String, String> {
        let (parts, body) = parse(text.as_bytes())?;
        let host = parts.headers.get("host").map(|host| host.to_str());
        let host = host.and_then(Result::ok).unwrap_or_default();
        assert_eq!(
            parts.headers.get("content-type").unwrap(),
            "application/json"
        );
        assert_eq!(body, REST.split_once("\r\n\r\n").unwrap().1.as_bytes());
        Ok(format!("{} {} {host}", parts.method, parts.uri))
    }

    #[test]
    fn a_request_of_any_version_of_http_is_read() {
        for version in [
            "HTTP/1.1", "HTTP/1.0", "HTTP/2", "HTTP/2.0", "HTTP/3", "HTTP/3.0",
        ] {
            let text = format!("POST /webhooks?a=b {version}\r\nHost: a.example\r\n{REST}");
            let expected = Ok("POST /webhooks?a=b a.example".to_owned());
            assert_eq!(read(&text), expected, "{version}");
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let text = head.replace("\r\n", "\n") + "\n\n" + body;
            assert_eq!(read(&text), expected, "{version}");
        }
    }

    #[test]
    fn pseudo_header_fields_replace_the_request_line_and_the_host() {
        let fields =
            ":method: POST\r\n:path: /webhooks\r\n:scheme: https\r\n:authority: a.example\r\n";
        let line = "POST /webhooks HTTP/2\r\n";
        let expected = Ok("POST /webhooks a.example".to_owned());
        assert_eq!(read(&format!("{fields}{REST}")), expected);
        assert_eq!(read(&format!("{line}{fields}{REST}")), expected);
        assert_eq!(
            read(&format!(
                "{line}:authority: b.example\nhost: a.example\n{REST}"
            )),
            expected
        );
        assert_eq!(
            read(&format!("{}{REST}", fields.replace("\r\n", "\n"))),
            expected
        );
    }

    #[test]
    fn a_file_without_a_request_is_rejected_with_a_reason() {
        for (text, reason) in [
            ("", "end with an empty line"),
            (
                "POST /webhooks HTTP/2\r\nhost: a.example\r\n",
                "end with an empty line",
            ),
            ("POST /webhooks HTTP/4\r\n\r\n", "version"),
            (":authority: a.example\r\n\r\n", "`:method` and `:path`"),
            (":method\r\n\r\n", "`:method` and `:path`"),
            ("POST /webhooks\r\n\r\n", ""),
            ("POST /webhooks HTTP/2\r\n\r\n", "no headers"),
        ] {
            let error = parse(text.as_bytes()).map(|_| ()).unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }
}
