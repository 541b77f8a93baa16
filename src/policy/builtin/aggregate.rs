use super::Aggregate;
pub(super) fn aggregate(_function: u32) -> Option<&'static Aggregate> { None }
