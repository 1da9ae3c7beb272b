//! Identity on real sockets: tokens, cookies, minted ids, paths and queries, and the logs that name
//! what is wrong.

mod cookie;
mod fuzz;
mod jwt;
mod mint;
mod misconfigured;
mod pyjwt;
mod redaction;
mod retry;
mod signals;
mod sources;
mod support;
mod tokens;
