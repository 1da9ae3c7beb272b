//! Listing sessions. Each subject has a sorted set of its sessions by last activity, to within a
//! minute. It is advisory: every entry is looked up before it is told, and all of it can be rebuilt by a
//! scan.
//!
//! Only subjects have one. A set of a tenant's sessions, or of all, would be one key that every
//! append of a whole Cluster writes to; those scopes, and sessions without a subject, are scanned
//! for: work for an operator, not for a request.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::time::{Duration, UNIX_EPOCH};

use futures_util::future::join_all;
use redis::Value;

use super::NOTED;
use super::codec::{Header, bytes};
use super::failure::Failure;
use super::link::{Request, unexpected};
use super::script::Call;
use super::store::{RedisStore, optional};
use crate::key::{Scope, SessionKey, Subject};
use crate::store::{Cursor, Page, SessionEntry, SessionPage, unix_millis};

/// Sessions that are looked up at once, and keys that a step of a scan goes over.
const CHUNK: usize = 200;

/// Where a session stands in a listing: the newest first, ties by key.
type Place = (u64, String);

impl RedisStore {
    pub(super) async fn list_now(&self, scope: &Scope, page: &Page) -> Result<SessionPage, Failure> {
        let after = page.after.as_ref().and_then(|cursor| cursor.0.split_once(' '));
        let after: Option<Place> = after.and_then(|(at, key)| Some((at.parse().ok()?, key.to_owned())));
        let mut entries = match &scope.subject {
            Some(subject) => self.list_subject(subject, scope, page.limit.saturating_add(1), after.as_ref()).await?,
            None => {
                let mut all = self.scan(scope).await?;
                all.retain(|entry| after.as_ref().is_none_or(|after| place(entry) < *after));
                all.sort_by_cached_key(|entry| Reverse(place(entry)));
                all
            }
        };
        let more = entries.len() > page.limit;
        entries.truncate(page.limit);
        let next = entries.last().filter(|_| more).map(|last| {
            let (at, key) = place(last);
            Cursor(format!("{at} {key}"))
        });
        Ok(SessionPage::new(entries, next))
    }

    async fn list_subject(
        &self,
        subject: &Subject,
        scope: &Scope,
        limit: usize,
        after: Option<&Place>,
    ) -> Result<Vec<SessionEntry>, Failure> {
        let index = self.names.index(subject);
        let mut newest = after.map_or_else(|| "+inf".to_owned(), |(at, _)| at.to_string());
        let (mut entries, mut wrong, mut seen, mut ties) = (Vec::new(), Vec::new(), HashSet::new(), 0);
        loop {
            // From a score on, not from a place: whoever is noted or deleted meanwhile moves the places.
            let room = CHUNK + ties;
            let mut command = redis::cmd("ZREVRANGEBYSCORE");
            command.arg(&index).arg(&newest).arg("-inf").arg("WITHSCORES").arg("LIMIT").arg(0).arg(room);
            let members = members(self.servers.call(&index, &Request::new(command)).await?.value)?;
            if seen.is_empty() && members.is_empty() && self.rebuild_once().await? {
                return Box::pin(self.list_subject(subject, scope, limit, after)).await;
            }
            let last = members.len() < room;
            let lowest = members.last().map_or(0, |(_, at)| *at);
            ties = members.iter().filter(|(_, at)| *at == lowest).count();
            newest = lowest.to_string();
            let (keys, scores): (Vec<_>, Vec<_>) =
                members.into_iter().filter(|(key, _)| seen.insert(key.clone())).unzip();
            for ((key, noted), entry) in keys.iter().zip(scores).zip(self.look_up(&keys).await?) {
                let Some(mut entry) = entry else {
                    wrong.push((key.clone(), noted, None));
                    continue;
                };
                // The minute in which the index may lag behind is made good; more is mended for the next
                // listing, so that whoever reads page by page finds every session in its place.
                let (at, latest) = (unix_millis(entry.last_active), noted.saturating_add(NOTED));
                if !(noted..=latest).contains(&at) {
                    wrong.push((key.clone(), noted, Some(at)));
                }
                entry.last_active = UNIX_EPOCH + Duration::from_millis(at.clamp(noted, latest));
                if scope.contains(key) && after.is_none_or(|after| place(&entry) < *after) {
                    entries.push(entry);
                }
            }
            let settled = entries.iter().filter(|entry| place(entry).0 > lowest.saturating_add(NOTED)).count();
            if last || settled >= limit {
                break;
            }
        }
        self.mend(&index, &wrong).await;
        entries.sort_by_cached_key(|entry| Reverse(place(entry)));
        Ok(entries)
    }

