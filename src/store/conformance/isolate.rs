//! Keys and text are data.

use std::collections::HashSet;

use super::kit::{Check, Instances, Session, ensure, rebase, same, turn, turn_of};
use crate::key::{ConversationId, Scope, SessionKey, Subject, Tenant};
use crate::message::Message;
use crate::policy::Window;
use crate::store::{Page, Read, Store};
use crate::turn::{Head, Turn};

/// Names that separators, patterns, hash tags, collations and commands would confuse.
const NAMES: &[&str] = &[
    "a",
    "A",
    "aa",
    "á",
    "a\u{301}",
    "а",
    "ａ",
    " a",
    "a ",
    "a\t",
    "a\n",
    "a\r\n",
    "a\u{0}",
    "\u{0}",
    "a:b",
    "a/b",
    "a|b",
    "a%b",
    "a%2Fb",
    "a%252Fb",
    "%61",
    "a_b",
    "a.b",
    "a-b",
    "a~b",
    "*",
    "?",
    "[a]",
    "a*",
    "{a}",
    "{}",
    "}{",
    "a{b}c",
    "a\\",
    "a'",
    "a\"",
    "a`",
    "a;b",
    "..",
    "../a",
    "-1",
    "0",
    "00",
    "null",
    "NULL",
    "true",
    "ß",
    "ss",
    "İ",
    "i",
    "ı",
    "😀",
    "'; DROP TABLE sessions; --",
    "' OR '1'='1",
    "$1",
    ":a",
    "@a",
    "return redis.call('FLUSHALL')",
    "EVAL \"return 1\" 0",
    "*3\r\n$3\r\nSET\r\n",
    "${jndi:ldap://a}",
    "{{7*7}}",
    "<script>",
    "\u{202e}a",
    "\u{feff}a",
];

fn text(error: crate::key::KeyError) -> String {
    error.to_string()
}

/// One session for every place a name can stand in, all of one conversation id.
fn look_alikes(instances: &Instances) -> Check<Vec<Session>> {
    let conversation = ConversationId::random();
    let plain = SessionKey::new(conversation.clone());
    let mut keys = vec![plain.clone()];
    for name in NAMES {
        let (subject, tenant) = (Subject::new(name).map_err(text)?, Tenant::new(name).map_err(text)?);
        keys.push(plain.with_subject(subject.clone()));
        keys.push(plain.with_tenant(tenant.clone()));
        keys.push(plain.with_subject(subject).with_tenant(tenant));
    }
    for parts in [&["a", "b"][..], &["a", "a"], &["a", "b", "a"], &["a/b", "a"], &["a", "b/a"]] {
        keys.push(plain.with_subject(Subject::from_parts(parts).map_err(text)?));
        keys.push(plain.with_tenant(Tenant::from_parts(parts).map_err(text)?));
    }
    let id = conversation.as_str();
    for alike in
        [id.to_uppercase(), id[1..].to_owned(), format!("{id}."), format!("{id}-"), format!("{id}~"), format!("_{id}")]
    {
        keys.push(SessionKey::new(ConversationId::parse(&alike).map_err(text)?));
    }
    let distinct: HashSet<SessionKey> = keys.into_iter().collect();
    Ok(distinct.into_iter().map(|key| instances.session_of(key)).collect())
}

pub(super) async fn keys_that_look_alike_are_different_sessions(instances: &Instances) -> Check {
    let sessions = look_alikes(instances)?;
    let mut turns: Vec<Vec<Turn>> = Vec::new();
    for session in &sessions {
        let first = turn(session.key.encoded());
        let answer = session.append(&rebase(&first, Head::ABSENT)).await?;
        ensure!(answer.head.sequence == 1, "{} had a turn before its first one", session.key.encoded());
        turns.push(vec![first]);
    }
    // Every other one is deleted and begun anew; the rest must not notice.
    for (session, turns) in sessions.iter().zip(&mut turns).step_by(2) {
        session.elsewhere().delete().await?;
        turns.clear();
    }
    for (session, turns) in sessions.iter().zip(&turns) {
        session.holds(turns).await.map_err(|seen| format!("{}: {seen}", session.key.encoded()))?;
    }
    for (session, turns) in sessions.iter().zip(&mut turns) {
        let next = turn("next");
        session.add(&next).await?;
        turns.push(next);
    }
    for (session, turns) in sessions.iter().zip(&turns) {
        session.elsewhere().holds(turns).await.map_err(|seen| format!("{}: {seen}", session.key.encoded()))?;
    }
    Ok(())
}

