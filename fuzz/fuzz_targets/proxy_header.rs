//! Fuzz target for the parser of the PROXY protocol header. The result depends only on the bytes of the header, not on
//! the bytes after it.

#![no_main]

use callback_source::verify::proxy_protocol::Header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = Header::parse(bytes);
    if let Ok(Some(header)) = &whole {
        assert!(
            header.length() <= bytes.len(),
            "the header reads past the end"
        );
        let exact = Header::parse(&bytes[..header.length()]);
        assert_eq!(
            exact.as_ref(),
            Ok(&Some(header.clone())),
            "the bytes that follow change the result"
        );
        if let Some(client) = header.client() {
            assert!(!client.ip().is_unspecified() && !client.ip().is_multicast());
        }
    }
    // For a prefix of the input, the parser either needs more bytes or returns the same result.
    for len in [0, 1, 5, 12, 13, 16, 28, 52, 107, bytes.len() / 2] {
        let Some(part) = bytes.get(..len) else {
            continue;
        };
        match Header::parse(part) {
            Ok(None) => {}
            early => assert_eq!(early, whole, "the first {len} bytes give another result"),
        }
    }
});
