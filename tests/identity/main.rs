//! Identity on real sockets: tokens, cookies, minted ids, paths and queries, and the logs that name
//! what is wrong.

mod jwt;
mod support;
mod tokens;
