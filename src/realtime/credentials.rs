//! The token of one channel: which is in force, which is held, and when it ends (protocol.md §7.4).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::auth::Claims;

use super::input::Now;

/// Within this time of a token refresh further ones are held.
const REFRESH_WINDOW: Duration = Duration::from_secs(10);
/// A token's expiry is looked at no later than this after the last time: the wall clock may be set (protocol.md §2.6).
const RECHECK: Duration = Duration::from_secs(300);

/// A token that was verified, and what may take its place.
#[derive(Debug)]
pub(super) struct Credentials {
    token: Arc<str>,
    claims: Arc<Claims>,
    /// When the expiry is looked at next; `None` for keys that do not expire.
    recheck: Option<Instant>,
    /// Refreshes are held until then.
    window: Option<Instant>,
    /// The newest token that is held; not verified.
    held: Option<Arc<str>>,
}

impl Credentials {
    pub(super) fn new(now: Now, token: Arc<str>, claims: Arc<Claims>) -> Self {
        let mut credentials = Self {
            token,
            claims,
            recheck: None,
            window: None,
            held: None,
        };
        credentials.plan_recheck(now);
        credentials
    }

    pub(super) fn token(&self) -> &Arc<str> {
        &self.token
    }

    pub(super) fn claims(&self) -> &Arc<Claims> {
        &self.claims
    }

    /// A client brings a token; returned if it is to be verified now.
    pub(super) fn offer(&mut self, now: Instant, token: String) -> Option<Arc<str>> {
        if *token == *self.token {
            // The newest token is the one in force: what was held is out of date.
            self.held = None;
            return None;
        }
        if self.window.is_some_and(|end| now < end) {
            self.held = Some(token.into());
            return None;
        }
        Some(token.into())
    }

    /// The held token, once its time has come.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Arc<str>> {
        if self.window.is_none_or(|end| now < end) {
            return None;
        }
        self.window = None;
        self.held.take()
    }

    /// The held token, before its time: the one in force has ended.
    pub(super) fn take_held(&mut self) -> Option<Arc<str>> {
        self.held.take()
    }

    /// A token was verified and takes over.
    pub(super) fn replace(&mut self, now: Now, token: Arc<str>, claims: Arc<Claims>) {
        self.token = token;
        self.claims = claims;
        self.window = Some(now.instant + REFRESH_WINDOW);
        self.plan_recheck(now);
    }

    /// How many seconds ago the token expired, if it has.
    pub(super) fn expired(&self, now: Now) -> Option<i64> {
        let expires_at = self.claims.expires_at?;
        (expires_at <= now.unix).then(|| now.unix.saturating_sub(expires_at))
    }

    /// [`Self::expired`], if it is time to look.
    pub(super) fn recheck(&mut self, now: Now) -> Option<i64> {
        if self.recheck.is_none_or(|at| now.instant < at) {
            return None;
        }
        self.plan_recheck(now);
        self.expired(now)
    }

    /// When [`Self::take_due`] or [`Self::recheck`] has something to say.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        [self.window, self.recheck].into_iter().flatten().min()
    }

    fn plan_recheck(&mut self, now: Now) {
        self.recheck = self.claims.expires_at.map(|expires_at| {
            let left = u64::try_from(expires_at.saturating_sub(now.unix)).unwrap_or(0);
            now.instant + Duration::from_secs(left).min(RECHECK)
        });
    }
}
