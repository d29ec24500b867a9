//! `traefik`: a middleware for Traefik's file provider, which reloads a changed file by itself.

use super::content::{Content, Format, at_least_nothing};

pub(super) struct Traefik;

impl Format for Traefik {
    fn write(&self, content: &Content) -> String {
        let mut text = content.header()
            + "http:\n  middlewares:\n    callback-source:\n      ipAllowList:\n        sourceRange:\n";
        for network in at_least_nothing(&content.members) {
            text.push_str(&format!("          - \"{network}\"\n"));
        }
        text
    }
}
