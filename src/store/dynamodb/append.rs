//! Appending: one transaction, whose conditions decide.

use std::time::SystemTime;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    CancellationReason, Delete, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};

use super::calls::{Table, Tries, place};
use super::error::{failed, is_busy, refused};
use super::header::{Header, Totals, admit, end_of_life, ttl_seconds};
use super::item::{
    HEADER, Item, OWNER, PARTITION, SORT, TTL, key_of, marker_sort, micros, number, owner, partition, text,
};
use super::parts;
use super::trim::{Old, excess, remove};
use crate::key::SessionKey;
use crate::store::{Append, Appended, ErrorKind, Operation, StoreError, next_epoch};
use crate::turn::Head;

/// What one transaction holds: actions, and bytes of the items that they write or remove.
const ACTIONS: usize = 100;
const BYTES: usize = 4 << 20;

/// More than the bytes of a header, and of any other item beside its record: a key of 2 KB at most.
const OF_HEADER: usize = 32 << 10;
const AROUND: usize = 3 << 10;

pub(super) async fn append(table: &Table, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
    let parts = table.large_turns.cut(&append.turn, key)?;
    let attempt = Attempt { table, key, append, partition: partition(key), parts };
    let mut tries = Tries::new(table.patience);
    // Held from the first lost race on: the turns of this instance queue for a contended session
    // instead of losing to each other again and again.
    let mut turnstile = None;
    // With a head that was loaded and everything kept, there is nothing to ask before writing.
    let retains_all = append.retention.turns.is_none() && append.retention.bytes.is_none();
    let mut state = match append.expected {
        Some(head) if retains_all => State::Assumed(head),
        _ => State::Read(table.header(&attempt.partition, Operation::Append).await?),
    };
    loop {
        match attempt.step(&mut state).await {
            Ok(Step::Answer(answer)) => return Ok(answer),
            Ok(Step::Refusal(kind)) => return Err(refused(kind, Operation::Append)),
            // Somebody else's turn was stored, or will be: there is progress, if not here.
            Ok(Step::Again) if turnstile.is_none() => {
                turnstile = Some(table.turnstile(&attempt.partition).lock().await);
            }
            Ok(Step::Again) => tries.again(refused(ErrorKind::Unavailable, Operation::Append)).await?,
            Err(error) => tries.again(error).await?,
        }
    }
}

/// What one attempt came to.
enum Step {
    Answer(Appended),
    Refusal(ErrorKind),
    Again,
}

/// What an attempt is made on.
enum State {
    /// The head that the caller loaded.
    Assumed(Head),
    /// The header as it was read, or as a refused attempt showed it.
    Read(Option<Header>),
}

/// What a transaction is to write.
struct Plan {
    /// Where the turn will stand.
    head: Head,
    header: TransactWriteItem,
    /// Turns up to this one do not count, and neither do markers of them.
    trimmed: u64,
    deletes: Vec<TransactWriteItem>,
    left_over: Vec<Old>,
}

enum Written {
    Stored,
    /// A condition failed; what stands there instead, as far as the answer showed it.
    Found {
        header: Option<Header>,
        marker: Option<Item>,
    },
    Busy,
}

struct Attempt<'a> {
    table: &'a Table,
    key: &'a SessionKey,
    append: &'a Append,
    partition: String,
    /// The record, cut into items.
    parts: Vec<String>,
}

type Planned = Result<Plan, ErrorKind>;

