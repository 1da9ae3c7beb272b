//! `SqliteStore` on real files.

#[path = "../common/model.rs"]
mod model;

mod conformance;
mod crash;
mod damage;
mod kit;
mod limits;
mod opening;
mod sharing;
