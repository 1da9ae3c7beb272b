//! The layer for LLM wire formats, in front of an upstream that checks what it gets.

mod chat;
mod choices;
#[cfg(feature = "llm-decompress")]
mod compressed;
mod golden;
mod kit;
mod memory;
mod orphans;
mod pairing;
mod recall;
mod retries;
mod streams;
mod windows;
