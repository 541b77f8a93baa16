use super::SetReturning;
pub(super) fn set_returning(_function: u32) -> Option<&'static SetReturning> { None }
