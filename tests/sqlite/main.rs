//! `SqliteStore` on real files.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../common/model.rs"]
mod model;

mod conformance;
mod crash;
mod damage;
mod kit;
mod limits;
mod opening;
mod sharing;
