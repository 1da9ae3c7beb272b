//! The example server with `--store postgres://USER@HOST/DATABASE`.

use crate::common::example::remembers_through_a_kill;
use crate::server::SHARED;

#[tokio::test(flavor = "multi_thread")]
async fn the_example_server_remembers_through_a_kill() {
    SHARED.psql("CREATE DATABASE example", &[]).unwrap();
    remembers_through_a_kill(&SHARED.url_of("postgres", "example"), &[]).await;
}
