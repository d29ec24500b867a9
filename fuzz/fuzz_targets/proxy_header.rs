//! Whatever opens a connection, what is read of it is what its bytes say, and more bytes change
//! nothing.

#![no_main]

use callback_source::verify::proxy_protocol::Header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = Header::parse(bytes);
    if let Ok(Some(header)) = &whole {
        assert!(header.length() <= bytes.len(), "it reads past the end");
        let exact = Header::parse(&bytes[..header.length()]);
        assert_eq!(
            exact.as_ref(),
            Ok(&Some(header.clone())),
            "what follows counts"
        );
        if let Some(client) = header.client() {
            assert!(!client.ip().is_unspecified() && !client.ip().is_multicast());
        }
    }
    // A part of it either waits for more or has the same end.
    for len in [0, 1, 5, 12, 13, 16, 28, 52, 107, bytes.len() / 2] {
        let Some(part) = bytes.get(..len) else {
            continue;
        };
        match Header::parse(part) {
            Ok(None) => {}
            early => assert_eq!(early, whole, "{len} bytes decided otherwise"),
        }
    }
});
