//! `plain`: one address or network per line.

use super::content::{Content, Format};
use crate::args::plain;

pub(super) struct Plain;

impl Format for Plain {
    fn write(&self, content: &Content) -> String {
        content.header() + &content.lines(plain)
    }
}
