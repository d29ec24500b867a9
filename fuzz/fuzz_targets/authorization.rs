//! Fuzz target for the parser of `Authorization`. The parser accepts only one spelling of each digest.

#![no_main]

use base64::{Engine, engine::general_purpose::STANDARD};
use callback_source::fuzzing::parse_authorization;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &[u8]| {
    if let Ok(digest) = parse_authorization(value) {
        let canonical = format!(
            "HMAC-SHA256 SignedHeaders=x-ms-date;host;x-ms-content-sha256&Signature={}",
            STANDARD.encode(digest)
        );
        assert_eq!(value, canonical.as_bytes());
    }
});
