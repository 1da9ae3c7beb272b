//! Loading: one consistent query from the end of the partition.

use super::calls::{Backoff, Table, place};
use super::error::{failed, refused};
use super::header::Header;
use super::item::{
    HEADER, Item, PARTITION, SORT, after_turn, get_text, marker_prefix, micros, part_of_sort, partition, text,
};
use super::parts::{Assembly, LargeTurns, PARTS_IN_A_PAGE, Taken};
use crate::key::SessionKey;
use crate::store::{ErrorKind, Loaded, Operation, Read, StoreError};
use crate::turn::{Head, Turn, TurnId};

pub(super) async fn load(table: &Table, key: &SessionKey, read: &Read) -> Result<Loaded, StoreError> {
    let partition = partition(key);
    let mut pause = Backoff::new(table.patience);
    let mut known = read.known;
    let mut torn: Option<Header> = None;
    loop {
        let marker = async {
            match read.find {
                Some(id) => newest_marker(table, &partition, id).await,
                None => Ok(None),
            }
        };
        let (snapshot, marker) = tokio::try_join!(query(table, key, &partition, read, known), marker)?;
        let Some(snapshot) = snapshot else { return Ok(Loaded::absent()) };
        let head = snapshot.header.head;
        if known.is_some_and(|known| known.epoch != head.epoch || known.sequence > head.sequence) {
            // Of another life: what it cut off is wanted after all.
            known = None;
            continue;
        }
        if snapshot.is_torn(read, known) {
            // The header has not changed since: nothing was committed or trimmed while this was read.
            if torn.as_ref() == Some(&snapshot.header) {
                return Err(refused(ErrorKind::Corrupt, Operation::Load));
            }
            torn = Some(snapshot.header);
            if !pause.wait().await {
                return Err(refused(ErrorKind::Unavailable, Operation::Load));
            }
            continue;
        }
        let place = marker.and_then(|marker| place(&marker, &snapshot.header));
        let loaded = snapshot.answer(read, known);
        let found = match place {
            Some(sequence) => find(table, key, &partition, &loaded, sequence, read.find).await?,
            None => None,
        };
        return Ok(loaded.found(found));
    }
}

/// The marker of this turn in the newest life that had it; asked for beside the query.
async fn newest_marker(table: &Table, partition: &str, id: TurnId) -> Result<Option<Item>, StoreError> {
    let query = table.client.query().table_name(&table.name).consistent_read(true).scan_index_forward(false).limit(1);
    let query = query.key_condition_expression("#session = :session AND begins_with(#item, :marker)");
    let query = query.expression_attribute_names("#session", PARTITION).expression_attribute_names("#item", SORT);
    let query = query.expression_attribute_values(":session", text(partition));
    let query = query.expression_attribute_values(":marker", text(marker_prefix(id)));
    let answer = query.send().await.map_err(|error| failed(error, Operation::Load))?;
    Ok(answer.items.and_then(|items| items.into_iter().next()))
}

/// The turn at this place, from what was loaded or by one more read.
async fn find(
    table: &Table,
    key: &SessionKey,
    partition: &str,
    loaded: &Loaded,
    sequence: u64,
    id: Option<TurnId>,
) -> Result<Option<Turn>, StoreError> {
    if let Some(turn) = loaded.turns.iter().find(|turn| Some(turn.id()) == id) {
        return Ok(Some(turn.clone()));
    }
    table.turn(key, partition, Head::new(loaded.head.epoch, sequence), Operation::Load).await
}

/// What a query read: the header, and turns of its life.
struct Snapshot {
    header: Header,
    newest_first: Vec<(u64, Turn)>,
    /// The next older turn has parts that are not there.
    incomplete: bool,
}

impl Snapshot {
    fn fitting(&self, read: &Read) -> usize {
        read.window.fit(self.newest_first.iter().map(|(_, turn)| (turn.messages().len(), turn.bytes())))
    }

    /// Takes the next older item; whether an older one may be wanted.
    fn take(&mut self, key: &SessionKey, item: Item, assembly: &mut Assembly, read: &Read) -> Result<bool, StoreError> {
        let Some((at, part)) = get_text(&item, SORT).and_then(part_of_sort) else { return Ok(true) };
        let Header { head, trimmed, .. } = &self.header;
        if at.epoch > head.epoch || at.sequence > head.sequence {
            // Committed after the header was read, or of a life that began after it.
            return Ok(true);
        }
        if at.epoch < head.epoch || at.sequence <= trimmed.turns || self.newest_first.len() >= read.window.turns {
            // What a delete, an expiry or a trim left behind: nothing older counts. Or there is enough.
            return Ok(false);
        }
        match assembly.take(key, at, part, item, Operation::Load)? {
            Taken::Part => {}
            Taken::Turn(turn) => self.newest_first.push((at.sequence, turn)),
            Taken::Incomplete => self.incomplete = true,
        }
        Ok(!self.incomplete)
    }

