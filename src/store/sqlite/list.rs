//! Listing sessions, most recently active first.

use std::time::SystemTime;

use rusqlite::{Connection, named_params};

use super::failure::Failure;
use super::session::{head, millis, time, unsigned};
use crate::key::{Scope, SessionKey, Subject, Tenant};
use crate::store::{Cursor, ErrorKind, Page, SessionEntry, SessionPage};

pub(super) fn list(connection: &Connection, scope: &Scope, page: &Page) -> Result<SessionPage, Failure> {
    // A cursor is "millis row": both together are unique, so equal times do not lose entries.
    let start = (i64::MAX, i64::MAX);
    let (before, row_before) = page.after.as_ref().map_or(Some(start), parse).unwrap_or(start);
    let tenant = scope.tenant.as_ref().map(Tenant::encoded);
    let subject = scope.subject.as_ref().map(Subject::encoded);

    let sql = sql(tenant.is_some(), subject.is_some());
    let mut statement = connection.prepare_cached(&sql)?;
    let now = millis(SystemTime::now());
    let most = i64::try_from(page.limit).unwrap_or(i64::MAX).saturating_add(1);
    let mut rows = statement.query(named_params! {
        ":tenant": tenant, ":subject": subject, ":now": now, ":before": before, ":row": row_before, ":most": most,
    })?;
    let mut entries = Vec::new();
    let mut next = None;
    let mut last = None;
    while let Some(row) = rows.next()? {
        if entries.len() == page.limit {
            next = last;
            break;
        }
        let key = SessionKey::decode(row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?)
            .map_err(|_| Failure::refused(ErrorKind::Corrupt, "a session has a key that is none"))?;
        let active = unsigned(row, 4)?;
        last = Some(Cursor(format!("{active} {}", row.get::<_, i64>(0)?)));
        entries.push(SessionEntry::new(key, head(row, 2)?, time(active)));
    }
    Ok(SessionPage::new(entries, next))
}

/// Each scope is a statement of its own, so that each finds the index that is ordered for it.
fn sql(tenant: bool, subject: bool) -> String {
    // Every parameter stands in every statement, so that they are bound alike.
    let tenant = match (tenant, subject) {
        (false, _) => ":tenant IS NULL",
        (true, false) => "tenant = :tenant",
        // A subject has few sessions and a tenant many: the plus takes the tenant's index out of the choice.
        (true, true) => "+tenant = :tenant",
    };
    let subject = if subject { "subject = :subject" } else { ":subject IS NULL" };
    format!(
        "SELECT id, key, epoch, sequence, last_active FROM session
         WHERE {tenant} AND {subject} AND last_active IS NOT NULL AND (last_active, id) < (:before, :row)
           AND (expires_at IS NULL OR expires_at > :now)
         ORDER BY last_active DESC, id DESC LIMIT :most"
    )
}

fn parse(cursor: &Cursor) -> Option<(i64, i64)> {
    let (millis, row) = cursor.0.split_once(' ')?;
    Some((millis.parse().ok()?, row.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::schema;

    #[test]
    fn no_scope_sorts_or_scans_the_whole_table() {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::create(&mut connection).unwrap();
        for (tenant, subject) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {}", sql(tenant, subject))).unwrap();
            let plan: Vec<String> = statement.raw_query().mapped(|row| row.get(3)).collect::<Result<_, _>>().unwrap();
            let plan = plan.join("; ");
            let index = match (tenant, subject) {
                (_, true) => "session_by_subject",
                (true, false) => "session_by_tenant",
                (false, false) => "session_by_activity",
            };
            assert!(plan.contains(&format!("SEARCH session USING INDEX {index}")), "{plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{plan}");
        }
    }
}
