//! Listings.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use super::kit::{Check, Instances, Session, ensure, together, told, turn};
use crate::key::{ConversationId, Scope, SessionKey, Subject, Tenant};
use crate::store::{Append, Cursor, Page, SessionEntry, Store};

/// Names that no other run uses.
struct Names(String);

impl Names {
    fn new() -> Self {
        Self(ConversationId::random().as_str().to_owned())
    }

    fn subject(&self, name: &str) -> Check<Subject> {
        Subject::new(&format!("{}{name}", self.0)).map_err(|error| error.to_string())
    }

    fn tenant(&self, name: &str) -> Check<Tenant> {
        Tenant::new(&format!("{}{name}", self.0)).map_err(|error| error.to_string())
    }
}

fn owned(instances: &Instances, subject: &Subject) -> Session {
    instances.session_of(SessionKey::new(ConversationId::random()).with_subject(subject.clone()))
}

/// All pages of this size, from alternating instances.
async fn pages(instances: &Instances, scope: &Scope, limit: usize) -> Check<Vec<SessionEntry>> {
    const ENDLESS: usize = 100_000;
    let (mut entries, mut after, mut count) = (Vec::new(), None, 0usize);
    loop {
        let store = if count.is_multiple_of(2) { instances.store() } else { instances.second() };
        let page = told("list", store.list(scope, &Page::first(limit).after(after)).await)?;
        let full = page.sessions.len();
        ensure!(full <= limit, "a page of at most {limit} has {full} entries");
        entries.extend(page.sessions);
        count += 1;
        ensure!(count < ENDLESS, "the listing has no end");
        match page.next {
            Some(cursor) => after = Some(cursor),
            None => return Ok(entries),
        }
    }
}

fn keys(entries: &[SessionEntry]) -> Vec<SessionKey> {
    entries.iter().map(|entry| entry.key.clone()).collect()
}

