//! Channel names.

use std::fmt;

/// The prefix of every channel topic on the wire.
const PREFIX: &str = "realtime:";

/// A channel topic, `realtime:` and a non-empty sub-topic (protocol.md §2.4).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Box<str>);

/// Why a text names no channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// `realtime:` alone.
    #[error("topic has no name after realtime:")]
    Empty,
    /// Anything that does not begin with `realtime:`.
    #[error("topic does not begin with realtime:")]
    Prefix,
}

impl Topic {
    /// Parses the wire form.
    ///
    /// # Errors
    /// The prefix or the name is missing; the two are answered differently.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        match text.strip_prefix(PREFIX) {
            Some("") => Err(TopicError::Empty),
            Some(_) => Ok(Self(text.into())),
            None => Err(TopicError::Prefix),
        }
    }

    /// The topic of a sub-topic, which is what HTTP requests and rows of `realtime.messages` name; `None` if it is empty.
    #[must_use]
    pub fn of_sub_topic(sub_topic: &str) -> Option<Self> {
        (!sub_topic.is_empty()).then(|| Self(format!("{PREFIX}{sub_topic}").into()))
    }

    /// The wire form, with the prefix.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without the prefix; may itself contain colons.
    #[must_use]
    pub fn sub_topic(&self) -> &str {
        self.0.get(PREFIX.len()..).unwrap_or_default()
    }
}

/// A topic and its privacy class: public and private channels of one name are separate worlds (protocol.md §5.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Room {
    /// The topic.
    pub topic: Topic,
    /// Whether its members joined privately.
    pub private: bool,
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sub_topic_is_all_after_the_first_colon() {
        assert_eq!(Topic::parse("realtime:a:b:c").unwrap().sub_topic(), "a:b:c");
        assert_eq!(Topic::parse("realtime:"), Err(TopicError::Empty));
        assert_eq!(Topic::parse("phoenix"), Err(TopicError::Prefix));
    }
}
