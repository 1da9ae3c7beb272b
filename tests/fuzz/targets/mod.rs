//! What is fuzzed: functions of any bytes that panic when a promise is broken.

mod identity;
mod stored;
mod wire;

#[path = "../../llm/converse.rs"]
mod converse;
#[path = "../../llm/kit.rs"]
#[allow(dead_code, reason = "the tests of the layer use the rest")]
mod kit;
#[path = "../../llm/rules.rs"]
mod rules;
#[path = "../../identity/tokens.rs"]
#[allow(dead_code, reason = "the tests of identity use the rest")]
mod tokens;

/// Takes any bytes.
pub(crate) type Target = fn(&[u8]);

/// Each with its name, which is also that of its folder in the corpus.
pub(crate) const TARGETS: [(&str, Target); 8] = [
    ("cookies", identity::cookies),
    ("headers", identity::headers),
    ("tokens", identity::tokens),
    ("messages", stored::messages),
    ("records", stored::records),
    ("requests", wire::requests),
    ("replies", wire::replies),
    ("conversations", wire::conversations),
];