/// Waits until the clock has moved on, so that what comes next is more recent.
async fn tick() {
    const SEVERAL_MILLIS: Duration = Duration::from_millis(5);
    let began = (Instant::now(), SystemTime::now());
    while began.0.elapsed() < SEVERAL_MILLIS || SystemTime::now() < began.1 + SEVERAL_MILLIS {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(super) async fn the_most_recently_active_comes_first(instances: &Instances) -> Check {
    let subject = Names::new().subject("")?;
    let sessions = [0, 1, 2].map(|_| owned(instances, &subject));
    let mut heads = HashMap::new();
    for index in [0, 1, 2, 0] {
        tick().await;
        heads.insert(sessions[index].key.clone(), sessions[index].add(&turn("hello")).await?.head);
    }
    let scope = Scope::all().subject(subject);
    for limit in [1, 2, 3, 10] {
        let entries = pages(instances, &scope, limit).await?;
        let expected = [0, 2, 1].map(|index: usize| sessions[index].key.clone());
        ensure!(keys(&entries) == expected, "with pages of {limit} the order is not that of the newest turns");
        ensure!(entries.is_sorted_by(|a, b| a.last_active >= b.last_active), "last_active does not fall: {entries:?}");
        for entry in &entries {
            ensure!(heads[&entry.key] == entry.head, "listed at {:?}, and is at {:?}", entry.head, heads[&entry.key]);
        }
    }
    Ok(())
}

/// Twenty sessions that become active at once: equal times must not hide any.
pub(super) async fn pages_show_each_session_once(instances: &Instances) -> Check {
    let subject = Names::new().subject("")?;
    let sessions: Vec<Session> = (0..20).map(|_| owned(instances, &subject)).collect();
    let begin = sessions.iter().cloned().map(|session| async move { session.add(&turn("hello")).await });
    together(begin).await?.into_iter().collect::<Check<Vec<_>>>()?;
    let mut expected: Vec<SessionKey> = sessions.iter().map(|session| session.key.clone()).collect();
    expected.sort();
    let scope = Scope::all().subject(subject);
    for limit in [1, 3, 7, 19, 20, 21, usize::MAX] {
        let mut seen = keys(&pages(instances, &scope, limit).await?);
        seen.sort();
        ensure!(seen == expected, "pages of {limit} show {} entries of 20 sessions", seen.len());
    }
    Ok(())
}

pub(super) async fn the_last_page_says_that_it_is_the_last(instances: &Instances) -> Check {
    let subject = Names::new().subject("")?;
    let scope = Scope::all().subject(subject.clone());
    let list = async |limit| told("list", instances.store().list(&scope, &Page::first(limit)).await);
    let none = list(5).await?;
    ensure!(none.sessions.is_empty() && none.next.is_none(), "a subject without sessions has a page: {none:?}");
    for _ in 0..2 {
        owned(instances, &subject).add(&turn("hello")).await?;
    }
    ensure!(list(5).await?.next.is_none(), "a page with room to spare has a next page");
    ensure!(list(1).await?.next.is_some(), "the first of two pages says that it is the last");
    Ok(())
}

pub(super) async fn a_scope_names_its_sessions_and_no_others(instances: &Instances) -> Check {
    let names = Names::new();
    let mut sessions = Vec::new();
    // Each pair of names is one that a careless pattern, prefix or separator would take for the other.
    for tenant in [None, Some(""), Some("x"), Some("%"), Some(":")] {
        for subject in [None, Some(""), Some("x"), Some("_"), Some("%"), Some("*"), Some("X"), Some(":x")] {
            let key = SessionKey::from_parts(
                tenant.map(|name| names.tenant(name)).transpose()?,
                subject.map(|name| names.subject(name)).transpose()?,
                ConversationId::random(),
            );
            // A session without an owner is in the scope of all only, among those of everybody.
            if tenant.is_some() || subject.is_some() {
                instances.session_of(key.clone()).add(&turn("hello")).await?;
                sessions.push(key);
            }
        }
    }
    let mut scopes: Vec<Scope> = sessions.iter().map(Scope::of).collect();
    scopes.push(Scope::all().subject(names.subject("nobody")?));
    scopes.push(Scope::all().tenant(names.tenant("nobody")?));
    for scope in scopes {
        let mut expected: Vec<SessionKey> = sessions.iter().filter(|key| scope.contains(key)).cloned().collect();
        expected.sort();
        let mut seen = keys(&pages(instances, &scope, 3).await?);
        seen.sort();
        ensure!(seen == expected, "{} sessions are listed in a scope of {}", seen.len(), expected.len());
    }
    Ok(())
}

/// The store may hold anything else: each of ours must be among all, once.
pub(super) async fn the_scope_of_all_shows_everybodys_sessions(instances: &Instances) -> Check {
    let names = Names::new();
    let ours = [
        instances.session(),
        owned(instances, &names.subject("")?),
        instances.session_of(SessionKey::new(ConversationId::random()).with_tenant(names.tenant("")?)),
    ];
    for session in &ours {
        session.add(&turn("hello")).await?;
    }
    let all = keys(&pages(instances, &Scope::all(), 1_000).await?);
    for session in &ours {
        let count = all.iter().filter(|key| **key == session.key).count();
        ensure!(count == 1, "a session is listed {count} times among all");
    }
    Ok(())
}

pub(super) async fn sessions_without_turns_are_not_listed(instances: &Instances) -> Check {
    let subject = Names::new().subject("")?;
    let scope = Scope::all().subject(subject.clone());
    let (loaded, deleted, expired, live) = (
        owned(instances, &subject),
        owned(instances, &subject),
        owned(instances, &subject),
        owned(instances, &subject),
    );
    loaded.all().await?;
    for session in [&deleted, &live] {
        session.add(&turn("hello")).await?;
    }
    let (ttl, began) = (Duration::from_millis(200), Instant::now());
    expired.append(&Append::unconditional(turn("brief")).ttl(Some(ttl))).await?;
    deleted.delete().await?;
    expired.expires(began, ttl).await?;
    ensure!(keys(&pages(instances, &scope, 1).await?) == [live.key.clone()], "more than the live session is listed");

    deleted.append(&Append::new(turn("anew"), deleted.head().await?)).await?;
    let count = pages(instances, &scope, 1).await?.len();
    ensure!(count == 2, "{count} sessions are listed, one of two was begun anew");
    live.delete().await?;
    ensure!(keys(&pages(instances, &scope, 9).await?) == [deleted.key], "a deleted session is listed");
    Ok(())
}

pub(super) async fn a_turn_in_time_keeps_a_session_listed(instances: &Instances) -> Check {
    let subject = Names::new().subject("")?;
    let session = owned(instances, &subject);
    let witness = instances.session();
    let ttl = Duration::from_millis(400);
    session.append(&Append::unconditional(turn("first")).ttl(Some(ttl))).await?;
    session.append(&Append::unconditional(turn("second"))).await?;
    let began = Instant::now();
    witness.append(&Append::unconditional(turn("witness")).ttl(Some(ttl))).await?;
    witness.expires(began, ttl).await?;
    let listed = pages(instances, &Scope::all().subject(subject), 9).await?;
    ensure!(keys(&listed) == [session.key], "a session that lives for ever is not listed");
    Ok(())
}

/// A cursor comes back from a client: it may be anything, and must not lead out of the scope.
pub(super) async fn a_foreign_cursor_opens_no_other_scope(instances: &Instances) -> Check {
    let names = Names::new();
    let (mine, theirs) = (names.subject("mine")?, names.subject("theirs")?);
    for subject in [&mine, &mine, &theirs, &theirs] {
        owned(instances, subject).add(&turn("hello")).await?;
    }
    let (my_scope, their_scope) = (Scope::all().subject(mine.clone()), Scope::all().subject(theirs));
    let next = told("list", instances.store().list(&their_scope, &Page::first(1)).await)?.next;
    let mut cursors: Vec<String> = next.into_iter().map(|cursor| cursor.0).collect();
    let nonsense =
        ["", " ", "0", "9999999999999999999999 x", "' OR 1=1 --", "*", "%", "\u{0}", "é", "{}", "return 1", "a b c"];
    cursors.extend(nonsense.map(str::to_owned));
    cursors.push("x".repeat(10_000));
    for cursor in cursors {
        // An error is as good an answer as a page.
        let page = Page::first(9).after(Some(Cursor(cursor)));
        if let Ok(page) = instances.store().list(&my_scope, &page).await {
            let inside = page.sessions.iter().all(|entry| entry.key.subject() == Some(&mine));
            ensure!(inside, "a foreign cursor shows sessions of another subject");
        }
    }
    let count = pages(instances, &my_scope, 1).await?.len();
    ensure!(count == 2, "{count} of 2 sessions are listed afterwards");
    Ok(())
}
