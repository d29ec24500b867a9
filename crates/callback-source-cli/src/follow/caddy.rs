//! `caddy`: a matcher to import into a site.

use super::content::{Content, Format, at_least_nothing};
use crate::args::plain;

pub(super) struct Caddy;

impl Format for Caddy {
    fn write(&self, content: &Content) -> String {
        let members = at_least_nothing(&content.members);
        let members: Vec<_> = members.into_iter().map(plain).collect();
        let header = content.header();
        format!("{header}@callback_source remote_ip {}\n", members.join(" "))
    }
}
