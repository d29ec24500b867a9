//! JSON format of the log.
//!
//! `tracing` records a list as text, which a program that reads the log would have to parse again. The known list
//! fields of the library and the command are therefore turned into arrays after the line has been formatted. Lines
//! without such fields are not changed.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent,
        format::{Format, Json, JsonFields, Writer},
    },
    registry::LookupSpan,
};

/// JSON format of `tracing-subscriber`, with the known lists as arrays of strings. `tracing` has no stable way to
/// record a list.
pub(super) struct ListsAsArrays(Format<Json>);

impl ListsAsArrays {
    pub(super) fn new() -> Self {
        Self(Format::default().json().flatten_event(true))
    }
}

impl<S> FormatEvent<S, JsonFields> for ListsAsArrays
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let has_list = LIST_FIELDS
            .iter()
            .any(|list| metadata.fields().field(list).is_some());
        if !has_list || !metadata.target().starts_with("callback_source") {
            return self.0.format_event(context, writer, event);
        }
        let mut text = String::new();
        self.0
            .format_event(context, Writer::new(&mut text), event)?;
        let Ok(mut line) = serde_json::from_str::<serde_json::Map<_, _>>(&text) else {
            return writer.write_str(&text);
        };
        for list in LIST_FIELDS {
            if let Some(value) = line.get_mut(list)
                && let Some(text) = value.as_str()
            {
                *value = array(text);
            }
        }
        writeln!(writer, "{}", serde_json::Value::from(line))
    }
}

/// Elements of a list that was recorded as `[a, b]` or `a,b`. Neither addresses nor host names contain
/// commas.
fn array(text: &str) -> serde_json::Value {
    let inner = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let elements = inner.unwrap_or(text).split(',').map(str::trim);
    elements.filter(|element| !element.is_empty()).collect()
}

/// Fields with lists as values, in events of the library and the command.
const LIST_FIELDS: [&str; 9] = [
    "added",
    "addresses",
    "changed",
    "dns_servers",
    "hosts",
    "networks",
    "removed",
    "servers",
    "trusted_proxies",
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_is_split_into_its_elements() {
        for (text, list) in [
            ("[]", json!([])),
            ("", json!([])),
            ("[192.0.2.1]", json!(["192.0.2.1"])),
            (
                "[192.0.2.1, 2001:db8::1]",
                json!(["192.0.2.1", "2001:db8::1"]),
            ),
            (
                "[192.0.2.1:53, [2001:db8::1]:53]",
                json!(["192.0.2.1:53", "[2001:db8::1]:53"]),
            ),
            ("[[2001:db8::1]:53]", json!(["[2001:db8::1]:53"])),
            (
                "one.example,two.example",
                json!(["one.example", "two.example"]),
            ),
        ] {
            assert_eq!(array(text), list, "{text}");
        }
    }
}
