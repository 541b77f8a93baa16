//! Which subscriptions a change concerns: table, action, filter.
//!
//! A [`Binding`] is what a join asked for; a subscription is what is kept of it once the database has agreed to it.

mod binding;

pub use binding::{Binding, BindingError, Event, RequestedBinding};
