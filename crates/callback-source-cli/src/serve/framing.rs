//! Detection of the end of a request in the bytes of an HTTP/1 connection.
//!
//! Only the time limits depend on this module. The meaning of a request does not, because hyper parses the same bytes.
//! Bytes that are not HTTP/1 may be attributed to the wrong part here. hyper then ends the connection.

/// Part of a request that contains the next byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestPart {
    Head {
        /// `true` after the first byte of the head. Line breaks may precede this byte.
        begun: bool,
        line: Line,
    },
    Body {
        left: u64,
    },
    Chunks(Chunk),
}

/// State of the line that is being read, in a head or in trailers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    /// `true` if the line contains a byte other than its line break.
    has_text: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    Size { size: u64, in_digits: bool },
    Data { left: u64 },
    LineBreak,
    Trailers(Line),
}

impl Default for RequestPart {
    fn default() -> Self {
        Self::Head {
            begun: false,
            line: Line::default(),
        }
    }
}

impl RequestPart {
    /// Returns the part after a head. `length` is `None` for a body in chunks.
    pub(super) fn body(length: Option<u64>) -> Self {
        match length {
            Some(0) => Self::default(),
            Some(left) => Self::Body { left },
            None => Self::Chunks(Chunk::START),
        }
    }

    pub(super) fn is_head(&self) -> bool {
        matches!(self, Self::Head { .. })
    }

    /// Advances by these bytes, but not beyond the end of the current part. Returns how many of the bytes are in this
    /// part.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let left = match self {
                Self::Body { left } | Self::Chunks(Chunk::Data { left }) => Some(left),
                Self::Head { .. } | Self::Chunks(_) => None,
            };
            let ends = match left {
                Some(left) => {
                    let there = u64::try_from(bytes.len() - at).unwrap_or(u64::MAX);
                    let length = there.min(*left);
                    *left -= length;
                    at += usize::try_from(length).unwrap_or(usize::MAX);
                    *left == 0 && self.data_ended()
                }
                None => {
                    at += 1;
                    self.byte(bytes[at - 1])
                }
            };
            if ends {
                *self = Self::default();
                return at;
            }
        }
        at
    }

    /// Ends the data of a body or a chunk, and returns whether the request has ended.
    fn data_ended(&mut self) -> bool {
        match self {
            Self::Chunks(chunk) => {
                *chunk = Chunk::LineBreak;
                false
            }
            Self::Head { .. } | Self::Body { .. } => true,
        }
    }

    /// Returns whether this byte ends the head or the chunks.
    fn byte(&mut self, byte: u8) -> bool {
        match self {
            Self::Head { begun, line } => {
                let empty = line.ends_empty(byte);
                *begun |= line.has_text;
                *begun && empty
            }
            Self::Chunks(chunk) => chunk.byte(byte),
            Self::Body { .. } => false,
        }
    }
}

impl Line {
    /// Returns whether this byte ends an empty line.
    fn ends_empty(&mut self, byte: u8) -> bool {
        match byte {
            b'\n' => !std::mem::take(&mut self.has_text),
            b'\r' => false,
            _ => {
                self.has_text = true;
                false
            }
        }
    }
}

impl Chunk {
    const START: Self = Self::Size {
        size: 0,
        in_digits: true,
    };

    /// Returns whether this byte ends the trailers after the last chunk.
    fn byte(&mut self, byte: u8) -> bool {
        match self {
            Self::Size { size, in_digits } => match (byte, char::from(byte).to_digit(16)) {
                (b'\n', _) => {
                    *self = match *size {
                        0 => Self::Trailers(Line::default()),
                        left => Self::Data { left },
                    };
                }
                (_, Some(digit)) if *in_digits => {
                    *size = size.saturating_mul(16).saturating_add(digit.into());
                }
                _ => *in_digits = false,
            },
            Self::LineBreak if byte == b'\n' => *self = Self::START,
            Self::LineBreak | Self::Data { .. } => {}
            Self::Trailers(line) => return line.ends_empty(byte),
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asserts, for pieces of several lengths, that exactly the first `end` bytes are in the part.
    #[track_caller]
    fn ends(next_part: RequestPart, bytes: &str, end: usize) {
        for piece in [1, 2, 3, 7, bytes.len().max(1)] {
            let mut state = next_part;
            let mut total = 0;
            for bytes in bytes.as_bytes().chunks(piece) {
                let length = state.advance(bytes);
                total += length;
                if length < bytes.len() || (total == end && state == RequestPart::default()) {
                    break;
                }
            }
            assert_eq!(total, end, "{bytes:?} in pieces of {piece}");
        }
    }

    #[test]
    fn a_head_ends_with_its_first_empty_line() {
        for head in [
            "GET / HTTP/1.1\r\nhost: x\r\n\r\n",
            "GET / HTTP/1.1\nhost: x\n\n",
            "GET / HTTP/1.1\r\n\n",
            "\r\n\r\n\nGET / HTTP/1.0\r\n\r\n",
        ] {
            for rest in ["", "G", "\r\n", "GET / HTTP/1.1\r\n\r\n"] {
                ends(RequestPart::default(), &format!("{head}{rest}"), head.len());
            }
        }
        let half = "GET / HTTP/1.1\r\nhost: x\r\n\r";
        ends(RequestPart::default(), half, half.len());
    }

    #[test]
    fn a_body_ends_after_its_length() {
        ends(RequestPart::body(Some(4)), "\r\n\r\nGET", 4);
        ends(RequestPart::body(Some(4)), "abc", 3);
        assert_eq!(RequestPart::body(Some(0)), RequestPart::default());
    }

    #[test]
    fn chunks_end_after_the_trailers_of_the_last_one() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "5;x=\"a\"\r\n\r\n\r\n0\r\n0\r\n\r\n",
            "A\r\n0\r\n\r\n0\r\n\r\n\r\n000\r\n\r\n",
            "1\nx\n0\n\n",
            "2\r\n{}\r\n0\r\nx: y\r\nz: 1\r\n\r\n",
        ] {
            for rest in ["", "G", "\r\n", "GET / HTTP/1.1\r\n\r\n"] {
                ends(
                    RequestPart::body(None),
                    &format!("{body}{rest}"),
                    body.len(),
                );
            }
        }
        ends(RequestPart::body(None), "ffffffffffffffffffffffff\r\nx", 27);
    }
}