    /// The header of each session, `None` where there is none alive.
    async fn look_up(&self, keys: &[SessionKey]) -> Result<Vec<Option<SessionEntry>>, Failure> {
        let look_up = |key: &SessionKey| {
            let name = self.names.session(key);
            let key = key.clone();
            async move {
                let mut command = redis::cmd("LINDEX");
                command.arg(&name).arg(-1);
                let header = match self.servers.call(&name, &Request::new(command)).await {
                    Ok(reply) => reply.value,
                    // Somebody else's value under our name: not a session.
                    Err(failure) if failure.code() == Some("WRONGTYPE") => return Ok(None),
                    Err(failure) => return Err(failure),
                };
                let Value::BulkString(header) = header else { return Ok(None) };
                let header = Header::parse(&header).ok().filter(|header| header.turns > 0);
                Ok(header.map(|header| SessionEntry::new(key, header.head(), header.last_active())))
            }
        };
        join_all(keys.iter().map(look_up)).await.into_iter().collect()
    }

    /// Takes sessions that are no more out of an index, and puts others in their places, unless they were
    /// noted meanwhile.
    async fn mend(&self, index: &[u8], wrong: &[(SessionKey, u64, Option<u64>)]) {
        for some in wrong.chunks(CHUNK) {
            let call = Call { script: &self.scripts.mend, keys: &[index], confirm: None, size: 64 * some.len() };
            let mended = call.run(&self.servers, |command| {
                for (key, noted, at) in some {
                    command.arg(key.encoded()).arg(noted).arg(optional(*at));
                }
            });
            // They stay wrong: whoever lists next tries again.
            if let Err(failure) = mended.await {
                tracing::debug!(error = %failure, "an index was not mended");
            }
        }
    }

    /// All live sessions of a scope, in no order.
    async fn scan(&self, scope: &Scope) -> Result<Vec<SessionEntry>, Failure> {
        let pattern = self.names.sessions();
        let mut entries = Vec::new();
        for master in self.servers.masters() {
            let mut cursor = b"0".to_vec();
            loop {
                let mut command = redis::cmd("SCAN");
                command.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(CHUNK).arg("TYPE").arg("list");
                let Value::Array(answer) = master.call(&Request::new(command)).await?.value else {
                    return Err(unexpected("SCAN"));
                };
                let [next, Value::Array(names)] = <[Value; 2]>::try_from(answer).map_err(|_| unexpected("SCAN"))?
                else {
                    return Err(unexpected("SCAN"));
                };
                let names = names.into_iter().filter_map(|name| bytes(name).ok());
                let keys: Vec<_> = names.filter_map(|name| self.names.session_of(&name)).collect();
                let keys: Vec<_> = keys.into_iter().filter(|key| scope.contains(key)).collect();
                entries.extend(self.look_up(&keys).await?.into_iter().flatten());
                cursor = bytes(next)?;
                if cursor == b"0" {
                    break;
                }
            }
        }
        // A scan may show a key twice while its table grows.
        entries.sort_by(|a: &SessionEntry, b| a.key.cmp(&b.key));
        entries.dedup_by(|a, b| a.key == b.key);
        Ok(entries)
    }

    /// Rebuilds the indexes if that was never done here, such as after the data was moved without
    /// them. Says whether it did.
    async fn rebuild_once(&self) -> Result<bool, Failure> {
        let marker = self.names.indexed();
        let mut command = redis::cmd("SET");
        // Taken first, so that of many that ask at once one does the work; another, if that one is given up.
        command.arg(&marker).arg(1).arg("NX").arg("PX").arg(NOTED);
        if matches!(self.servers.call(&marker, &Request::new(command)).await?.value, Value::Nil) {
            return Ok(false);
        }
        for entry in self.scan(&Scope::all()).await? {
            let Some(subject) = entry.key.subject() else { continue };
            let index = self.names.index(subject);
            let mut command = redis::cmd("ZADD");
            command.arg(&index).arg("NX").arg(unix_millis(entry.last_active)).arg(entry.key.encoded());
            self.servers.call(&index, &Request::new(command)).await?;
        }
        let mut command = redis::cmd("SET");
        command.arg(&marker).arg(1);
        self.servers.call(&marker, &Request::new(command)).await?;
        Ok(true)
    }
}

/// Reads keys with their scores, which RESP2 gives in turns and RESP3 in pairs.
fn members(value: Value) -> Result<Vec<(SessionKey, u64)>, Failure> {
    let members: Vec<(String, f64)> = redis::from_redis_value(value).map_err(|_| unexpected("ZREVRANGEBYSCORE"))?;
    let member = |(key, at): (String, f64)| {
        let key = SessionKey::decode(&key).ok()?;
        Some((key, at as u64))
    };
    let members: Option<Vec<_>> = members.into_iter().map(member).collect();
    members.ok_or(Failure::Unreadable("an index names something else than a session"))
}

fn place(entry: &SessionEntry) -> Place {
    let at = entry.last_active.duration_since(UNIX_EPOCH).unwrap_or_default();
    (at.as_millis() as u64, entry.key.encoded().to_owned())
}
