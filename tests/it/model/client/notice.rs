//! What the broker itself says in a stream.

use serde_json::Value;

use crate::harness::parser::Block;

/// The data of a block of the broker's own.
#[derive(Debug)]
pub(super) struct Notice(Value);

impl Notice {
    pub(super) fn read(block: &Block) -> Result<Self, String> {
        serde_json::from_str(&block.data).map(Self).map_err(|error| format!("{block:?}: {error}"))
    }

    pub(super) fn text(&self, field: &str) -> Result<&str, String> {
        self.0[field].as_str().ok_or_else(|| format!("no {field} in {self:?}"))
    }
}
