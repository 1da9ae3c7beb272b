//! Anything at all in the place of a message, or of a stored record.

use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tower_session_memory::{ConversationId, Message, Role, SessionKey, Turn, TurnId, TurnStatus};

fn session(id: &str) -> SessionKey {
    SessionKey::new(ConversationId::parse(id).expect("an id"))
}

pub(super) fn messages(input: &[u8]) {
    let Ok(message) = Message::from_json(Bytes::copy_from_slice(input)) else {
        assert!(Message::from_client(Bytes::copy_from_slice(input)).is_err());
        return;
    };
    assert_eq!(message.json().as_bytes(), input.trim_ascii(), "byte for byte");
    assert_eq!((message.len(), message.is_empty()), (message.json().len(), false));
    // A reader of another make finds the same.
    let value: Value = serde_json::from_str(message.json()).expect("JSON");
    assert_eq!(value["role"].as_str(), Some(message.role().as_str()));
    if let Value::String(text) = &value["content"] {
        assert_eq!(message.text().as_deref(), Some(&**text));
    }
    let client = matches!(message.role(), Role::User | Role::Tool);
    assert_eq!(Message::from_client(Bytes::copy_from_slice(input)).is_ok(), client);
    assert_eq!(message.decode::<Value>().expect("JSON"), value);
    message.content();
    message.tool_calls();
    message.tool_call_id();

    let (own, other) = (session("c"), session("d"));
    let turn = Turn::new(TurnId::from_bytes([7; 16]), TurnStatus::Complete, vec![message.clone(), message]);
    let record = turn.to_record(&own);
    assert!(Turn::from_record(&own, record.clone()).as_ref() == Ok(&turn), "what is written can be read");
    assert!(Turn::from_record(&other, record).is_err(), "another session's");
}

pub(super) fn records(input: &[u8]) {
    let own = session("c");
    // As it came, and under a checksum that is right.
    let name = own.encoded();
    let sum = Sha256::new()
        .chain_update(b"tower-session-memory record\0")
        .chain_update((name.len() as u64).to_be_bytes())
        .chain_update(name)
        .chain_update(input)
        .finalize();
    let sum: String = sum[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    for record in [input.to_vec(), [input, format!(r#","sum":"{sum}"}}"#).as_bytes()].concat()] {
        if let Ok(turn) = Turn::from_record(&own, record.clone()) {
            let stands = |text: &str| record.windows(text.len()).any(|window| window == text.as_bytes());
            assert!(turn.messages().iter().all(|message| stands(message.json())), "nothing is made up");
            let again = turn.to_record(&own);
            assert!(Turn::from_record(&own, again).as_ref() == Ok(&turn), "what is read can be written");
        }
    }
}
