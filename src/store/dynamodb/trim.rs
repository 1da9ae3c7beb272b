//! Which turns a retention drives out.

use aws_sdk_dynamodb::error::ProvideErrorMetadata;

use super::calls::Table;
use super::error::{failed, refused};
use super::header::Header;
use super::item::{
    Item, PARTITION, SORT, get_number, get_text, key_of, marker_sort, number, part_of_sort, part_sort, text, turn_sort,
};
use super::parts;
use crate::store::{Append, ErrorKind, Operation, StoreError};
use crate::turn::{Head, TurnId};

/// The oldest turns that exceed the retention once the new one is there.
pub(super) async fn excess(
    table: &Table,
    partition: &str,
    append: &Append,
    seen: &Header,
) -> Result<Vec<Old>, StoreError> {
    let retention = append.retention;
    let mut bytes = seen.kept_bytes() + append.turn.bytes() as u64;
    let mut left = seen.turns() + 1;
    let over = |left: u64, bytes: u64| {
        left > 1
            && (retention.turns.is_some_and(|most| left > most) || retention.bytes.is_some_and(|most| bytes > most))
    };
    let mut old = Vec::new();
    let mut from: Option<Item> = None;
    while over(left, bytes) {
        let answer = oldest(table, partition, seen, from).await?;
        for item in &answer.0 {
            if !over(left, bytes) {
                break;
            }
            let sort = get_text(item, SORT).and_then(part_of_sort);
            if sort.is_some_and(|(_, part)| part > 0) {
                continue;
            }
            let turn = Old::read(item).ok_or_else(|| refused(ErrorKind::Corrupt, Operation::Append))?;
            left -= 1;
            bytes = bytes.saturating_sub(turn.bytes);
            old.push(turn);
        }
        from = answer.1;
        if from.is_none() {
            break;
        }
    }
    Ok(old)
}

/// Removes turns that are trimmed. A marker goes only if it is still the trimmed turn's: its id is free, and may
/// have been stored again.
pub(super) async fn remove(table: &Table, partition: &str, trimmed: &[Old]) -> Result<(), StoreError> {
    let items = trimmed.iter().flat_map(|turn| turn.items()).collect();
    table.remove(partition, items, Operation::Append).await?;
    for turn in trimmed {
        let delete = table.client.delete_item().table_name(&table.name);
        let delete = delete.set_key(Some(key_of(partition, &turn.marker())));
        let delete = delete.condition_expression("#sequence = :sequence");
        let delete = delete.expression_attribute_names("#sequence", "sequence");
        match delete.expression_attribute_values(":sequence", number(turn.at.sequence)).send().await {
            Ok(_) => {}
            Err(error) if error.code() == Some("ConditionalCheckFailedException") => {}
            Err(error) => return Err(failed(error, Operation::Append)),
        }
    }
    Ok(())
}

/// A page of kept turns, oldest first, without their records.
async fn oldest(
    table: &Table,
    partition: &str,
    seen: &Header,
    from: Option<Item>,
) -> Result<(Vec<Item>, Option<Item>), StoreError> {
    let query = table.client.query().table_name(&table.name).consistent_read(true).limit(32);
    let query = query.key_condition_expression("#session = :session AND #item BETWEEN :first AND :last");
    let query = query.projection_expression("#item, turn_id, #messages, #bytes, #parts");
    let query = query.expression_attribute_names("#session", PARTITION).expression_attribute_names("#item", SORT);
    let query = query.expression_attribute_names("#messages", "messages");
    let query = query.expression_attribute_names("#bytes", "bytes").expression_attribute_names("#parts", "parts");
    let first = Head::new(seen.head.epoch, seen.trimmed.turns + 1);
    let query = query.expression_attribute_values(":session", text(partition));
    let query = query.expression_attribute_values(":first", text(turn_sort(first)));
    let query = query.expression_attribute_values(":last", text(turn_sort(seen.head)));
    let answer = query.set_exclusive_start_key(from).send().await;
    let answer = answer.map_err(|error| failed(error, Operation::Append))?;
    Ok((answer.items.unwrap_or_default(), answer.last_evaluated_key))
}

/// A turn that must go.
pub(super) struct Old {
    pub(super) at: Head,
    pub(super) id: TurnId,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    parts: u64,
}

impl Old {
    /// Everything that is stored of it.
    pub(super) fn sorts(&self) -> impl Iterator<Item = String> {
        self.items().chain([self.marker()])
    }

    fn items(&self) -> impl Iterator<Item = String> {
        (0..self.parts).map(|part| part_sort(self.at, part))
    }

    fn marker(&self) -> String {
        marker_sort(self.id, self.at.epoch)
    }

    fn read(item: &Item) -> Option<Self> {
        Some(Self {
            at: part_of_sort(get_text(item, SORT)?)?.0,
            id: TurnId::parse(get_text(item, "turn_id")?)?,
            messages: get_number(item, "messages")?,
            bytes: get_number(item, "bytes")?,
            parts: parts::count(item),
        })
    }
}
