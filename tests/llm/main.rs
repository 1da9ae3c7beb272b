//! The layer for LLM wire formats, in front of an upstream that checks what it gets.

#[path = "../common/chance.rs"]
#[allow(dead_code, unreachable_pub, reason = "other test binaries use the rest")]
mod chance;
mod chat;
mod choices;
#[cfg(feature = "llm-decompress")]
mod compressed;
mod converse;
mod golden;
mod kit;
#[path = "../common/logs.rs"]
#[allow(dead_code, unreachable_pub, reason = "other test binaries use the rest")]
mod logs;
mod memory;
mod orphans;
mod pairing;
mod recall;
mod retries;
mod rules;
mod silence;
mod streams;
mod windows;
