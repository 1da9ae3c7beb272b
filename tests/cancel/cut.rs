//! Requests and commits dropped after any number of polls.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, service_fn};
use tower_session_memory::{ChatSession, Message, OnDisconnect, SessionMemoryLayer, TurnStatus};

use crate::{Hesitant, Scripted, Step, hesitate, layer, poll_at_most, request};

/// One request through a layer, cut after `polls` polls. `Some` when its end was seen.
async fn cut(polls: usize, memory: &SessionMemoryLayer, streamed: bool) -> Option<()> {
    let mut service = memory.layer(service_fn(move |request: Request<()>| async move {
        let session = request.extensions().get::<ChatSession>().unwrap().clone();
        drop(request);
        session.append(Message::user("question")).unwrap();
        hesitate().await;
        session.append(Message::assistant("answer")).unwrap();
        let steps = if streamed {
            vec![Step::Data("an"), Step::Wait, Step::Data("swer"), Step::Wait]
        } else {
            vec![Step::Data("answer")]
        };
        let _session = streamed.then_some(session);
        let body = Scripted {
            steps: steps.into_iter(),
            says_when_it_ends: !streamed,
            over: false,
            polls: Arc::default(),
            _session,
        };
        Ok::<_, Infallible>(Response::new(body))
    }));
    poll_at_most(polls, async move {
        let response = service.call(request()).await.unwrap();
        response.into_body().collect().await.unwrap();
    })
    .await
}

#[tokio::test]
async fn a_request_cut_after_any_number_of_polls_is_stored_whole_once_or_not_at_all() {
    for on_disconnect in [OnDisconnect::Keep, OnDisconnect::Discard, OnDisconnect::Finish] {
        for streamed in [false, true] {
            let mut ended = 0;
            for polls in 0..64 {
                let store = Hesitant::default();
                let memory = layer(&store, on_disconnect);
                let seen = cut(polls, &memory, streamed).await;
                memory.drain(Duration::from_secs(10)).await.unwrap();
                let turns = store.turns().await;
                let context = format!("{on_disconnect:?}, streamed: {streamed}, {polls} polls: {turns:?}");
                assert!(turns.len() <= 1, "{context}");
                if let Some(turn) = turns.first() {
                    let whole = turn.messages().len() == 2;
                    assert!(whole || turn.status() == TurnStatus::Interrupted, "{context}");
                }
                if seen.is_some() {
                    ended += 1;
                    assert!(turns.len() == 1 && turns[0].status() == TurnStatus::Complete, "{context}");
                }
                assert_eq!(memory.pending(), 0, "{context}");
            }
            assert!(ended > 0, "64 polls are enough to see the end");
        }
    }
}

#[tokio::test]
async fn a_commit_dropped_after_any_number_of_polls_goes_on() {
    for polls in 1..20 {
        let store = Hesitant::default();
        let memory = layer(&store, OnDisconnect::Discard);
        let mut service = memory.layer(service_fn(move |request: Request<()>| async move {
            let session = request.extensions().get::<ChatSession>().unwrap().clone();
            session.append(Message::user("question")).unwrap();
            // A handler that gives up waiting for its own commit, and then asks again.
            let first = poll_at_most(polls, session.commit()).await;
            let again = session.commit().await.unwrap();
            assert!(first.is_none_or(|first| first.unwrap() == again));
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
        }));
        service.call(request()).await.unwrap();
        assert_eq!(store.turns().await.len(), 1, "{polls} polls");
    }
}