    /// A query sees each item as it was at some moment, not all at the same one: whether a turn was
    /// committed, or trimmed, between two of them.
    fn is_torn(&self, read: &Read, known: Option<Head>) -> bool {
        let newest = self.header.head.sequence;
        let gap = self.newest_first.iter().zip(0..).any(|((sequence, _), back)| sequence + back != newest);
        let oldest = known.map_or(0, |known| known.sequence).max(self.header.trimmed.turns);
        let read_turns = self.newest_first.len();
        let window_full = self.fitting(read) < read_turns || read_turns >= read.window.turns;
        gap || (!window_full && (self.incomplete || (read_turns as u64) < newest.saturating_sub(oldest)))
    }

    fn answer(self, read: &Read, known: Option<Head>) -> Loaded {
        let (fitting, header, window) = (self.fitting(read), &self.header, read.window);
        let kept = header.turns();
        let truncated = kept > window.turns.min(1) as u64
            && (kept > window.turns as u64
                || header.kept_messages() > window.messages as u64
                || header.kept_bytes() > window.bytes as u64);
        let all_newer = |known: &Head| header.head.sequence - known.sequence == fitting as u64;
        let since = known.filter(|known| fitting == self.newest_first.len() && all_newer(known));
        let mut turns: Vec<Turn> = self.newest_first.into_iter().take(fitting).map(|(_, turn)| turn).collect();
        turns.reverse();
        Loaded::new(header.head, turns, truncated).kept(kept).since(since)
    }
}

/// Reads header and turns from the newest back, page by page, until the window is full.
async fn query(
    table: &Table,
    key: &SessionKey,
    partition: &str,
    read: &Read,
    known: Option<Head>,
) -> Result<Option<Snapshot>, StoreError> {
    let mut snapshot: Option<Snapshot> = None;
    let mut assembly = Assembly::default();
    let mut from: Option<Item> = None;
    let floor = after_turn(known.unwrap_or(Head::ABSENT));
    // So that it is the page's size that ends a page, and not the parts of large turns.
    let parts = if table.large_turns == LargeTurns::Split { PARTS_IN_A_PAGE } else { 0 };
    loop {
        let wanted = match &snapshot {
            Some(snapshot) => read.window.turns - snapshot.newest_first.len(),
            None => read.window.turns.saturating_add(1),
        };
        let limit = if read.window.turns == 0 { wanted } else { wanted.saturating_add(parts) };
        let query = table.client.query().table_name(&table.name).consistent_read(true).scan_index_forward(false);
        let query = query.key_condition_expression("#session = :session AND #item > :floor");
        let query = query.expression_attribute_names("#session", PARTITION).expression_attribute_names("#item", SORT);
        let query = query.expression_attribute_values(":session", text(partition));
        let query = query.expression_attribute_values(":floor", text(&floor));
        // Absent above what a limit can say: pages end at 1 MB by themselves.
        let query = query.set_limit(i32::try_from(limit).ok());
        let answer =
            query.set_exclusive_start_key(from).send().await.map_err(|error| failed(error, Operation::Load))?;
        from = answer.last_evaluated_key;
        for item in answer.items.unwrap_or_default() {
            let Some(snapshot) = &mut snapshot else {
                let Some(header) = living(&item)? else { return Ok(None) };
                snapshot = Some(Snapshot { header, newest_first: Vec::new(), incomplete: false });
                continue;
            };
            if !snapshot.take(key, item, &mut assembly, read)? {
                from = None;
                break;
            }
        }
        let full = |snapshot: &Snapshot| {
            let read_turns = snapshot.newest_first.len();
            snapshot.fitting(read) < read_turns || read_turns >= read.window.turns
        };
        if from.is_none() || snapshot.as_ref().is_some_and(full) {
            return Ok(snapshot);
        }
    }
}

/// The header, which is the first item that a query gives of a session that is there.
fn living(item: &Item) -> Result<Option<Header>, StoreError> {
    if get_text(item, SORT) != Some(HEADER) {
        return Ok(None);
    }
    let header = Header::read(item).ok_or_else(|| refused(ErrorKind::Corrupt, Operation::Load))?;
    Ok((!header.expired(micros(std::time::SystemTime::now()))).then_some(header))
}
