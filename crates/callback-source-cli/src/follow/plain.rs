//! `plain`: an address or network a line.

use super::content::{Content, Format};
use crate::args::plain;

pub(super) struct Plain;

impl Format for Plain {
    fn write(&self, content: &Content) -> String {
        content.header() + &content.lines(plain)
    }
}
