//! Listing sessions, most recently active first.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::SystemTime;

use aws_sdk_dynamodb::types::KeysAndAttributes;

use super::NAME;
use super::calls::{Backoff, Table};
use super::error::{failed, refused};
use super::header::{Header, owner};
use super::item::{HEADER, Item, OWNER, PARTITION, SORT, get_number, get_text, key_of, micros, partition, text, time};
use crate::key::{Scope, SessionKey, Subject};
use crate::store::{Cursor, ErrorKind, Operation, Page, SessionEntry, SessionPage, StoreError};

/// Headers that one request reads.
const BATCH: usize = 100;

/// Of a subject: by the index, as far as the page goes. Of all others: by a scan of the table, which
/// is for administration and not for requests.
///
/// The index is a moment late. It says which sessions to look at and where a page ends; what they are
/// now, their headers say.
pub(super) async fn list(table: &Table, scope: &Scope, page: &Page) -> Result<SessionPage, StoreError> {
    let after = page.after.as_ref().map(Place::read).transpose()?;
    let limit = page.limit.max(1);
    let mut entries: Vec<(Place, SessionEntry)> = Vec::new();
    let mut from: Option<Item> = None;
    loop {
        let (items, next) = match &scope.subject {
            Some(subject) => of_subject(table, subject, after.as_ref(), limit, from).await?,
            None => headers(table, from).await?,
        };
        let oldest = items.last().and_then(|item| get_number(item, "last_active"));
        let mut places: Vec<Place> = items.iter().map(Place::of).collect::<Result<_, _>>()?;
        places.retain(|place| scope.contains(&place.key) && after.as_ref().is_none_or(|after| *place > *after));
        let now = match &scope.subject {
            Some(_) => current(table, &places).await?,
            None => items.into_iter().filter_map(|item| Some((get_text(&item, PARTITION)?.to_owned(), item))).collect(),
        };
        for place in places {
            if let Some(entry) = now.get(&partition(&place.key)).map(entry).transpose()?.flatten() {
                entries.push((place, entry));
            }
        }
        from = next;
        // The index is in order of time, so what comes later is older, unless it is of the same moment.
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
    let mut sessions: Vec<SessionEntry> = entries.into_iter().map(|(_, entry)| entry).collect();
    sessions.sort_by_key(|entry| Reverse(entry.last_active));
    Ok(SessionPage::new(sessions, next))
}

/// A session as its header says it; `None` when it has no turn any more.
fn entry(item: &Item) -> Result<Option<SessionEntry>, StoreError> {
    let header = Header::read(item).ok_or_else(|| refused(ErrorKind::Corrupt, Operation::List))?;
    if header.expired(micros(SystemTime::now())) || header.head.sequence == 0 {
        return Ok(None);
    }
    Ok(Some(SessionEntry::new(key_in(item)?, header.head, time(header.last_active))))
}

fn key_in(item: &Item) -> Result<SessionKey, StoreError> {
    owner(item).map_err(|error| StoreError::new(ErrorKind::Corrupt, NAME, Operation::List).with_source(error))
}

/// The headers of these sessions as they are now, by partition.
async fn current(table: &Table, places: &[Place]) -> Result<HashMap<String, Item>, StoreError> {
    let mut now = HashMap::new();
    for places in places.chunks(BATCH) {
        let keys = places.iter().map(|place| key_of(&partition(&place.key), HEADER)).collect();
        let other = |_| refused(ErrorKind::Other, Operation::List);
        let mut left =
            Some(KeysAndAttributes::builder().consistent_read(true).set_keys(Some(keys)).build().map_err(other)?);
        let mut pause = Backoff::new(table.patience);
        while let Some(keys) = left {
            let answer = table.client.batch_get_item().request_items(&table.name, keys).send().await;
            let answer = answer.map_err(|error| failed(error, Operation::List))?;
            let items = answer.responses.and_then(|mut items| items.remove(&table.name)).unwrap_or_default();
            now.extend(items.into_iter().filter_map(|item| Some((get_text(&item, PARTITION)?.to_owned(), item))));
            left = answer.unprocessed_keys.and_then(|mut keys| keys.remove(&table.name));
            if left.is_some() && !pause.wait().await {
                return Err(refused(ErrorKind::Unavailable, Operation::List));
            }
        }
    }
    Ok(now)
}

type Headers = (Vec<Item>, Option<Item>);

async fn of_subject(
    table: &Table,
    subject: &Subject,
    after: Option<&Place>,
    limit: usize,
    from: Option<Item>,
) -> Result<Headers, StoreError> {
    let query = table.client.query().table_name(&table.name).index_name(&table.index).scan_index_forward(false);
    // One more shows whether there is another page.
    let query = query.limit(limit.saturating_add(1).clamp(10, BATCH) as i32);
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
    // Without a conversation: what a delete left of a session.
    let headers = items.into_iter().filter(|item| item.contains_key("conversation")).collect();
    Ok((headers, answer.last_evaluated_key))
}

/// Where an entry stands; the key tells sessions of one moment apart.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    last_active: Reverse<u64>,
    key: SessionKey,
}

impl Place {
    fn of(item: &Item) -> Result<Self, StoreError> {
        let last_active =
            get_number(item, "last_active").ok_or_else(|| refused(ErrorKind::Corrupt, Operation::List))?;
        Ok(Self { last_active: Reverse(last_active), key: key_in(item)? })
    }

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
