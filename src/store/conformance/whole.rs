//! A turn comes back as it was given.

use std::time::{Duration, UNIX_EPOCH};

use super::kit::{Check, Instances, ensure, message_of, rebase, same, strict, turn, turn_of, turn_of_bytes};
use crate::message::{Message, ToolCall};
use crate::policy::Window;
use crate::store::{ErrorKind, Loaded, Read, Store};
use crate::turn::{Head, Turn, TurnId, TurnStatus};

pub(super) async fn a_session_nobody_began_is_absent(instances: &Instances) -> Check {
    let session = instances.session();
    let loaded = session.load(Read::new(Window::ALL).find(TurnId::random()).known(Head::ABSENT)).await?;
    ensure!(loaded == Loaded::absent(), "loaded {loaded:?}");
    ensure!(session.head().await? == Head::ABSENT, "it has a head");
    Ok(())
}

pub(super) async fn the_first_turn_begins_the_session(instances: &Instances) -> Check {
    let session = instances.session();
    let first = turn("hello");
    let answer = session.append(&rebase(&first, Head::ABSENT)).await?;
    ensure!(answer.head.epoch > 0, "a session that exists has epoch 0");
    ensure!(answer.head.sequence == 1 && answer.sequence == 1, "the first turn is not number 1: {answer:?}");
    ensure!(answer.duplicate_of.is_none(), "the first turn is said to be a duplicate");
    for session in [session.clone(), session.elsewhere()] {
        let loaded = session.holds(std::slice::from_ref(&first)).await?;
        let expected = Loaded {
            kept: loaded.kept,
            lineage: loaded.lineage,
            ..Loaded::new(answer.head, vec![first.clone()], false)
        };
        ensure!(loaded == expected && loaded.kept.is_none_or(|kept| kept == 1), "loaded {loaded:?}");
    }
    Ok(())
}

pub(super) async fn an_acknowledged_turn_is_in_every_later_load(instances: &Instances) -> Check {
    let session = instances.session();
    let mut turns = Vec::new();
    let mut head = Head::ABSENT;
    for number in 0..10 {
        let next = turn(&format!("turn {number}"));
        head = session.by(number).append(&strict(&next, head)).await?.head;
        turns.push(next);
        let seen = session.by(number + 1).holds(&turns).await?;
        ensure!(seen.head == head, "append answered {head:?}, the other instance loads {:?}", seen.head);
        session.by(number).holds(&turns).await?;
    }
    Ok(())
}

/// What a store that parses, re-encodes or compares JSON would change.
const ODD: &[&str] = &[
    r#"{"role":"user","content":"plain"}"#,
    "{ \"content\" :\t\"odd white space\" ,\r\n  \"role\":\"user\"\n}",
    r#"{"z":1,"role":"assistant","a":2,"content":null,"A":3}"#,
    r#"{"role":"user","x":1,"x":2,"x":{"y":1,"y":2}}"#,
    r#"{"role":"user","content":"escaped NUL \u0000, slash \/, quote \u0022, e acute \u00e9 \u00E9 é é"}"#,
    r#"{"role":"user","content":"\ud83d\ude00 😀 👩‍👩‍👧 عربي \u202e"}"#,
    r#"{"role":"user","n":[123456789012345678901234567890,0.10000000000000000555,1E+2,1e2,-0,-0.0,1.0,1.50]}"#,
    r#"{"role":"assistant","content":[{"type":"thinking","thinking":"","signature":"EqQBCgIYAhIk+/=="}],"x_opaque":{"":[]}}"#,
    r#"{"role":"user","content":"{\"role\":\"system\"}","messages":[{"role":"system","content":"not one"}]}"#,
    r#"{"role":"user","content":"\",\"sum\":\"0000000000000000\"}"}"#,
    r#"{"r\u006fle":"user","content":"an escaped name"}"#,
    r#"{"role":"user","content":"}{][,:"}"#,
    r#"{"role":"moderator","content":true}"#,
];

