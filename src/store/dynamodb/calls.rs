//! Calls that several operations make.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{DeleteRequest, WriteRequest};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::{failed, refused};
use super::header::Header;
use super::item::{
    HEADER, Item, PARTITION, SORT, get_number, get_text, key_of, marker_sort, part_of_sort, text, turn_sort,
};
use super::parts::{Assembly, LargeTurns, Taken};
use crate::key::SessionKey;
use crate::store::{ErrorKind, Location, Operation, StoreError};
use crate::turn::{Head, Turn, TurnId};

/// A table and how to speak to it.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) client: Client,
    /// Sends once: the client's own retries hide that an earlier attempt may have been applied.
    pub(super) writer: Client,
    pub(super) location: Location,
    pub(super) name: String,
    pub(super) index: String,
    /// How long a call goes on trying while the table is too busy.
    pub(super) patience: Duration,
    pub(super) large_turns: LargeTurns,
    pub(super) turnstiles: Arc<[Mutex<()>]>,
}

impl Table {
    /// Where the turns of one contended session wait for each other; a few sessions share one.
    pub(super) fn turnstile(&self, partition: &str) -> &Mutex<()> {
        let mut hasher = DefaultHasher::new();
        partition.hash(&mut hasher);
        &self.turnstiles[hasher.finish() as usize % self.turnstiles.len()]
    }

    /// One item, as of now.
    pub(super) async fn get(
        &self,
        partition: &str,
        sort: &str,
        operation: Operation,
    ) -> Result<Option<Item>, StoreError> {
        let get = self.client.get_item().table_name(&self.name).consistent_read(true);
        let answer = get.set_key(Some(key_of(partition, sort))).send().await;
        Ok(answer.map_err(|error| failed(error, operation))?.item)
    }

    pub(super) async fn header(&self, partition: &str, operation: Operation) -> Result<Option<Header>, StoreError> {
        let item = self.get(partition, HEADER, operation).await?;
        item.map(|item| Header::read(&item).ok_or_else(|| refused(ErrorKind::Corrupt, operation))).transpose()
    }

    /// Where a turn of this life stands, if it is kept.
    pub(super) async fn place(
        &self,
        partition: &str,
        header: &Header,
        id: TurnId,
        operation: Operation,
    ) -> Result<Option<u64>, StoreError> {
        let marker = self.get(partition, &marker_sort(id, header.head.epoch), operation).await?;
        Ok(marker.and_then(|marker| place(&marker, header)))
    }

    /// A turn by its place; `None` when it was trimmed or deleted meanwhile.
    pub(super) async fn turn(
        &self,
        key: &SessionKey,
        partition: &str,
        at: Head,
        operation: Operation,
    ) -> Result<Option<Turn>, StoreError> {
        let mut assembly = Assembly::default();
        let mut from: Option<Item> = None;
        loop {
            let query = self.client.query().table_name(&self.name).consistent_read(true).scan_index_forward(false);
            let query = query.key_condition_expression("#session = :session AND begins_with(#item, :turn)");
            let query = query.expression_attribute_names("#session", PARTITION);
            let query = query.expression_attribute_names("#item", SORT);
            let query = query.expression_attribute_values(":session", text(partition));
            let query = query.expression_attribute_values(":turn", text(turn_sort(at)));
            let answer = query.set_exclusive_start_key(from).send().await.map_err(|error| failed(error, operation))?;
            from = answer.last_evaluated_key;
            for item in answer.items.unwrap_or_default() {
                let Some((_, part)) = get_text(&item, SORT).and_then(part_of_sort) else { continue };
                if let Taken::Turn(turn) = assembly.take(key, at, part, item, operation)? {
                    return Ok(Some(turn));
                }
            }
            if from.is_none() {
                break;
            }
        }
        // Not there, or not whole: right for a turn that is no longer kept.
        let header = self.header(partition, operation).await?;
        let kept = |header: &Header| header.head.epoch == at.epoch && header.trimmed.turns < at.sequence;
        if header.as_ref().is_some_and(kept) { Err(refused(ErrorKind::Corrupt, operation)) } else { Ok(None) }
    }

