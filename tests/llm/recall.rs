//! Replies of the Responses API that are fetched by their ids, and those that are not at their end.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::kit::*;

fn request(method: Method, path: &str) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri(path).header("x-conversation-id", "c1").body(Full::default()).unwrap()
}

fn response(id: &str, status: &str, text: Option<&str>) -> Value {
    let output = text.map(|text| {
        json!({"type": "message", "id": "msg", "role": "assistant", "status": status,
            "content": [{"type": "output_text", "text": text, "annotations": []}]})
    });
    json!({"id": id, "object": "response", "created_at": 1, "status": status, "model": "m",
        "output": output.into_iter().collect::<Vec<_>>(), "usage": {"total_tokens": 2}})
}

async fn ask(bed: &Bed, id: &str, text: &str, previous: Option<&str>) {
    bed.says(Said::json(response(id, "completed", Some(text)).to_string()));
    let body = json!({"model": "m", "input": "q", "previous_response_id": previous});
    assert_eq!(bed.post(RESPONSES, body.to_string()).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_reply_that_the_session_has_is_fetched_without_the_upstream() {
    let bed = Bed::new();
    ask(&bed, "resp_1", "a", None).await;
    ask(&bed, "resp_2", "b", Some("resp_1")).await;
    for (id, text) in [("resp_1", "a"), ("resp_2", "b")] {
        let seen = bed.send(request(Method::GET, &format!("/v1/responses/{id}?include=x"))).await;
        assert_eq!(
            (seen.status, &seen.headers["content-type"]),
            (StatusCode::OK, &"application/json".parse().unwrap())
        );
        let (mut got, expected) = (seen.json(), response(id, "completed", Some(text)));
        for field in ["tools", "tool_choice"] {
            got.as_object_mut().unwrap().remove(field);
        }
        assert_eq!(got, expected);
        assert!(!seen.headers.contains_key("idempotent-replayed"));
    }
    let seen = bed.send(request(Method::GET, "/v1/responses/resp_2?stream=true")).await;
    assert_eq!(seen.headers["content-type"], "text/event-stream");
    assert!(seen.text().contains("response.output_text.delta") && seen.text().contains("response.completed"));
    assert_eq!(bed.got().len(), 2, "the upstream saw the questions alone");
    assert_eq!(bed.turns().await.len(), 2, "and nothing was added");
}

#[tokio::test]
async fn what_the_session_does_not_know_is_the_upstreams() {
    let bed = Bed::new();
    ask(&bed, "resp_1", "a", None).await;
    for (method, path) in [
        (Method::GET, "/v1/responses/resp_9"),
        (Method::DELETE, "/v1/responses/resp_9"),
        (Method::GET, "/v1/responses/resp_1/input_items"),
        (Method::POST, "/v1/responses/resp_1/cancel"),
        (Method::GET, "/v1/responses/resp_1?stream=true&starting_after=3"),
        (Method::GET, "/v1/responses/"),
    ] {
        bed.says(Said::json("{}").status(StatusCode::IM_A_TEAPOT));
        assert_eq!(bed.send(request(method, path)).await.status, StatusCode::IM_A_TEAPOT, "{path}");
    }
    // Another conversation's replies are as unknown as any.
    let mut other = request(Method::GET, "/v1/responses/resp_1");
    other.headers_mut().insert("x-conversation-id", "c2".parse().unwrap());
    bed.says(Said::json("{}").status(StatusCode::NOT_FOUND));
    assert_eq!(bed.send(other).await.status, StatusCode::NOT_FOUND);
    // Of a reply that broke off the upstream may have the rest.
    let cut = include_bytes!("golden/responses/completed.sse");
    let bed = Bed::new();
    bed.says(Said::new("text/event-stream", [Bytes::from_static(&cut[..cut.len() / 2])]));
    bed.post(RESPONSES, r#"{"stream":true,"input":"q"}"#).await;
    let note = bed.turns().await[0].note().unwrap().to_owned();
    let id = serde_json::from_str::<Value>(&note).unwrap()["reply"].as_str().unwrap().to_owned();
    bed.says(Said::json("{}").status(StatusCode::IM_A_TEAPOT));
    let seen = bed.send(request(Method::GET, &format!("/v1/responses/{id}"))).await;
    assert_eq!(seen.status, StatusCode::IM_A_TEAPOT);
}

#[tokio::test]
async fn a_reply_is_not_deleted_alone_and_nobody_is_told_that_it_was() {
    let bed = Bed::new();
    ask(&bed, "resp_1", "a", None).await;
    let seen = bed.send(request(Method::DELETE, "/v1/responses/resp_1")).await;
    assert_eq!((seen.status, &seen.headers["allow"]), (StatusCode::METHOD_NOT_ALLOWED, &"GET".parse().unwrap()));
    assert_eq!(seen.json()["error"]["code"], "response_not_deletable");
    assert_eq!((bed.got().len(), bed.turns().await.len()), (1, 1));
}

#[tokio::test]
async fn an_answer_that_is_not_at_its_end_is_no_turn() {
    let bed = Bed::new();
    ask(&bed, "resp_1", "a", None).await;
    for status in ["queued", "in_progress"] {
        let reply = response("resp_bg", status, None).to_string();
        bed.says(Said::json(reply.clone()));
        let seen = bed.post(RESPONSES, r#"{"input":"long","background":true}"#).await;
        assert_eq!((seen.status, seen.text()), (StatusCode::OK, &*reply), "the client gets it all the same");
        assert_eq!(bed.turns().await.len(), 1);
    }
    // Its polls go to whoever works on it, and are no turns either.
    for status in ["in_progress", "completed"] {
        let reply = response("resp_bg", status, Some("done")).to_string();
        bed.says(Said::json(reply.clone()));
        assert_eq!(bed.send(request(Method::GET, "/v1/responses/resp_bg")).await.text(), reply);
    }
    assert_eq!(bed.turns().await.len(), 1);
    let seen = bed.post(RESPONSES, r#"{"input":"x","previous_response_id":"resp_bg"}"#).await;
    assert_eq!((seen.status, &seen.json()["code"]), (StatusCode::NOT_FOUND, &"previous_response_not_found".into()));
    // The conversation goes on from what it has.
    bed.says(Said::json(response("resp_2", "completed", Some("b")).to_string()));
    bed.post(RESPONSES, r#"{"input":"x"}"#).await;
    assert!(!bed.last().text().contains("long"));
}

#[tokio::test]
async fn in_the_background_but_streamed_it_is_stored_at_its_end() {
    let event = |kind: &str, status: &str, text: Option<&str>| {
        let event = json!({"type": kind, "sequence_number": 0, "response": response("resp_bg", status, text)});
        format!("event: {kind}\ndata: {event}\n\n")
    };
    let begun = event("response.queued", "queued", None) + &event("response.in_progress", "in_progress", None);
    let whole = begun.clone() + &event("response.completed", "completed", Some("done"));
    for (stream, complete) in [(begun, false), (whole, true)] {
        let bed = Bed::new();
        bed.says(Said::new("text/event-stream", [Bytes::from(stream)]));
        bed.post(RESPONSES, r#"{"input":"q","background":true,"stream":true}"#).await;
        let turns = bed.turns().await;
        assert_eq!(turns[0].status() == tower_session_memory::TurnStatus::Complete, complete);
        if complete {
            let seen = bed.send(request(Method::GET, "/v1/responses/resp_bg")).await;
            assert_eq!(seen.json()["output"][0]["content"][0]["text"], "done");
        }
    }
}
