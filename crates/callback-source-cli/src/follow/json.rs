//! `json`: a JSON object for scripts.

use serde_json::{Value, json};

use super::content::{Content, Format, MADE_BY};
use crate::args::plain;

pub(super) struct Json;

impl Format for Json {
    fn write(&self, content: &Content) -> String {
        let members = content.members.iter().map(|network| plain(*network).into());
        let (addresses, networks): (Vec<Value>, Vec<Value>) = members
            .partition(|member: &Value| member.as_str().is_none_or(|text| !text.contains('/')));
        let value = json!({
            // A key, because JSON has no comments.
            "made_by": MADE_BY,
            "made_from": content.hosts,
            "made_at": content.times.made_at,
            "good_until": content.times.good_until,
            "kept_until": content.times.kept_until,
            "addresses": addresses,
            "networks": networks,
        });
        format!("{value:#}\n")
    }
}
