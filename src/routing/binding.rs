//! What a join asks for, parsed (protocol.md §4.4).

use serde_json::value::RawValue;

/// One element of a join's `postgres_changes`, parsed but not yet checked against the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Number that the join reply gave it; distinct objects of one channel have distinct ids.
    pub id: u32,
    /// Which actions are delivered.
    pub event: Event,
}

/// The `event` of a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// `*`, or anything that is no action.
    All,
    /// INSERT only.
    Insert,
    /// UPDATE only.
    Update,
    /// DELETE only.
    Delete,
}

/// A binding that can never be served; the text is what the subscriber is told (protocol.md §4.5).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BindingError(pub String);

/// A binding as the join carried it.
#[derive(Clone, Debug)]
pub struct RequestedBinding {
    /// Number that the join reply gives it; never zero.
    pub id: u32,
    /// The JSON object, byte for byte.
    pub json: Box<RawValue>,
}
