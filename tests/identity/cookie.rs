//! Cookies: signed, private, of old secrets, forged, repeated.

use std::time::Duration;

use tower_session_memory::SessionMemoryLayer;
use tower_session_memory::identity::{Cookie, Header, Identify, Secrets};

use crate::support::{Answer, Logs, Server, memory, minting, secrets};

const NAME: &str = "__Host-chat";

async fn serve(cookie: Cookie) -> Server {
    Server::start(layer(cookie)).await
}

fn layer(identity: impl Identify) -> SessionMemoryLayer {
    memory(identity).with_policy(minting("set-cookie")).expect("a cookie source issues cookies")
}

async fn with(server: &Server, cookie: &str) -> Answer {
    server.get("/", &[("cookie", cookie)]).await
}

#[tokio::test]
async fn a_fresh_cookie_comes_back_as_the_same_session() {
    for cookie in [Cookie::signed(NAME, &secrets(1)), Cookie::private(NAME, &secrets(1))] {
        let server = serve(cookie).await;
        let first = server.get("/", &[]).await;
        let (pair, attributes) = first.cookie();
        assert_eq!(first.turns(), 0);
        let mut attributes: Vec<&str> = attributes.split("; ").collect();
        attributes.sort_unstable();
        assert_eq!(attributes, ["HttpOnly", "Path=/", "SameSite=Lax", "Secure"]);

        let second = with(&server, &format!("theme=dark; {pair}; caf\u{e9}=1")).await;
        assert_eq!(second.turns(), 1);
        assert_eq!(second.key(), first.key());
        assert_eq!(second.header("set-cookie"), None, "nothing new to tell");
    }
}

#[tokio::test]
async fn the_applications_own_cookies_stand_beside_it() {
    let server = serve(Cookie::signed(NAME, &secrets(1))).await;
    let answer = server.get("/?theme", &[]).await;
    let cookies = answer.headers.get("set-cookie").expect("two cookies");
    assert_eq!((cookies.len(), cookies[0].as_str()), (2, "theme=dark"));
    assert!(cookies[1].starts_with(NAME), "{cookies:?}");
}

#[tokio::test]
async fn a_private_cookie_hides_the_id() {
    let server = serve(Cookie::private(NAME, &secrets(1))).await;
    let answer = server.get("/", &[]).await;
    let id = answer.key().rsplit(':').next().expect("a key").to_owned();
    assert!(!answer.cookie().0.contains(&id));
    let server = serve(Cookie::signed(NAME, &secrets(1))).await;
    let answer = server.get("/", &[]).await;
    let id = answer.key().rsplit(':').next().expect("a key").to_owned();
    assert!(answer.cookie().0.contains(&id));
}

#[tokio::test]
async fn bad_input_19_a_cookie_that_this_server_did_not_make_is_replaced() {
    let logs = Logs::capture();
    let server = serve(Cookie::signed(NAME, &secrets(1))).await;
    let other = serve(Cookie::signed(NAME, &secrets(2))).await;
    let renamed = serve(Cookie::signed("other", &secrets(1))).await;
    let sealed = serve(Cookie::private(NAME, &secrets(1))).await;
    let (mine, _) = server.get("/", &[]).await.cookie();
    let (theirs, _) = other.get("/", &[]).await.cookie();
    let (moved, _) = renamed.get("/", &[]).await.cookie();
    let (private, _) = sealed.get("/", &[]).await.cookie();
    let long = "a".repeat(4_000);
    let forged = [
        format!("{NAME}=chat-42"),
        format!("{NAME}="),
        format!("{NAME}={long}"),
        format!("{mine}0"),
        mine.replacen('=', "=A", 1),
        theirs,
        // Signed with the right secret, under another name.
        moved.replacen("other=", &format!("{NAME}="), 1),
        private,
        format!("{NAME}=\u{e9}\u{e9}"),
    ];
    for cookie in forged {
        let answer = with(&server, &cookie).await;
        assert_eq!(answer.turns(), 0, "{cookie}");
        let (fresh, _) = answer.cookie();
        assert!(!cookie.contains(&fresh));
        assert_eq!(with(&server, &fresh).await.turns(), 1);
    }
    assert_eq!(with(&server, &mine).await.turns(), 1);
    logs.line(&["DEBUG", "the cookie does not verify"]);
}

