//! The layer for LLM wire formats, in front of an upstream that checks what it gets.

mod chat;
mod golden;
mod kit;
mod memory;
mod pairing;
mod retries;
mod streams;
mod windows;
