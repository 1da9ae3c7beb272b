//! Tool results that answer no call: not the layer's to judge, and never in a later request.

use http::StatusCode;

use crate::kit::*;

#[tokio::test]
async fn results_for_no_call_are_the_upstreams_to_refuse() {
    let orphan = r#"{"role":"tool","tool_call_id":"nobody","content":"r"}"#;
    let sent = format!(r#"{{"messages":[{orphan}]}}"#);
    let bed = Bed::new();
    let refusal = r#"{"error":{"message":"messages with role 'tool' must follow tool_calls"}}"#;
    bed.says(Said::json(refusal).status(StatusCode::BAD_REQUEST));
    let seen = bed.post(CHAT, sent.clone()).await;
    assert_eq!((seen.status, seen.text()), (StatusCode::BAD_REQUEST, refusal));
    assert_eq!(bed.last().text(), sent);
    assert!(bed.turns().await.is_empty());
    // An upstream that does not mind: kept as it came, and no later request is made invalid by it.
    bed.says(chat_reply("fine by me"));
    bed.post(CHAT, sent).await;
    assert_eq!(bed.stored().await[0], orphan);
    bed.says(chat_reply("ok"));
    bed.post(CHAT, r#"{"messages":[{"role":"user","content":"q"}]}"#).await;
    assert_eq!(
        bed.last().text(),
        r#"{"messages":[{"role":"assistant","content":"fine by me"},{"role":"user","content":"q"}]}"#
    );
}