#[tokio::test]
async fn bad_input_14_a_cookie_given_twice_or_against_another_source_is_refused() {
    let server = serve(Cookie::signed(NAME, &secrets(1))).await;
    let (mine, _) = server.get("/", &[]).await.cookie();
    let (other, _) = server.get("/", &[]).await.cookie();
    for twice in [format!("{mine}; {mine}"), format!("{mine}; {other}"), format!("{NAME}=x; {mine}")] {
        with(&server, &twice).await.refused(400, "bad_identity");
    }
    server.get("/", &[("cookie", &mine), ("cookie", &other)]).await.refused(400, "bad_identity");
    // HTTP/2 splits cookies into headers of their own.
    assert_eq!(server.get("/", &[("cookie", "a=b"), ("cookie", &mine)]).await.turns(), 1);

    let either = tower_session_memory::identity::Or::new(
        Cookie::signed(NAME, &secrets(1)),
        Header::conversation("x-conversation-id"),
    );
    let server = Server::start(layer(either)).await;
    let (mine, _) = server.get("/", &[]).await.cookie();
    let id = with(&server, &mine).await.key().rsplit(':').next().expect("a key").to_owned();
    assert_eq!(server.get("/", &[("cookie", &mine), ("x-conversation-id", &id)]).await.turns(), 2);
    server.get("/", &[("cookie", &mine), ("x-conversation-id", "other")]).await.refused(400, "identity_disagreement");
}

#[tokio::test]
async fn a_rotated_secret_keeps_sessions_and_renews_cookies() {
    let memory = |secrets: &Secrets| layer(Cookie::signed(NAME, secrets));
    let before = memory(&secrets(1));
    let store = before.store().clone();
    let server = Server::start(before).await;
    let (old, _) = server.get("/", &[]).await.cookie();

    let both = Secrets::new([2; 32]).and_then(|new| new.or_older([1; 32])).expect("32 bytes are enough");
    let after = SessionMemoryLayer::new(store.clone(), Cookie::signed(NAME, &both));
    let server = Server::start(after.with_policy(minting("set-cookie")).expect("a cookie source")).await;
    let answer = with(&server, &old).await;
    assert_eq!(answer.turns(), 1, "the old cookie still names its session");
    let (renewed, _) = answer.cookie();
    assert_ne!(renewed, old);

    let later = SessionMemoryLayer::new(store, Cookie::signed(NAME, &secrets(2)));
    let server = Server::start(later.with_policy(minting("set-cookie")).expect("a cookie source")).await;
    assert_eq!(with(&server, &renewed).await.turns(), 2, "the renewed one outlives the old secret");
    assert_eq!(with(&server, &old).await.turns(), 0);
}

#[tokio::test]
async fn a_cookie_with_an_age_is_kept_alive_by_use() {
    let server = serve(Cookie::signed(NAME, &secrets(1)).max_age(Duration::from_secs(3_600))).await;
    let (mine, attributes) = server.get("/", &[]).await.cookie();
    assert!(attributes.contains("Max-Age=3600"), "{attributes}");
    let answer = with(&server, &mine).await;
    assert_eq!(answer.turns(), 1);
    assert!(answer.cookie().1.contains("Max-Age=3600"));
}

#[test]
fn what_browsers_will_not_keep_is_said_at_start() {
    let logs = Logs::capture();
    let flawed: [Cookie; 4] = [
        Cookie::signed(NAME, &secrets(1)).insecure(),
        Cookie::signed(NAME, &secrets(1)).path("/chat"),
        Cookie::signed("chat", &secrets(1)).insecure().cross_site(),
        Cookie::signed("a b", &secrets(1)),
    ];
    for (index, cookie) in flawed.into_iter().enumerate() {
        memory(cookie);
        assert_eq!(logs.count("ERROR"), index + 1, "{}", logs.text());
    }
    memory(Cookie::signed("chat", &secrets(1)).insecure().path("/chat"));
    memory(Cookie::signed(NAME, &secrets(1)).cross_site());
    assert_eq!(logs.count("ERROR"), 4);
    assert!(Secrets::new([0; 31]).is_err());
}
