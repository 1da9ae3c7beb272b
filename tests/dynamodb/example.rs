//! The example server with `--store dynamodb://TABLE`.

use crate::common::example::remembers_through_a_kill;
use crate::server::SHARED;

#[tokio::test(flavor = "multi_thread")]
async fn the_example_server_remembers_through_a_kill() {
    // As any AWS client is told where to go and who it is.
    let environment = [
        ("AWS_ENDPOINT_URL", &*SHARED.url()),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
    ];
    remembers_through_a_kill("dynamodb://example-chat", &environment).await;
}