pub(super) async fn listed_keys_are_the_keys_that_were_stored(instances: &Instances) -> Check {
    for name in NAMES {
        let (subject, tenant) = (Subject::new(name).map_err(text)?, Tenant::new(name).map_err(text)?);
        // The tenant is unique to this run, so that the scope holds one session.
        let unique = ConversationId::random();
        let tenant = Tenant::from_parts(&[unique.as_str(), &tenant.parts()[0]]).map_err(text)?;
        let key = SessionKey::from_parts(Some(tenant), Some(subject), ConversationId::random());
        instances.session_of(key.clone()).add(&turn("hello")).await?;
        let page = instances.second().list(&Scope::of(&key), &Page::first(9)).await;
        let page = super::kit::told("list", page)?;
        let keys: Vec<&SessionKey> = page.sessions.iter().map(|entry| &entry.key).collect();
        ensure!(keys == [&key], "{} keys are listed for {}", keys.len(), key.encoded());
    }
    Ok(())
}

/// Several kilobytes that do not compress, as `SessionKey` allows them.
pub(super) async fn the_longest_keys_are_keys(instances: &Instances) -> Check {
    let noise = |bytes: usize| {
        let mut noise = String::new();
        while noise.len() < bytes {
            // Characters of two bytes, so that each is escaped to six.
            noise.extend(crate::hex::random_16().map(|byte| char::from(byte | 0x80)));
        }
        noise.truncate(bytes);
        noise
    };
    let (one, two) = (noise(Subject::MAX_BYTES), noise(Subject::MAX_BYTES));
    let subject = Subject::from_parts(&[&one, &two]).map_err(text)?;
    let tenant = Tenant::new(&noise(Tenant::MAX_BYTES)).map_err(text)?;
    let id = |last: char| ConversationId::parse(&format!("{}{last}", "x".repeat(ConversationId::MAX_BYTES - 1)));
    let mut keys = Vec::new();
    // They differ in their very last byte.
    for last in ['a', 'b'] {
        keys.push(SessionKey::from_parts(Some(tenant.clone()), Some(subject.clone()), id(last).map_err(text)?));
    }
    let sessions: Vec<Session> = keys.iter().map(|key| instances.session_of(key.clone())).collect();
    for session in &sessions {
        let (first, second) = (turn("first"), turn("second"));
        let head = session.append(&rebase(&first, Head::ABSENT)).await?.head;
        session.elsewhere().append(&rebase(&second, head)).await?;
        session.duplicate(&rebase(&first, head), &first, 1).await?;
        session.holds(&[first, second]).await?;
    }
    let page = instances.store().list(&Scope::of(&keys[0]), &Page::first(9)).await;
    let mut listed: Vec<SessionKey> =
        super::kit::told("list", page)?.sessions.into_iter().map(|entry| entry.key).collect();
    listed.sort();
    ensure!(listed == keys, "{} of 2 sessions of the longest keys are listed", listed.len());
    sessions[0].delete().await?;
    sessions[0].holds(&[]).await?;
    ensure!(sessions[1].all().await?.turns.len() == 2, "a key that differs in its last byte was deleted as well");
    Ok(())
}

pub(super) async fn hostile_text_is_data(instances: &Instances) -> Check {
    let (session, bystander) = (instances.session(), instances.session());
    let (kept, _) = bystander.fill(2).await?;
    let messages: Vec<Message> =
        NAMES.iter().flat_map(|name| [Message::user(name), Message::tool(name, name)]).collect();
    let mut turns = vec![turn_of(messages.clone())];
    for message in messages {
        turns.push(turn_of(vec![message]));
    }
    for turn in &turns {
        session.add(turn).await?;
    }
    same(&session.elsewhere().load(Read::new(Window::ALL)).await?.turns, &turns)?;
    for (index, turn) in turns.iter().enumerate().step_by(10) {
        session.duplicate(&rebase(turn, Head::ABSENT), turn, index as u64 + 1).await?;
    }
    bystander.holds(&kept).await?;
    Ok(())
}