    /// Removes these items, in any order; what is not there is no error.
    pub(super) async fn remove(
        &self,
        partition: &str,
        sorts: Vec<String>,
        operation: Operation,
    ) -> Result<(), StoreError> {
        for chunk in sorts.chunks(25) {
            let mut left: Vec<WriteRequest> = Vec::with_capacity(chunk.len());
            for sort in chunk {
                let delete = DeleteRequest::builder().set_key(Some(key_of(partition, sort))).build();
                let delete = delete.map_err(|_| refused(ErrorKind::Other, operation))?;
                left.push(WriteRequest::builder().delete_request(delete).build());
            }
            let mut pause = Backoff::new(self.patience);
            while !left.is_empty() {
                let answer = self.client.batch_write_item().request_items(&self.name, left).send().await;
                let unprocessed = answer.map_err(|error| failed(error, operation))?.unprocessed_items;
                left = unprocessed.and_then(|mut items| items.remove(&self.name)).unwrap_or_default();
                if !left.is_empty() && !pause.wait().await {
                    return Err(refused(ErrorKind::Unavailable, operation));
                }
            }
        }
        Ok(())
    }

    /// The sort keys of a partition that begin like this.
    pub(super) async fn sorts(&self, partition: &str, operation: Operation) -> Result<Vec<String>, StoreError> {
        let mut sorts = Vec::new();
        let mut from: Option<Item> = None;
        loop {
            let query = self.client.query().table_name(&self.name).consistent_read(true);
            let query = query.key_condition_expression("#session = :session").projection_expression("#item");
            let query = query.expression_attribute_names("#session", PARTITION);
            let query = query.expression_attribute_names("#item", SORT);
            let query = query.expression_attribute_values(":session", text(partition));
            let answer = query.set_exclusive_start_key(from).send().await.map_err(|error| failed(error, operation))?;
            sorts.extend(answer.items().iter().filter_map(|item| get_text(item, SORT)).map(str::to_owned));
            from = answer.last_evaluated_key;
            if from.is_none() {
                return Ok(sorts);
            }
        }
    }
}

/// Where a marker says that its turn stands, if that is a turn of this life which is kept.
pub(super) fn place(marker: &Item, header: &Header) -> Option<u64> {
    let (epoch, sequence) = (get_number(marker, "epoch")?, get_number(marker, "sequence")?);
    let kept = sequence > header.trimmed.turns && sequence <= header.head.sequence;
    (epoch == header.head.epoch && kept).then_some(sequence)
}

/// Pauses that grow, with jitter, until patience is over.
pub(super) struct Backoff {
    until: Instant,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(patience: Duration) -> Self {
        Self { until: Instant::now() + patience, next: Duration::from_millis(5) }
    }

    /// Pauses; `false` when that would be too long.
    pub(super) async fn wait(&mut self) -> bool {
        let [random, ..] = crate::hex::random_16();
        let pause = self.next.mul_f64(0.5 + f64::from(random) / 512.0);
        self.next = (self.next * 2).min(Duration::from_millis(500));
        if Instant::now() + pause > self.until {
            return false;
        }
        tokio::time::sleep(pause).await;
        true
    }
}

/// Repeats a write as the identical attempt, and remembers whether one got no answer.
pub(super) struct Tries {
    pause: Backoff,
    lost: bool,
}

impl Tries {
    pub(super) fn new(patience: Duration) -> Self {
        Self { pause: Backoff::new(patience), lost: false }
    }

    /// Pauses before the next attempt; the failure to tell where there is to be none.
    pub(super) async fn again(&mut self, error: StoreError) -> Result<(), StoreError> {
        self.lost |= error.kind().is_ambiguous();
        if error.kind().is_temporary() && self.pause.wait().await {
            return Ok(());
        }
        if self.lost && !error.kind().is_ambiguous() {
            return Err(refused(ErrorKind::Ambiguous, error.operation()).with_source(error));
        }
        Err(error)
    }
}
