//! Listing sessions, most recently active first.

use std::cmp::Reverse;
use std::time::SystemTime;

use super::NAME;
use super::calls::Table;
use super::error::{failed, refused};
use super::header::{Header, owner};
use super::item::{HEADER, Item, OWNER, SORT, get_number, get_text, micros, text, time};
use crate::key::{Scope, SessionKey, Subject};
use crate::store::{Cursor, ErrorKind, Operation, Page, SessionEntry, SessionPage, StoreError};

/// Of a subject: by the index, as far as the page goes. Of all others: by a scan of the table, which
/// is for administration and not for requests.
pub(super) async fn list(table: &Table, scope: &Scope, page: &Page) -> Result<SessionPage, StoreError> {
    let after = page.after.as_ref().map(Place::read).transpose()?;
    let limit = page.limit.max(1);
    let mut entries: Vec<(Place, SessionEntry)> = Vec::new();
    let mut from: Option<Item> = None;
    loop {
        let (items, next) = match &scope.subject {
            Some(subject) => of_subject(table, subject, after.as_ref(), from).await?,
            None => headers(table, from).await?,
        };
        let now = micros(SystemTime::now());
        for item in &items {
            let header = Header::read(item).ok_or_else(|| refused(ErrorKind::Corrupt, Operation::List))?;
            if header.expired(now) || header.head.sequence == 0 {
                continue;
            }
            let key = owner(item)
                .map_err(|error| StoreError::new(ErrorKind::Corrupt, NAME, Operation::List).with_source(error))?;
            let place = Place { last_active: Reverse(header.last_active), key: key.clone() };
            if scope.contains(&key) && after.as_ref().is_none_or(|after| place > *after) {
                entries.push((place, SessionEntry::new(key, header.head, time(header.last_active))));
            }
        }
        from = next;
        // The index is in order of time, so what comes later is older, unless it is of the same moment.
        let oldest = items.last().and_then(|item| get_number(item, "last_active"));
        let full = scope.subject.is_some()
            && entries.get(limit).is_some_and(|(place, _)| oldest.is_some_and(|oldest| oldest < place.last_active.0));
        if full || from.is_none() {
            break;
        }
    }
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    let more = entries.len() > limit;
    entries.truncate(limit);
    let next = entries.last().filter(|_| more).map(|(place, _)| place.write());
    Ok(SessionPage::new(entries.into_iter().map(|(_, entry)| entry).collect(), next))
}

type Headers = (Vec<Item>, Option<Item>);

async fn of_subject(
    table: &Table,
    subject: &Subject,
    after: Option<&Place>,
    from: Option<Item>,
) -> Result<Headers, StoreError> {
    let query = table.client.query().table_name(&table.name).index_name(&table.index).scan_index_forward(false);
    let query = match after {
        Some(after) => query
            .key_condition_expression("#owner = :owner AND last_active <= :after")
            .expression_attribute_values(":after", super::item::number(after.last_active.0)),
        None => query.key_condition_expression("#owner = :owner"),
    };
    let query = query.expression_attribute_names("#owner", OWNER);
    let query = query.expression_attribute_values(":owner", text(super::item::owner(subject)));
    let answer = query.set_exclusive_start_key(from).send().await.map_err(|error| failed(error, Operation::List))?;
    Ok((answer.items.unwrap_or_default(), answer.last_evaluated_key))
}

async fn headers(table: &Table, from: Option<Item>) -> Result<Headers, StoreError> {
    let scan = table.client.scan().table_name(&table.name).consistent_read(true).filter_expression("#item = :header");
    let scan = scan.expression_attribute_names("#item", SORT).expression_attribute_values(":header", text(HEADER));
    let answer = scan.set_exclusive_start_key(from).send().await.map_err(|error| failed(error, Operation::List))?;
    let items = answer.items.unwrap_or_default();
    let headers = items.into_iter().filter(|item| get_text(item, SORT) == Some(HEADER)).collect();
    Ok((headers, answer.last_evaluated_key))
}

/// Where an entry stands; the key tells sessions of one moment apart.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    last_active: Reverse<u64>,
    key: SessionKey,
}

impl Place {
    fn write(&self) -> Cursor {
        Cursor(format!("{} {}", self.last_active.0, self.key.encoded()))
    }

    fn read(cursor: &Cursor) -> Result<Self, StoreError> {
        let parsed = cursor.0.split_once(' ').and_then(|(micros, key)| {
            Some(Self { last_active: Reverse(micros.parse().ok()?), key: SessionKey::decode(key).ok()? })
        });
        parsed.ok_or_else(|| refused(ErrorKind::Other, Operation::List))
    }
}
