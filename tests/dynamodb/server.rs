//! A server of DynamoDB's protocol of this test run's own: moto.
//!
//! What it honours: conditions, transactions of up to 100 actions with the reasons and old items of
//! what failed, pages of 1 MB, items of 400 KB, indexes. What it does not, and what shows it instead:
//!
//! | | shown by |
//! |---|---|
//! | isolation: it reads and writes from several threads, so each request has it to itself | nothing; DynamoDB's word |
//! | stale reads where they are allowed, indexes that lag | `wire.rs` asserts what is asked for, and answers for an index that lags |
//! | throttling, conflicts of transactions, torn queries | `busy.rs` and `parts.rs` answer in its place |
//! | a transaction's 4 MB | `wire.rs` weighs each |
//! | time to live: it is described, and removes nothing | the tests remove what the table would |
//! | a `ClientRequestToken` | nothing depends on it |
//! | durability: it forgets everything when it ends | the chaos run pauses it instead of killing it |

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use tower_session_memory::store::{DynamoDbOptions, DynamoDbStore};

pub(crate) static SHARED: LazyLock<Server> = LazyLock::new(Server::start);

pub(crate) struct Server {
    port: u16,
    /// It ends when its standard input does: with this process, however that ends.
    process: Child,
}

const PROGRAM: &str = include_str!("server.py");

impl Server {
    pub(crate) fn start() -> Self {
        let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let installed = Command::new(&python).args(["-c", "import moto.server"]).stderr(Stdio::null()).status();
        if !installed.is_ok_and(|status| status.success()) {
            missing();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(python);
        command.args(["-c", PROGRAM, &port.to_string()]);
        let process = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "moto did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { port, process }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Sends a signal to the process by its name, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.process.id().to_string()).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name}");
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The options of a table that no other test has.
    pub(crate) fn options(&self) -> DynamoDbOptions {
        static TABLES: AtomicU32 = AtomicU32::new(0);
        DynamoDbOptions::new(format!("table-{}", TABLES.fetch_add(1, Ordering::Relaxed))).endpoint(self.url())
    }

    /// A store in a new table.
    pub(crate) async fn store(&self) -> DynamoDbStore {
        let store = self.options().with_config(&config());
        store.create_table().await.unwrap();
        store
    }
}

pub(crate) fn config() -> SdkConfig {
    let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new("test", "test", None, None, "test")))
        .sleep_impl(aws_sdk_dynamodb::config::SharedAsyncSleep::new(Sleep))
        .http_client(http)
        .build()
}

/// The runtime's own sleep, for the client's timeouts.
#[derive(Debug)]
struct Sleep;

impl aws_sdk_dynamodb::config::AsyncSleep for Sleep {
    fn sleep(&self, duration: Duration) -> aws_sdk_dynamodb::config::Sleep {
        aws_sdk_dynamodb::config::Sleep::new(tokio::time::sleep(duration))
    }
}

/// Without its server a test proves nothing: a failure where `CI` is set, and elsewhere said loudly.
fn missing() -> ! {
    let ci = std::env::var_os("CI").is_some();
    let word = if ci { "FAILED" } else { "IGNORED" };
    let line = format!("\n{word}: moto is not installed (pip install 'moto[server]'); nothing was tested here\n");
    std::io::stderr().write_all(line.as_bytes()).ok();
    std::process::exit(i32::from(ci))
}
