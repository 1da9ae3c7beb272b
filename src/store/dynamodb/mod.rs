#![doc = include_str!("dynamodb.md")]

mod append;
mod calls;
mod delete;
mod error;
mod header;
mod item;
mod list;
mod load;
mod parts;
mod store;
mod table;
mod trim;

pub use self::delete::Purged;
pub use self::parts::LargeTurns;
pub use self::store::{DynamoDbOptions, DynamoDbStore};

const NAME: &str = "dynamodb";
