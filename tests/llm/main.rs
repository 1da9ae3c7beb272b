//! The layer for LLM wire formats, in front of an upstream that checks what it gets.

mod chat;
#[cfg(feature = "llm-decompress")]
mod compressed;
mod golden;
mod kit;
mod memory;
mod pairing;
mod retries;
mod streams;
mod windows;
