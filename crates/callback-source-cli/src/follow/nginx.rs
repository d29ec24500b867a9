//! `nginx-geo` and `nginx-allow`: lines for a `geo` block, and `allow` rules.

use super::content::{Content, Format};
use crate::args::plain;

/// Lines for a `geo` block, with the value 1.
pub(super) struct Geo;

impl Format for Geo {
    fn write(&self, content: &Content) -> String {
        content.header() + &content.lines(|network| format!("{} 1;", plain(network)))
    }
}

/// `allow` for each member, and `deny` for everything else.
pub(super) struct Allow;

impl Format for Allow {
    fn write(&self, content: &Content) -> String {
        let allow = content.lines(|network| format!("allow {};", plain(network)));
        // `deny all` is part of the file, so that a configuration without its own `deny all` does not admit everyone.
        content.header() + &allow + "deny all;\n"
    }
}
