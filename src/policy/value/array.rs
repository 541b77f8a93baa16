//! Arrays.

use super::Value;

/// An array: its elements in row-major order and the bounds of its dimensions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Array {
    /// Length and lower bound of each dimension, outermost first; none for an empty array.
    pub dimensions: Box<[(i32, i32)]>,
    /// As many as the product of the lengths.
    pub elements: Box<[Value]>,
}

impl Array {
    /// An array of one dimension that begins at 1; without elements it has no dimension.
    #[must_use]
    pub fn one_dimension(elements: Vec<Value>) -> Self {
        let dimensions = match i32::try_from(elements.len()) {
            Ok(0) | Err(_) => Box::default(),
            Ok(length) => Box::from([(length, 1)]),
        };
        Self {
            dimensions,
            elements: elements.into(),
        }
    }
}
