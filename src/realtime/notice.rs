//! What the pipeline tells a channel besides changes. Notices keep their place among the changes.

use std::fmt;

/// Something that a channel with bindings is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The bindings are in force: every change that commits after this was sent arrives. Comes once per subscribe,
    /// once per new token, and again when the set of tables behind a binding changes.
    Subscribed,
    /// The bindings can never be served as they are; the text is for the subscriber (protocol.md §4.5). Nothing
    /// further comes for the membership's bindings.
    Refused(String),
    /// Changes may have been lost; the channel must start over (protocol.md §11). Nothing further comes.
    Resync(ResyncReason),
    /// Policies raise or time out for this identity, with this SQLSTATE; its changes of the table are withheld.
    PolicyTrouble(Box<str>),
}

/// Why a channel must start over; the text is part of the wire (protocol.md §11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResyncReason {
    /// The log no longer holds the position.
    PositionGone,
    /// The slot was lost or dropped.
    SlotRecreated,
    /// The database is another one, or on another timeline.
    FailedOver,
    /// A transaction was larger than the spool.
    TransactionTooLarge,
    /// A verdict could not be taken in time.
    VerdictUnknown,
    /// The token was refreshed and held-back changes could not be judged again.
    IdentityChanged,
}

impl fmt::Display for ResyncReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PositionGone => "position no longer retained",
            Self::SlotRecreated => "replication slot was recreated",
            Self::FailedOver => "database failed over",
            Self::TransactionTooLarge => "transaction too large",
            Self::VerdictUnknown => "verdict could not be taken",
            Self::IdentityChanged => "identity changed",
        })
    }
}
