//! Clients that send the whole history, edit it, or branch.

use serde_json::{Value, json};

use crate::kit::*;

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn assistant(text: &str) -> Value {
    json!({"role": "assistant", "content": text})
}

async fn chat(bed: &Bed, messages: Vec<Value>, reply: &str) -> Value {
    bed.says(chat_reply(reply));
    let seen = bed.post(CHAT, json!({"messages": messages}).to_string()).await;
    assert_eq!(seen.status, 200, "{}", seen.text());
    bed.last().json()["messages"].clone()
}

fn texts(messages: &Value) -> Vec<&str> {
    messages.as_array().unwrap().iter().map(|message| message["content"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_client_that_sends_everything_again_does_not_double_it() {
    let bed = Bed::new();
    chat(&bed, vec![user("1")], "a").await;
    let sent = vec![json!({"role": "system", "content": "s"}), user("1"), assistant("a"), user("2")];
    let got = chat(&bed, sent.clone(), "b").await;
    assert_eq!(got, json!(sent), "it passes as it came");
    // In another spelling, as SDKs do.
    let spelled = json!({"content": [{"type": "text", "text": "b"}], "role": "assistant", "refusal": null});
    let sent = vec![user("1"), assistant("a"), user("2"), spelled, user("3")];
    assert_eq!(chat(&bed, sent.clone(), "c").await, json!(sent));
    assert_eq!(bed.stored().await.len(), 6);
    // And one that sends only what is new still has everything.
    assert_eq!(texts(&chat(&bed, vec![user("4")], "d").await), ["1", "a", "2", "b", "3", "c", "4"]);
}

#[tokio::test]
async fn a_client_that_sends_the_end_of_the_history_gets_the_rest_in_front() {
    let bed = Bed::new();
    chat(&bed, vec![user("1")], "a").await;
    chat(&bed, vec![user("2")], "b").await;
    let got = chat(&bed, vec![assistant("b"), user("3")], "c").await;
    assert_eq!(texts(&got), ["1", "a", "2", "b", "3"]);
    assert_eq!(bed.stored().await.len(), 6);
}

#[tokio::test]
async fn an_edited_question_is_a_branch() {
    let bed = Bed::new();
    chat(&bed, vec![user("1")], "a").await;
    chat(&bed, vec![user("2")], "b").await;
    let edited = vec![user("1"), assistant("a"), user("2, edited")];
    assert_eq!(chat(&bed, edited.clone(), "b2").await, json!(edited));
    assert_eq!(texts(&chat(&bed, vec![user("3")], "c").await), ["1", "a", "2, edited", "b2", "3"]);
    // The first question too, and the whole of it sent again after that.
    let edited = vec![user("1, edited"), assistant("a"), user("2")];
    chat(&bed, edited, "b3").await;
    assert_eq!(texts(&chat(&bed, vec![user("3")], "c").await), ["1, edited", "a", "2", "b3", "3"]);
}

#[tokio::test]
async fn a_reply_made_anew_replaces_the_old_one() {
    let bed = Bed::new();
    chat(&bed, vec![user("1")], "a").await;
    chat(&bed, vec![user("2")], "b").await;
    let again = vec![user("1"), assistant("a"), user("2")];
    assert_eq!(chat(&bed, again.clone(), "better").await, json!(again));
    assert_eq!(texts(&chat(&bed, vec![user("3")], "c").await), ["1", "a", "2", "better", "3"]);
}

#[tokio::test]
async fn a_first_request_may_bring_a_history() {
    let bed = Bed::new();
    chat(&bed, vec![user("1"), assistant("a"), user("2")], "b").await;
    assert_eq!(texts(&chat(&bed, vec![user("3")], "c").await), ["1", "a", "2", "b", "3"]);
}

#[tokio::test]
async fn the_same_words_twice_are_two_questions() {
    let bed = Bed::new();
    chat(&bed, vec![user("again")], "a").await;
    assert_eq!(texts(&chat(&bed, vec![user("again")], "b").await), ["again", "a", "again"]);
}

#[tokio::test]
async fn a_prefill_is_new() {
    let bed = Bed::new();
    chat(&bed, vec![user("1")], "a").await;
    assert_eq!(texts(&chat(&bed, vec![user("2"), assistant("Sure")], ", b").await), ["1", "a", "2", "Sure"]);
    assert_eq!(bed.stored().await.len(), 5);
}

#[tokio::test]
async fn a_paused_turn_is_sent_back_and_not_stored_twice() {
    let bed = Bed::new();
    let reply = |text: &str, stop: &str| {
        let content = json!([{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}, {"type": "text", "text": text}]);
        Said::json(json!({"id": "m", "type": "message", "role": "assistant", "content": content, "stop_reason": stop, "usage": {}}).to_string())
    };
    for whole in [false, true] {
        let bed = Bed::new();
        bed.says(reply("part one", "pause_turn"));
        bed.post(MESSAGES, json!({"messages": [user("q")]}).to_string()).await;
        let paused: Value = serde_json::from_str(&bed.stored().await[1]).unwrap();
        let sent = if whole { vec![user("q"), paused.clone()] } else { vec![paused.clone()] };
        bed.says(reply("part two", "end_turn"));
        bed.post(MESSAGES, json!({"messages": sent}).to_string()).await;
        assert_eq!(bed.last().json()["messages"], json!([user("q"), paused]));
        assert_eq!(bed.stored().await.len(), 3);
    }
    drop(bed);
}

#[tokio::test]
async fn responses_are_a_tree() {
    let bed = Bed::new();
    let reply = |id: &str, text: &str| {
        let output = json!([{"type": "reasoning", "id": format!("rs_{id}"), "summary": [], "encrypted_content": "x+/="},
            {"type": "message", "id": format!("msg_{id}"), "role": "assistant", "status": "completed", "content": [{"type": "output_text", "text": text, "annotations": []}]}]);
        Said::json(json!({"id": id, "object": "response", "status": "completed", "output": output}).to_string())
    };
    let said = |input: &Value| -> Vec<String> {
        let items = input.as_array().unwrap();
        items
            .iter()
            .filter(|item| item["type"] != "reasoning")
            .map(|item| match &item["content"] {
                Value::String(text) => text.clone(),
                parts => parts[0]["text"].as_str().unwrap().to_owned(),
            })
            .collect()
    };
    bed.says(reply("resp_1", "a"));
    bed.post(RESPONSES, json!({"model": "m", "input": "1"}).to_string()).await;
    assert_eq!(bed.last().json()["input"], "1");
    bed.says(reply("resp_2", "b"));
    bed.post(RESPONSES, json!({"input": "2", "previous_response_id": "resp_1"}).to_string()).await;
    let got = bed.last().json();
    assert_eq!(got["previous_response_id"], Value::Null);
    assert_eq!(said(&got["input"]), ["1", "a", "2"]);
    assert_eq!(got["input"][1]["encrypted_content"], "x+/=");
    // Another continuation of the first response.
    bed.says(reply("resp_3", "c"));
    bed.post(
        RESPONSES,
        json!({"input": [{"role": "user", "content": "3"}], "previous_response_id": "resp_1"}).to_string(),
    )
    .await;
    assert_eq!(said(&bed.last().json()["input"]), ["1", "a", "3"]);
    // Each goes on from where it says.
    for (id, expected) in [("resp_2", ["1", "a", "2", "b", "4"]), ("resp_3", ["1", "a", "3", "c", "4"])] {
        bed.says(reply(&format!("{id}_4"), "d"));
        bed.post(RESPONSES, json!({"input": "4", "previous_response_id": id}).to_string()).await;
        assert_eq!(said(&bed.last().json()["input"]), expected);
    }
    // Without a name the newest goes on; a conversation is the session.
    bed.says(reply("resp_5", "e"));
    bed.post(RESPONSES, json!({"input": "5", "conversation": "conv_x"}).to_string()).await;
    let got = bed.last().json();
    assert_eq!((said(&got["input"]).len(), &got["conversation"]), (7, &Value::Null));

    let seen = bed.post(RESPONSES, json!({"input": "6", "previous_response_id": "resp_9"}).to_string()).await;
    assert_eq!((seen.status.as_u16(), &seen.json()["error"]["code"]), (404, &"previous_response_not_found".into()));
    let both = json!({"input": "6", "previous_response_id": "resp_1", "conversation": "c"});
    assert_eq!(bed.post(RESPONSES, both.to_string()).await.status, 400);
}
