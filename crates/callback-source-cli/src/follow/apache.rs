//! `apache-rewritemap`: a map of the type `txt`, which Apache reads again when the file's modification time changes.

use ipnet::IpNet;

use super::content::{Content, Format};
use crate::args::plain;

pub(super) struct RewriteMap;

impl Format for RewriteMap {
    fn write(&self, content: &Content) -> String {
        content.header() + &content.lines(|network| format!("{} allow", plain(network)))
    }

    fn obstacle(&self, network: IpNet) -> Option<&'static str> {
        let is_address = network.prefix_len() == network.max_prefix_len();
        (!is_address).then_some("the keys of a RewriteMap are single addresses; admit this network with a condition of its own")
    }
}
