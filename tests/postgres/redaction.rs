//! Canaries in every id and message, on every way in which the database can quote them: none comes out
//! in a log line, a response or a `Debug`.

use std::convert::Infallible;

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_session_memory::identity::{Header, Scoped};
use tower_session_memory::{ChatSession, Message, ResponseBody, SessionMemoryLayer};

use crate::common::logs::Logs;
use crate::faults::raising;
use crate::kit::{store_in, told};
use crate::server::SHARED;

type Body = Full<&'static [u8]>;

/// Asks once; all that comes back.
async fn ask<S>(service: &S, key: &str) -> (u16, String)
where
    S: Service<Request<Body>, Response = Response<ResponseBody<Full<bytes::Bytes>>>, Error = Infallible> + Clone,
{
    let request = Request::builder().header("x-user-id", "canary-user").header("x-conversation-id", "canary-id");
    let request = request.header("idempotency-key", key).body(Body::default()).unwrap();
    let (parts, body) = service.clone().oneshot(request).await.unwrap().into_parts();
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    (parts.status.as_u16(), format!("{:?} {body}", parts.headers))
}

#[tokio::test]
async fn canaries_stay_inside() {
    let logs = Logs::capture();
    let store = store_in(&SHARED, "redacted").await;
    let identity = Scoped::new(Header::subject("x-user-id"), Header::conversation("x-conversation-id"));
    let memory = SessionMemoryLayer::new(store.clone(), identity);
    let service = memory.layer(service_fn(|request: Request<Body>| async move {
        let session = request.extensions().get::<ChatSession>().unwrap();
        session.append(Message::user("canary-question")).unwrap();
        Ok::<_, Infallible>(Response::new(Full::new(bytes::Bytes::new())))
    }));
    let mut told_to_clients = String::new();
    let mut asked = 0;
    let mut ask = async |expected: u16| {
        asked += 1;
        let (status, answer) = ask(&service, &format!("canary-{asked}")).await;
        assert_eq!(status, expected, "{answer}");
        told_to_clients.push_str(&answer);
    };
    ask(200).await;

    // What triggers and constraints say may quote the row.
    for (body, code, status) in [
        ("RAISE EXCEPTION '%', NEW.record", "P0001", 500),
        ("RAISE EXCEPTION '%', NEW.record USING ERRCODE = '40001'", "40001", 503),
        ("RAISE EXCEPTION 'no' USING DETAIL = NEW.record::text, HINT = NEW.record::text", "P0001", 500),
        ("PERFORM NEW.record::text::integer", "22P02", 500),
        ("INSERT INTO redacted.turn SELECT NEW.*", "23505", 500),
    ] {
        SHARED.psql(&raising("redacted", body), &[]).unwrap();
        ask(status).await;
        logs.line(&["ERROR", "turn not committed", code]);
        SHARED.psql("DROP FUNCTION redacted.fail() CASCADE", &[]).unwrap();
    }

    // Records that are damaged, newer, or not as they were written at all.
    for record in [
        r#"replace(record::text, 'question', 'question!')::json"#,
        r#"('{"v":2,' || substr(record::text, 8))::json"#,
        r#"'{"canary": "canary"}'"#,
    ] {
        SHARED.psql("CREATE TABLE redacted.kept AS SELECT * FROM redacted.turn", &[]).unwrap();
        SHARED.psql(&format!("UPDATE redacted.turn SET record = {record}"), &[]).unwrap();
        let before = logs.count("history not loaded");
        ask(500).await;
        assert_eq!(logs.count("history not loaded"), before + 1, "{record}");
        SHARED.psql("UPDATE redacted.turn t SET record = k.record FROM redacted.kept k", &[]).unwrap();
        SHARED.psql("DROP TABLE redacted.kept", &[]).unwrap();
    }
    ask(200).await;

    let error = store.erase(None, &tower_session_memory::Subject::new("canary").unwrap()).await;
    let debug = format!("{store:?} {memory:?} {:?}", error.map_err(|error| told(&error)));
    for (what, text) in [("a log line", logs.text()), ("an answer", told_to_clients), ("Debug", debug)] {
        if let Some(line) = text.lines().find(|line| line.contains("canary")) {
            panic!("{what} has a canary: {line}");
        }
    }
}
