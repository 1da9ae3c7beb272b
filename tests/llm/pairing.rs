//! Whatever happened to a conversation, what the upstream gets keeps the provider's rules.

use proptest::prelude::*;
use serde_json::{Value, json};
use tower_session_memory::llm::ModelWindow;

use crate::converse::{Exchange, PATHS, Resent, converse, window};
use crate::kit::*;
use crate::rules::check;

#[test]
fn the_rules_find_what_breaks_them() {
    let call = json!({"role": "assistant", "content": null, "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]});
    let result = json!({"role": "tool", "tool_call_id": "a", "content": "r"});
    let user = json!({"role": "user", "content": "q"});
    let check = |messages: Vec<&Value>| check(CHAT, &json!({"messages": messages}));
    assert!(check(vec![&call, &result, &user]).is_ok());
    assert!(check(vec![&call, &user]).is_err());
    assert!(check(vec![&result]).is_err());
}

fn exchanges() -> impl Strategy<Value = Vec<Exchange>> {
    let copy = prop_oneof![3 => Just(Resent::None), 2 => proptest::sample::select(Resent::ALL.to_vec())];
    let end = prop_oneof![2 => Just(255u8), 1 => any::<u8>()];
    let exchange = (0usize..3, 0usize..8, end, copy, any::<u8>())
        .prop_map(|(results, reply, end, copy, at)| Exchange { results, reply, end, copy, at });
    proptest::collection::vec(exchange, 1..12)
}

/// Mostly one limit or two.
fn limits() -> impl Strategy<Value = [u8; 6]> {
    let limit = || prop_oneof![2 => Just(255u8), 1 => 0u8..192];
    let keep = prop_oneof![Just(60u8), 0u8..=101];
    (limit(), limit(), limit(), limit(), keep, 0u8..3).prop_map(|(a, b, c, d, keep, prefix)| [a, b, c, d, keep, prefix])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// For any turns, interruptions, forgotten results, resent and edited histories, and windows.
    #[test]
    fn what_the_model_gets_is_always_valid(path in 0..PATHS.len(), exchanges in exchanges(), limits in limits()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let outcome = runtime.block_on(converse(PATHS[path], &exchanges, window(limits)));
        prop_assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    }
}

/// An exchange of the property test, in short.
fn exchange((results, reply, end, copy): (usize, usize, u8, Resent)) -> Exchange {
    Exchange { results, reply, end, copy, at: 0 }
}

#[tokio::test]
async fn results_behind_a_resent_question_without_an_answer_keep_their_calls() {
    // The client answers one of the calls; the reply to that never comes; the client resends all.
    let exchanges =
        [(0, 1, 255, Resent::None), (1, 0, 255, Resent::None), (0, 1, 0, Resent::Asked), (0, 0, 255, Resent::Asked)];
    for path in PATHS {
        converse(path, &exchanges.clone().map(exchange), ModelWindow::default()).await.unwrap();
    }
}

#[tokio::test]
async fn a_forgotten_result_is_made_up_for_and_the_stored_turn_left_alone() {
    let bed = Bed::new();
    let call = r#"{"role":"assistant","content":null,"tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}},{"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}]}"#;
    bed.says(Said::json(format!(r#"{{"choices":[{{"message":{call},"finish_reason":"tool_calls"}}]}}"#)));
    bed.post(CHAT, r#"{"messages":[{"role":"user","content":"q"}]}"#).await;
    bed.says(chat_reply("ok"));
    let result = r#"{"role":"tool","tool_call_id":"b","content":"r"}"#;
    bed.post(CHAT, format!(r#"{{"messages":[{result},{{"role":"user","content":"never mind"}}]}}"#)).await;
    let made = r#"{"content":"[no result: the tool call was interrupted]","role":"tool","tool_call_id":"a"}"#;
    assert_eq!(
        bed.last().text(),
        format!(
            r#"{{"messages":[{{"role":"user","content":"q"}},{call},{result},{made},{{"role":"user","content":"never mind"}}]}}"#
        )
    );
    assert!(!bed.stored().await.iter().any(|message| message.contains("no result")));
    // The same again for the turn after that: from the store alone.
    bed.says(chat_reply("ok"));
    bed.post(CHAT, r#"{"messages":[{"role":"user","content":"x"}]}"#).await;
    assert!(bed.last().text().contains(&format!("{call},{result},{made},")));
}

#[tokio::test]
async fn a_call_that_broke_off_is_no_call() {
    let bed = Bed::new();
    let (content_type, reply) = ("text/event-stream", include_bytes!("golden/chat/cut_in_tool.sse"));
    bed.says(Said::new(content_type, [bytes::Bytes::from_static(reply)]));
    bed.post(CHAT, r#"{"messages":[{"role":"user","content":"q"}]}"#).await;
    bed.says(chat_reply("ok"));
    bed.post(CHAT, r#"{"messages":[{"role":"user","content":"x"}]}"#).await;
    assert_eq!(bed.last().json()["messages"][1], json!({"role": "assistant", "content": "Hm"}));
    assert!(bed.stored().await[1].contains("tool_calls"), "the stored one is whole as far as it came");
}
