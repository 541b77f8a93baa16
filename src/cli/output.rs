//! What commands say on standard output: one line per object, and below it the SQL that mends it.
//!
//! Write errors are ignored: whoever reads has gone away, and the exit code still tells.

use std::error::Error;
use std::io::Write as _;

use tokio_postgres::error::DbError;

/// What became of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    /// As it should be.
    Fine,
    /// Was there before.
    Found,
    /// Made by this run.
    Created,
    /// Worth knowing, nothing to do.
    Note,
    /// Works, but not as well or as safely as it could.
    Warning,
    /// Does not work.
    Failure,
}

/// One line of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) mark: Mark,
    pub(super) text: String,
    /// What to run, complete; one entry per line.
    pub(super) remedy: Vec<String>,
}

impl Line {
    pub(super) fn new(mark: Mark, text: impl Into<String>) -> Self {
        Self {
            mark,
            text: text.into(),
            remedy: Vec::new(),
        }
    }

    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy.push(remedy.into());
        self
    }

    fn print(&self) -> String {
        let mark = match self.mark {
            Mark::Fine => "ok",
            Mark::Found => "found",
            Mark::Created => "created",
            Mark::Note => "note",
            Mark::Warning => "warning",
            Mark::Failure => "FAILED",
        };
        let mut text = format!("{mark:8} {}\n", self.text);
        for remedy in &self.remedy {
            for line in remedy.lines() {
                text.push_str("             ");
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }
}

/// Writes the lines.
pub(super) fn report(lines: &[Line]) {
    for line in lines {
        say(line.print().trim_end());
    }
}

/// Writes one text and a line end.
pub(super) fn say(text: &str) {
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// Writes a problem to standard error.
pub(super) fn complain(text: &str) {
    drop(writeln!(std::io::stderr(), "walcast: {text}"));
}

/// An error with everything that caused it, in one sentence.
pub(super) fn sentence(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        let text = match error.downcast_ref::<DbError>() {
            // Its own text spreads severity, detail and hint over several lines.
            Some(error) => error.message().to_owned(),
            None => error.to_string(),
        };
        // tokio-postgres says no more than this where Postgres said something, which comes next.
        if text != "db error" && !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_carries_its_remedy_below() {
        let line = Line::new(Mark::Failure, "wal_level is replica")
            .remedy("alter system set wal_level = 'logical';");
        assert_eq!(
            line.print(),
            "FAILED   wal_level is replica\n             alter system set wal_level = 'logical';\n"
        );
    }
}
