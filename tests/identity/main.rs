//! Identity on real sockets: tokens, cookies, minted ids, paths and queries, and the logs that name
//! what is wrong.

#[path = "../common/issuer.rs"]
#[allow(unreachable_pub, reason = "other test binaries use it too")]
mod issuer;
#[path = "../common/logs.rs"]
#[allow(unreachable_pub, reason = "other test binaries use it too")]
mod logs;

#[path = "../common/around.rs"]
#[allow(dead_code, unreachable_pub, reason = "other test binaries use it too")]
mod around;

#[path = "../common/counted.rs"]
#[allow(unreachable_pub, reason = "other test binaries use it too")]
mod counted;

mod cookie;
mod jwt;
mod metrics;
mod mint;
mod misconfigured;
mod pyjwt;
mod redaction;
mod retry;
mod signals;
mod sources;
mod stored;
mod support;
mod tokens;
