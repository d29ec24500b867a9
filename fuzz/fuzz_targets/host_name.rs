//! Fuzz target for the parser of host names. For any text, the result is a host name in its normal form, or an error
//! that is safe to log.

#![no_main]

use std::net::IpAddr;

use callback_source::HostName;
use hickory_proto::rr::Name;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match text.parse::<HostName>() {
        Ok(host) => {
            let name = host.as_str();
            assert!(name.len() <= 253 && name.contains('.') && !name.ends_with('.'));
            assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase()));
            assert!(name.parse::<IpAddr>().is_err());
            assert!(text.trim_end_matches('.').eq_ignore_ascii_case(name));
            assert_eq!(name.parse(), Ok(host.clone()));
            let in_dns = Name::from_ascii(name).expect("a host name is a domain name");
            assert_eq!(in_dns.to_ascii(), name);
        }
        Err(error) => {
            let shown = error.to_string();
            assert!(shown.len() < 1_200 && !shown.chars().any(char::is_control));
        }
    }
});