pub(super) async fn messages_come_back_byte_for_byte(instances: &Instances) -> Check {
    let session = instances.session();
    let messages = ODD.iter().map(|json| Message::from_json(*json)).collect::<Result<Vec<_>, _>>();
    let mut messages = messages.map_err(|error| error.to_string())?;
    messages.push(deep()?);
    messages.push(Message::user("\u{0} \u{1} \u{7f} \u{85} \u{2028} \u{feff} \u{fffd} \u{10ffff}"));
    messages.push(Message::assistant_calls(&[ToolCall::new("call_1", "f", "{\"a\": [1, 2,  3]}")]));
    messages.push(Message::tool("call_1", "\\ \" \\\" ' \\u0000 \\n"));
    let kept = turn_of(messages.clone());
    session.add(&kept).await?;
    // Each alone as well: whether a message is first, last or the only one must not matter.
    let mut turns = vec![kept];
    for message in messages {
        let alone = turn_of(vec![message]);
        session.add(&alone).await?;
        turns.push(alone);
    }
    session.holds(&turns).await?;
    session.elsewhere().holds(&turns).await?;
    Ok(())
}

fn deep() -> Check<Message> {
    let levels = Message::MAX_DEPTH - 1;
    let json = format!(r#"{{"role":"user","x":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    Message::from_json(json).map_err(|error| error.to_string())
}

pub(super) async fn time_and_status_of_a_turn_come_back(instances: &Instances) -> Check {
    let session = instances.session();
    let mut turns = Vec::new();
    for status in [TurnStatus::Complete, TurnStatus::Interrupted] {
        for millis in [0, 1, 1_700_000_000_123, 4_102_444_800_999] {
            let at = UNIX_EPOCH + Duration::from_millis(millis);
            let next = Turn::at_time(TurnId::random(), status, vec![Message::user("when?")], at);
            session.add(&next).await?;
            turns.push(next);
        }
    }
    session.elsewhere().holds(&turns).await?;
    Ok(())
}

pub(super) async fn ids_of_any_bytes_are_kept(instances: &Instances) -> Check {
    let session = instances.session();
    let mut turns = Vec::new();
    for byte in [0x00, 0x0a, 0x22, 0x5c, 0x7f, 0x80, 0xff] {
        let next = Turn::new(TurnId::from_bytes([byte; 16]), TurnStatus::Complete, vec![Message::user("id")]);
        session.add(&next).await?;
        turns.push(next);
    }
    for (index, turn) in turns.iter().enumerate() {
        session.duplicate(&rebase(turn, Head::ABSENT), turn, index as u64 + 1).await?;
    }
    session.holds(&turns).await?;
    Ok(())
}

pub(super) async fn a_turn_of_many_messages_is_whole(instances: &Instances) -> Check {
    let session = instances.session();
    let many = turn_of((0..256).map(|number| Message::user(format!("message {number}"))).collect());
    let few = turn("after");
    session.add(&many).await?;
    session.add(&few).await?;
    session.elsewhere().holds(&[many, few]).await?;
    Ok(())
}

pub(super) async fn a_turn_without_messages_is_a_turn(instances: &Instances) -> Check {
    let session = instances.session();
    let empty = Turn::new(TurnId::random(), TurnStatus::Interrupted, Vec::new());
    let (before, after) = (turn("before"), turn("after"));
    for turn in [&before, &empty, &after] {
        session.add(turn).await?;
    }
    session.holds(&[before, empty.clone(), after]).await?;
    session.duplicate(&rebase(&empty, Head::ABSENT), &empty, 2).await
}

/// 1 MiB is what the layer lets through by default; a store may take less and says so.
pub(super) async fn a_large_turn_is_whole(instances: &Instances) -> Check {
    let session = instances.session();
    let most = instances.store().info().max_turn_bytes.unwrap_or(usize::MAX).min(1 << 20);
    let one_message = turn_of_bytes(most);
    let many_messages = turn_of((0..16).map(|_| message_of(most / 16)).collect());
    session.append(&rebase(&one_message, Head::ABSENT)).await?;
    session.add(&many_messages).await?;
    let loaded = session.elsewhere().load(Read::new(Window::ALL)).await?;
    same(&loaded.turns, &[one_message, many_messages])
}

/// For stores that name a limit; the others take the same turn.
pub(super) async fn a_turn_beyond_the_limit_is_refused_and_not_stored(instances: &Instances) -> Check {
    let session = instances.session();
    let most = instances.store().info().max_turn_bytes;
    let too_large = turn_of_bytes(most.unwrap_or(1 << 20).saturating_add(1));
    let Some(_) = most else {
        session.add(&too_large).await?;
        session.holds(&[too_large]).await?;
        return Ok(());
    };
    session.refuses(&rebase(&too_large, Head::ABSENT), ErrorKind::TooLarge).await?;
    let (turns, head) = session.fill(2).await?;
    session.refuses(&rebase(&too_large, head), ErrorKind::TooLarge).await?;
    session.holds(&turns).await?;
    Ok(())
}
