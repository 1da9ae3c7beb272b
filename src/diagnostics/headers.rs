//! The response headers for debugging.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::instance;
use crate::key::SessionHash;
use crate::store::{Location, StoreInfo};
use crate::turn::Head;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const SESSION_MEMORY: HeaderName = HeaderName::from_static("x-session-memory");

/// What the headers say of one request.
pub(crate) struct Report {
    pub(crate) info: StoreInfo,
    pub(crate) session: SessionHash,
    /// Turns that were loaded, and the head they were read at; `None` when they could not be.
    pub(crate) loaded: Option<(usize, Head)>,
    pub(crate) load: Duration,
    /// `None` when the commit comes later than the head.
    pub(crate) commit: Option<Duration>,
}

impl Report {
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        let Self { info, session, loaded, load, commit } = self;
        let millis = |time: &Duration| time.as_secs_f64() * 1_000.0;
        let mut timing = format!("session-load;dur={:.3}", millis(load));
        if let Some(commit) = commit {
            timing += &format!(", session-commit;dur={:.3}", millis(commit));
        }
        let (turns, head) = match loaded {
            Some((turns, head)) => (turns.to_string(), format!("{}.{}", head.epoch, head.sequence)),
            None => ("unknown".to_owned(), "unknown".to_owned()),
        };
        let location = info.location.as_ref().map_or_else(|| "none".to_owned(), Location::fingerprint);
        let memory = format!(
            "store={}; shared={}; location={location}; instance={}; turns={turns}; head={head}; session={session}",
            info.name,
            info.sharing.as_str(),
            instance(),
        );
        // Another layer's timings stand beside these.
        for (name, text) in [(SERVER_TIMING, timing), (SESSION_MEMORY, memory)] {
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.append(name, value);
            }
        }
    }
}
