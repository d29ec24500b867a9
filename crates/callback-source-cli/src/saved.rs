//! A request as it was saved.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use http::{HeaderName, HeaderValue, Request, header, request::Parts};

use crate::{Error, output};

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
    if let Some(note) = cut(&parts, &mut body) {
        output::say("note", note);
    }
    Ok((parts, body))
}

fn parse(bytes: &[u8]) -> Result<(Parts, Vec<u8>), String> {
    let mut lines = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut head = httparse::Request::new(&mut lines);
    let length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Err("no empty line ends the headers".to_owned()),
        Err(error) => return Err(error.to_string()),
    };
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

/// Takes off what an editor or a dump put behind the body, and says so.
fn cut(parts: &Parts, body: &mut Vec<u8>) -> Option<String> {
    if parts.headers.contains_key(header::TRANSFER_ENCODING) {
        return Some(
            "the body came in chunks: it has to be saved without their sizes in between".to_owned(),
        );
    }
    let announced = parts.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?;
    let announced: usize = announced.parse().ok()?;
    if announced > body.len() {
        let length = body.len();
        return Some(format!(
            "the body has {length} bytes in place of {announced}: it was not saved whole"
        ));
    }
    let goes_on = announced < body.len();
    body.truncate(announced);
    goes_on.then(|| format!("what stands behind the {announced} bytes of the body does not count"))
}

const MOST_HEADERS: usize = 256;
