use super::Builtin;
pub(super) fn scalar(_function: u32) -> Option<&'static Builtin> { None }
