//! Deleting one session, and removing what time has ended.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use aws_sdk_dynamodb::error::ProvideErrorMetadata;

use super::calls::{Table, Tries};
use super::error::{failed, refused};
use super::header::{Header, Totals, end_of_life};
use super::item::{HEADER, PARTITION, SORT, epoch_of_sort, get_text, key_of, micros, number, partition};
use crate::key::SessionKey;
use crate::store::{Cursor, Deleted, ErrorKind, Operation, StoreError, next_epoch};
use crate::turn::Head;

/// How long a deleted session's epoch is remembered: longer than any turn takes.
const FENCE: Duration = Duration::from_secs(24 * 3600);

pub(super) async fn delete(table: &Table, key: &SessionKey) -> Result<Deleted, StoreError> {
    let partition = partition(key);
    let mut tries = Tries::new(table.patience);
    let mut sent: Option<(Head, u64)> = None;
    let (turns, fence) = loop {
        let now = SystemTime::now();
        let Some(header) = table.header(&partition, Operation::Delete).await? else { return Ok(Deleted::new(0)) };
        if let Some((fence, turns)) = sent.filter(|(fence, _)| *fence == header.head) {
            // The attempt whose answer is missing was applied.
            break (turns, fence.epoch);
        }
        if header.expired(micros(now)) {
            // Nobody sees it any more; what is left goes.
            break (0, header.head.epoch.saturating_add(1));
        }
        let fence = Header {
            head: Head::new(next_epoch(header.head.epoch), 0),
            reborn: true,
            trimmed: Totals::default(),
            messages: 0,
            bytes: 0,
            last_active: header.last_active,
            expires_at: end_of_life(now, Some(FENCE)),
        };
        let epoch = fence.head.epoch;
        sent = Some((fence.head, header.turns()));
        let put = table.writer.put_item().table_name(&table.name).set_item(Some(fence.write(&partition, None)));
        let put = put.condition_expression("#epoch = :epoch AND #sequence = :sequence");
        let put = put.expression_attribute_names("#epoch", "epoch").expression_attribute_names("#sequence", "sequence");
        let put = put.expression_attribute_values(":epoch", number(header.head.epoch));
        let put = put.expression_attribute_values(":sequence", number(header.head.sequence));
        match put.send().await {
            Ok(_) => break (header.turns(), epoch),
            // A turn was stored meanwhile: it is to be deleted as well.
            Err(error) if error.code() == Some("ConditionalCheckFailedException") => {
                tries.again(refused(ErrorKind::Unavailable, Operation::Delete)).await?;
            }
            Err(error) => tries.again(failed(error, Operation::Delete)).await?,
        }
    };
    // From here on no load returns a turn. If this is cut short, the purge does the rest.
    sweep(table, &partition, |epoch| epoch < fence).await?;
    Ok(Deleted::new(turns))
}

/// Removes turns and markers of lives that are over, and of no other: a new one may begin at any moment.
async fn sweep(table: &Table, partition: &str, over: impl Fn(u64) -> bool) -> Result<(), StoreError> {
    let mut sorts = table.sorts(partition, Operation::Delete).await?;
    sorts.retain(|sort| epoch_of_sort(sort).is_some_and(&over));
    table.remove(partition, sorts, Operation::Delete).await
}

/// What a purge removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Purged {
    /// Sessions whose life was over.
    pub sessions: u64,
    /// Items that were looked at.
    pub items: u64,
    /// Where to go on; `None` at the end of the table.
    pub next: Option<Cursor>,
}

/// One page of the table.
pub(super) async fn purge(table: &Table, after: Option<&Cursor>) -> Result<Purged, StoreError> {
    let from = after.and_then(|cursor| cursor.0.split_once('\n')).map(|(partition, sort)| key_of(partition, sort));
    let scan = table.client.scan().table_name(&table.name).projection_expression("#session, #item, expires_at");
    let scan = scan.expression_attribute_names("#session", PARTITION).expression_attribute_names("#item", SORT);
    let answer = scan.set_exclusive_start_key(from).send().await.map_err(|error| failed(error, Operation::Delete))?;
    let now = micros(SystemTime::now());
    let mut purged = Purged { items: answer.items().len() as u64, ..Purged::default() };
    // The lives that were looked at already, by partition and epoch.
    let mut seen: HashSet<(&str, Option<u64>)> = HashSet::new();
    for item in answer.items() {
        let (Some(partition), Some(sort)) = (get_text(item, PARTITION), get_text(item, SORT)) else { continue };
        let epoch = epoch_of_sort(sort);
        if !seen.insert((partition, epoch)) {
            continue;
        }
        // Read after the item and consistently: what it does not cover now is over for good.
        match (table.header(partition, Operation::Delete).await?, epoch) {
            (Some(header), _) if header.expired(now) => {
                let last = header.head.epoch;
                sweep(table, partition, |epoch| epoch <= last).await?;
                purged.sessions += u64::from(forget(table, partition, &header, now).await?);
            }
            // A delete was cut short.
            (Some(header), Some(epoch)) if epoch < header.head.epoch => {
                sweep(table, partition, |other| other < header.head.epoch).await?;
            }
            // The table's own time to live took the header.
            (None, Some(epoch)) => sweep(table, partition, |other| other == epoch).await?,
            _ => {}
        }
    }
    purged.next = answer
        .last_evaluated_key()
        .and_then(|key| Some(Cursor(format!("{}\n{}", get_text(key, PARTITION)?, get_text(key, SORT)?))));
    Ok(purged)
}

/// Removes the header of a session that is still over.
async fn forget(table: &Table, partition: &str, header: &Header, now: u64) -> Result<bool, StoreError> {
    let delete = table.client.delete_item().table_name(&table.name).set_key(Some(key_of(partition, HEADER)));
    let delete = delete.condition_expression("#epoch = :epoch AND expires_at <= :now");
    let delete = delete.expression_attribute_names("#epoch", "epoch");
    let delete = delete.expression_attribute_values(":epoch", number(header.head.epoch));
    match delete.expression_attribute_values(":now", number(now)).send().await {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some("ConditionalCheckFailedException") => Ok(false),
        Err(error) => Err(failed(error, Operation::Delete)),
    }
}
