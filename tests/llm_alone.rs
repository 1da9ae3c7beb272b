//! The layer for LLM wire formats stands on the public API alone: its sources compile as part of a
//! crate that sees nothing else.

#![allow(dead_code, missing_docs, unreachable_pub, unused_imports, reason = "nothing is run, only compiled")]

// In place of the crate's own root.
pub use tower_session_memory::*;

#[path = "../src/llm/mod.rs"]
pub mod llm;

fn main() {}