impl Attempt<'_> {
    /// Decides on what is there as far as it is known, and writes if that is the decision.
    async fn step(&self, state: &mut State) -> Result<Step, StoreError> {
        let plan = match self.plan(state).await? {
            Ok(plan) => plan,
            Err(kind) => return self.refuse(kind, state).await,
        };
        match self.write(&plan).await? {
            Written::Stored => {
                // Hidden already: a failure costs room until the purge.
                remove(self.table, &self.partition, &plan.left_over).await.ok();
                return Ok(Step::Answer(Appended::stored(plan.head)));
            }
            Written::Found { header, marker } => {
                let header = match header {
                    Some(header) => Some(header),
                    None => self.table.header(&self.partition, Operation::Append).await?,
                };
                if let (Some(header), Some(marker)) = (&header, marker)
                    && let Some(answer) = self.duplicate(header, place(&marker, header)).await?
                {
                    return Ok(Step::Answer(answer));
                }
                *state = State::Read(header);
            }
            Written::Busy => {}
        }
        Ok(Step::Again)
    }

    async fn plan(&self, state: &State) -> Result<Planned, StoreError> {
        let now = SystemTime::now();
        match state {
            State::Assumed(head) if *head == Head::ABSENT => self.begin(now, None),
            State::Assumed(head) => self.extend_unseen(now, *head),
            State::Read(header) => {
                let live = header.as_ref().filter(|header| !header.expired(micros(now)));
                match (admit(live, self.append), live) {
                    (Err(kind), _) => Ok(Err(kind)),
                    (Ok(()), None) => self.begin(now, header.as_ref()),
                    (Ok(()), Some(live)) => self.extend(now, live).await,
                }
            }
        }
    }

    /// The first turn of a session that is not there, or whose life is over.
    fn begin(&self, now: SystemTime, expired: Option<&Header>) -> Result<Planned, StoreError> {
        let head = Head::new(next_epoch(expired.map_or(0, |header| header.head.epoch)), 1);
        let header = Header {
            head,
            reborn: false,
            messages: self.append.turn.messages().len() as u64,
            bytes: self.append.turn.bytes() as u64,
            trimmed: Totals::default(),
            last_active: micros(now),
            expires_at: end_of_life(now, self.append.ttl),
        };
        let put = Put::builder().table_name(&self.table.name);
        let put = put.set_item(Some(header.write(&self.partition, Some(self.key))));
        let put = put.return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let put = match expired {
            None => put.condition_expression("attribute_not_exists(#item)").expression_attribute_names("#item", SORT),
            Some(expired) => put
                .condition_expression("#epoch = :epoch AND expires_at <= :now")
                .expression_attribute_names("#epoch", "epoch")
                .expression_attribute_values(":epoch", number(expired.head.epoch))
                .expression_attribute_values(":now", number(micros(now))),
        };
        let put = put.build().map_err(|_| refused(ErrorKind::Other, Operation::Append))?;
        let header = TransactWriteItem::builder().put(put).build();
        Ok(Ok(Plan { head, header, trimmed: 0, deletes: Vec::new(), left_over: Vec::new() }))
    }

    /// The next turn, on the caller's word that this is the head.
    fn extend_unseen(&self, now: SystemTime, expected: Head) -> Result<Planned, StoreError> {
        let head = Head::new(expected.epoch, expected.sequence.saturating_add(1));
        let header = self.update(now, expected, None)?;
        Ok(Ok(Plan { head, header, trimmed: 0, deletes: Vec::new(), left_over: Vec::new() }))
    }

    /// The next turn of a session that was seen, and what must go for it.
    async fn extend(&self, now: SystemTime, seen: &Header) -> Result<Planned, StoreError> {
        let head = Head::new(seen.head.epoch, seen.head.sequence + 1);
        let old = excess(self.table, &self.partition, self.append, seen).await?;
        let mut trimmed = seen.trimmed;
        let (mut deletes, mut left_over) = (Vec::new(), Vec::new());
        let mut actions = ACTIONS - 2 - self.parts.len();
        let mut bytes = BYTES - self.parts.iter().map(|part| part.len() + AROUND).sum::<usize>() - OF_HEADER - AROUND;
        let any = !old.is_empty();
        for turn in old {
            trimmed.turns += 1;
            trimmed.messages += turn.messages;
            trimmed.bytes += turn.bytes;
            let sorts: Vec<String> = turn.sorts().collect();
            let size = turn.bytes as usize + sorts.len() * AROUND;
            // What a much shorter retention drives out beyond that is hidden by the header and removed afterwards.
            if !left_over.is_empty() || sorts.len() > actions || size > bytes {
                left_over.push(turn);
                continue;
            }
            (actions, bytes) = (actions - sorts.len(), bytes - size);
            for sort in sorts {
                let delete =
                    Delete::builder().table_name(&self.table.name).set_key(Some(key_of(&self.partition, &sort)));
                let delete = delete.build().map_err(|_| refused(ErrorKind::Other, Operation::Append))?;
                deletes.push(TransactWriteItem::builder().delete(delete).build());
            }
        }
        let header = self.update(now, seen.head, any.then_some(trimmed))?;
        // A marker that is about to be overwritten cannot be deleted by the same transaction.
        let own = marker_sort(self.append.turn.id(), head.epoch);
        let own = key_of(&self.partition, &own);
        deletes.retain(|action| action.delete().is_none_or(|delete| *delete.key() != own));
        // Not what this turn drives out: until it is stored, that is stored, and its ids are taken.
        Ok(Ok(Plan { head, header, trimmed: seen.trimmed.turns, deletes, left_over }))
    }

    fn update(
        &self,
        now: SystemTime,
        expected: Head,
        trimmed: Option<Totals>,
    ) -> Result<TransactWriteItem, StoreError> {
        let turn = &self.append.turn;
        let mut set = vec!["#sequence = :next", "last_active = :now", "conversation = :conversation"];
        let mut update = Update::builder()
            .table_name(&self.table.name)
            .set_key(Some(key_of(&self.partition, HEADER)))
            .condition_expression(
                "#epoch = :epoch AND #sequence = :sequence AND (attribute_not_exists(expires_at) OR expires_at > :now)",
            )
            .expression_attribute_names("#epoch", "epoch")
            .expression_attribute_names("#sequence", "sequence")
            .expression_attribute_names("#bytes", "bytes")
            .expression_attribute_names("#messages", "messages")
            .expression_attribute_values(":epoch", number(expected.epoch))
            .expression_attribute_values(":sequence", number(expected.sequence))
            .expression_attribute_values(":next", number(expected.sequence.saturating_add(1)))
            .expression_attribute_values(":now", number(micros(now)))
            .expression_attribute_values(":conversation", text(self.key.conversation().as_str()))
            .expression_attribute_values(":messages", number(turn.messages().len() as u64))
            .expression_attribute_values(":bytes", number(turn.bytes() as u64))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        if let Some(tenant) = self.key.tenant() {
            set.push("tenant = :tenant");
            update = update.expression_attribute_values(":tenant", text(tenant.encoded()));
        }
        if let Some(subject) = self.key.subject() {
            set.extend(["subject = :subject", "#owner = :owner"]);
            update = update
                .expression_attribute_names("#owner", OWNER)
                .expression_attribute_values(":subject", text(subject.encoded()))
                .expression_attribute_values(":owner", text(owner(subject)));
        }
        if let Some(trimmed) = trimmed {
            set.extend(["trimmed_turns = :tt", "trimmed_messages = :tm", "trimmed_bytes = :tb"]);
            update = update
                .expression_attribute_values(":tt", number(trimmed.turns))
                .expression_attribute_values(":tm", number(trimmed.messages))
                .expression_attribute_values(":tb", number(trimmed.bytes));
        }
        let (life, update) = match end_of_life(now, self.append.ttl) {
            Some(at) => {
                set.extend(["expires_at = :expires_at", "#ttl = :ttl"]);
                let update = update.expression_attribute_values(":expires_at", number(at));
                ("", update.expression_attribute_values(":ttl", number(ttl_seconds(at))))
            }
            None => (" REMOVE expires_at, #ttl", update),
        };
        let expression = format!("SET {}{life} ADD #messages :messages, #bytes :bytes", set.join(", "));
        let update = update.expression_attribute_names("#ttl", TTL).update_expression(expression);
        let update = update.build().map_err(|_| refused(ErrorKind::Other, Operation::Append))?;
        Ok(TransactWriteItem::builder().update(update).build())
    }

    /// Header, marker and the turn's items, or none of them.
    async fn write(&self, plan: &Plan) -> Result<Written, StoreError> {
        let other = |_| refused(ErrorKind::Other, Operation::Append);
        let turn = &self.append.turn;
        let marker = [
            (PARTITION, text(&self.partition)),
            (SORT, text(marker_sort(turn.id(), plan.head.epoch))),
            ("epoch", number(plan.head.epoch)),
            ("sequence", number(plan.head.sequence)),
        ];
        let marker = Put::builder()
            .table_name(&self.table.name)
            .set_item(Some(marker.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()))
            .condition_expression("attribute_not_exists(#item) OR #sequence <= :trimmed")
            .expression_attribute_names("#item", SORT)
            .expression_attribute_names("#sequence", "sequence")
            .expression_attribute_values(":trimmed", number(plan.trimmed))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let mut transaction = self
            .table
            .writer
            .transact_write_items()
            .transact_items(plan.header.clone())
            .transact_items(TransactWriteItem::builder().put(marker.build().map_err(other)?).build());
        // No condition: whoever may write the header has this place; what is there is left from another life.
        for item in parts::items(&self.partition, plan.head, turn, self.parts.clone()) {
            let put = Put::builder().table_name(&self.table.name).set_item(Some(item));
            transaction =
                transaction.transact_items(TransactWriteItem::builder().put(put.build().map_err(other)?).build());
        }
        let actions = plan.deletes.iter().fold(transaction, |all, delete| all.transact_items(delete.clone()));
        match actions.send().await {
            Ok(_) => Ok(Written::Stored),
            Err(error) => self.cancelled(error),
        }
    }

    fn cancelled(&self, error: SdkError<TransactWriteItemsError>) -> Result<Written, StoreError> {
        let reasons = match error.as_service_error() {
            Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => cancelled.cancellation_reasons(),
            Some(other) if other.code().is_some_and(is_busy) => return Ok(Written::Busy),
            _ => return Err(failed(error, Operation::Append)),
        };
        let failed_condition = |reason: &CancellationReason| reason.code() == Some("ConditionalCheckFailed");
        if reasons.iter().take(2).any(failed_condition) {
            let found = |index: usize| reasons.get(index).filter(|reason| failed_condition(reason));
            let header = found(0).and_then(|reason| Header::read(reason.item()?));
            let marker = found(1).and_then(|reason| reason.item().cloned());
            return Ok(Written::Found { header, marker });
        }
        if reasons.iter().filter_map(|reason| reason.code()).any(is_busy) {
            return Ok(Written::Busy);
        }
        if reasons.iter().any(|reason| reason.message().is_some_and(|text| text.contains("maximum allowed size"))) {
            return Err(refused(ErrorKind::TooLarge, Operation::Append));
        }
        Err(failed(error, Operation::Append))
    }

    /// The refusal, unless the turn is stored: that comes before everything.
    async fn refuse(&self, kind: ErrorKind, state: &State) -> Result<Step, StoreError> {
        let now = micros(SystemTime::now());
        if let State::Read(Some(header)) = state
            && !header.expired(now)
        {
            let place = self.table.place(&self.partition, header, self.append.turn.id(), Operation::Append).await?;
            if let Some(answer) = self.duplicate(header, place).await? {
                return Ok(Step::Answer(answer));
            }
        }
        Ok(Step::Refusal(kind))
    }

    /// The answer for a turn that is stored at this place, whose session lives on from now.
    async fn duplicate(&self, header: &Header, place: Option<u64>) -> Result<Option<Appended>, StoreError> {
        let now = SystemTime::now();
        let Some(sequence) = place.filter(|_| !header.expired(micros(now))) else { return Ok(None) };
        let at = Head::new(header.head.epoch, sequence);
        let Some(turn) = self.table.turn(self.key, &self.partition, at, Operation::Append).await? else {
            return Ok(None);
        };
        let update = self.table.client.update_item().table_name(&self.table.name);
        let update = update.set_key(Some(key_of(&self.partition, HEADER)));
        let update = update.condition_expression("#epoch = :epoch").expression_attribute_names("#epoch", "epoch");
        let update = update.expression_attribute_values(":epoch", number(header.head.epoch));
        let update = update.expression_attribute_names("#ttl", TTL);
        let update = match end_of_life(now, self.append.ttl) {
            Some(end) => update
                .update_expression("SET expires_at = :expires_at, #ttl = :ttl")
                .expression_attribute_values(":expires_at", number(end))
                .expression_attribute_values(":ttl", number(ttl_seconds(end))),
            None => update.update_expression("REMOVE expires_at, #ttl"),
        };
        match update.return_values(aws_sdk_dynamodb::types::ReturnValue::AllNew).send().await {
            Ok(answer) => {
                let now = answer.attributes.as_ref().and_then(Header::read);
                let head = now.map_or(header.head, |header| header.head);
                Ok(Some(Appended::duplicate(head, sequence, turn)))
            }
            // Deleted or begun anew meanwhile: decide again.
            Err(error) if error.code() == Some("ConditionalCheckFailedException") => Ok(None),
            Err(error) => Err(failed(error, Operation::Append)),
        }
    }
}
