//! What sockets report, into the metrics.

use crate::metrics::{Code, Metrics, Outcome};
use crate::realtime::Tally;

/// A socket was closed by us.
pub(super) fn closed(metrics: &Metrics, code: u16) {
    let label = Code {
        code: close_label(code),
    };
    metrics.connections_closed.get_or_create(&label).inc();
}

fn close_label(code: u16) -> &'static str {
    match code {
        1000 => "1000",
        1001 => "1001",
        1002 => "1002",
        1007 => "1007",
        1009 => "1009",
        1012 => "1012",
        1013 => "1013",
        _ => "other",
    }
}

/// Something that a socket counts.
pub(super) fn tally(metrics: &Metrics, tally: Tally) {
    let joined = |result| {
        let outcome = Outcome { result };
        metrics.channel_joined.get_or_create(&outcome).inc();
    };
    let error = |code| {
        let code = Code { code };
        metrics.channel_errors.get_or_create(&code).inc();
    };
    match tally {
        Tally::Joined => {
            metrics.channel_joins.inc();
            joined("ok");
        }
        Tally::JoinRefused(code) => {
            joined("error");
            error(code);
        }
        Tally::SystemError(code) => error(code),
        // The pipeline counts them by reason.
        Tally::Resync => {}
        Tally::Changes(count) => {
            let count = u64::try_from(count).unwrap_or(u64::MAX);
            metrics.channel_db_events.inc_by(count);
        }
        Tally::Message => metrics.channel_events.inc(),
    }
}
