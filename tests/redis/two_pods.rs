//! The recipe of `examples/two_pods`: nginx sends each request to the next pod, and the conversation
//! goes on.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::servers::{RedisServer, eventually, free_port, program};

/// A pod of the example server, killed when dropped.
struct Pod {
    child: Child,
    address: String,
}

impl Pod {
    fn start(binary: &Path, store: &str) -> Self {
        let mut child = Command::new(binary)
            .args(["--listen", "127.0.0.1:0", "--store", store])
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let address = loop {
            let line = lines.next().expect("the server says where it listens").expect("text");
            if let Some((_, rest)) = line.split_once("address=") {
                break rest.split_whitespace().next().expect("an address").to_owned();
            }
        };
        // Its log must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Nginx {
    child: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Nginx {
    fn start(pods: &[&Pod; 2]) -> Self {
        let (directory, port) = (tempfile::tempdir().unwrap(), free_port());
        let recipe = include_str!("../../examples/two_pods/nginx.conf");
        let settings = recipe
            .replace("@DIR@", directory.path().to_str().unwrap())
            .replace("@PORT@", &port.to_string())
            .replace("@POD1@", &pods[0].address)
            .replace("@POD2@", &pods[1].address);
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, settings).unwrap();
        let child = Command::new(program("nginx", "NGINX"))
            .arg("-p")
            .arg(directory.path())
            .arg("-c")
            .arg(&file)
            // One process, so that killing it leaves none behind.
            .args(["-g", "daemon off; master_process off;"])
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx starts");
        eventually("nginx listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        Self { child, port, _directory: directory }
    }

    /// One turn of Ada's conversation: which pod answered, with which status, and what.
    fn chat(&self, message: &str) -> (String, u16, serde_json::Value) {
        let body = serde_json::json!({"message": message}).to_string();
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(
            socket,
            "POST /chat HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-user-id: ada\r\n\
             x-conversation-id: two-pods\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut response = String::new();
        socket.read_to_string(&mut response).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        let pod = head.lines().find_map(|line| line.strip_prefix("X-Pod: ")).unwrap_or_default().to_owned();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let from = body.find('{').unwrap_or_default();
        let to = body.rfind('}').map_or(from, |end| end + 1);
        (pod, status, serde_json::from_str(&body[from..to]).unwrap_or_default())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_conversation_goes_on_whichever_pod_answers() {
    let redis = RedisServer::start();
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--example", "server"])
        // As this test was built, or cargo would build everything once more.
        .args(match cfg!(all(feature = "dynamodb", feature = "postgres")) {
            true => &["--all-features"][..],
            false => &["--features", "redis,cache,resilience"],
        })
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(built.success(), "the example builds");
    let test = std::env::current_exe().unwrap();
    let binary = test.ancestors().nth(3).unwrap().join("debug/examples/server");

    let (one, mut two) = (Pod::start(&binary, &redis.url()), Pod::start(&binary, &redis.url()));
    let nginx = Nginx::start(&[&one, &two]);
    let mut pods = Vec::new();
    for number in 1..=6 {
        let (pod, status, reply) = nginx.chat(&format!("message {number}"));
        assert_eq!((status, reply["turns"].as_u64()), (200, Some(number)), "{reply}");
        pods.push(pod);
    }
    assert!(pods.windows(2).all(|pair| pair[0] != pair[1]), "nginx does not alternate: {pods:?}");
    assert!([&one.address, &two.address].iter().all(|address| pods.contains(address)), "{pods:?}");

    two.child.kill().unwrap();
    two.child.wait().unwrap();
    for number in 7..=10 {
        let (_, status, reply) = nginx.chat(&format!("message {number}"));
        assert_eq!((status, reply["turns"].as_u64()), (200, Some(number)), "{reply}");
    }
}
