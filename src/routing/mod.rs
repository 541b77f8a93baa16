//! Which subscriptions a change concerns: table, action, filter.
//!
//! A [`Binding`] is what a join asked for; a [`Subscription`] is what is kept of it once the database has agreed to it
//! ([`resolve()`]). Deciding whether a change passes a filter does no I/O: where walcast cannot be sure to decide as
//! Postgres would, it says so ([`Match::Ask`]).

mod binding;
mod comparison;
mod condition;
mod filter;
mod inspect;
mod interpret;
mod moment;
mod numeric;
mod pattern;
mod resolve;
mod since;
mod sqlstate;
mod subscription;
mod value;

pub use binding::{Binding, BindingError, Event, RequestedBinding};
pub use condition::{Condition, Operator};
pub use filter::{Filter, Match};
pub use resolve::{ResolveError, resolve};
pub use since::{Since, SinceError};
pub use subscription::{Subscription, TableFilter};
