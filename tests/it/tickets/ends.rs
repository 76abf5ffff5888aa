//! The end of a ticket, and of the stream that it has opened.

use std::time::Instant;

use tokio::process::Command;

use super::*;
use crate::{
    auth::{SECRET, sign, write_keys},
    harness::{DEADLINE, Process, blocking::Directory, process::program, until},
};

#[tokio::test]
async fn a_ticket_that_is_not_used_in_time_is_no_good_and_leaves_its_room() {
    let ttl = Duration::from_secs(2);
    let server = TestServer::with(|config| {
        with_keys(config);
        config.auth.ticket_ttl = ttl;
        config.auth.tickets_max = 2;
    });
    for more in readers() {
        let begin = Instant::now();
        let [used, late] = [take(&server, &bearer("ann"), &["a"]).await, take(&server, &bearer("ann"), &["a"]).await];
        let given_at = Instant::now();
        assert_eq!(open(&server, &format!("topic=a&ticket={used}"), &[&[SSE], &*more].concat()).await.status, 200);
        let bobs = r#"{"topics": ["a", "b"]}"#;
        ask(&server, &bearer("bob"), bobs, &more).await.problem(503, "too_many_tickets");
        let path = format!("/subscribe?topic=a&ticket={late}");
        // To look does not use it up.
        until("the end of the ticket", async || server.ask("HEAD", &path, &more, b"").await.status == 401).await;
        assert!(begin.elapsed() >= ttl && given_at.elapsed() < ttl * 2, "{:?}", begin.elapsed());
        server.ask("GET", &path, &more, b"").await.problem(401, "unauthorized");
        let bobs = given(&ask(&server, &bearer("bob"), bobs, &more).await);
        assert_eq!(open(&server, &format!("topic=b&ticket={bobs}"), &[SSE]).await.status, 200);
    }
}

#[tokio::test]
async fn a_stream_by_ticket_ends_with_the_token_of_the_ticket() {
    // Goal: as a stream with the token itself does: at `exp` and the leeway.
    let server = TestServer::with(with_keys);
    for more in readers() {
        let exp = seconds_from_now(0) - 3;
        let answer = ask(&server, &bearer_until("ann", exp), r#"{"topics": ["a"]}"#, &more).await;
        let expires =
            answer.json()["expires"].as_str().map(humantime::parse_rfc3339).expect("a time").expect("RFC 3339");
        assert!(expires <= SystemTime::UNIX_EPOCH + Duration::from_secs(exp + 6), "no later than its token");
        let path = format!("topic=a&ticket={}", given(&answer));
        let mut stream = open(&server, &path, &[&[SSE], &*more].concat()).await;
        assert_eq!(stream.status, 200);
        let blocks = stream.all().await;
        assert_eq!(blocks.last().map(|block| block.event.as_str()), Some("broker.unauthorized"), "{blocks:?}");
        assert!(seconds_from_now(0) >= exp + 5, "not before its end");
        assert!(seconds_from_now(0) <= exp + 7, "and soon after it");
    }
}

#[tokio::test]
async fn an_event_source_that_an_operator_has_ended_stays_away_with_its_spent_ticket() {
    // Goal: 204 for an id of an ended stream comes before the credential is checked; without such an id, or with one that
    // is over, a bad ticket is still refused.
    let server = TestServer::with(with_keys);
    let operator = bearer("operator");
    for more in readers() {
        let ticket = take(&server, &bearer("ann"), &["a"]).await;
        let query = format!("topic=a&ticket={ticket}");
        let headers = [&[SSE], &*more].concat();
        let mut stream = open(&server, &query, &headers).await;
        assert_eq!(stream.status, 200);
        let unused = take(&server, &bearer("ann"), &["a"]).await;
        let answer = server.ask("DELETE", "/subjects/ann", &[("authorization", &operator)], b"").await;
        assert_eq!(answer.status, 204, "{answer:?}");
        let blocks = stream.all().await;
        assert_eq!(blocks.last().map(|block| block.event.as_str()), Some("broker.ended"), "{blocks:?}");
        let stop = stream.last_event_id().to_owned();
        for accept in [SSE, ("accept", "*/*")] {
            for method in ["GET", "HEAD"] {
                let headers = [&[accept, ("last-event-id", stop.as_str())], &*more].concat();
                let answer = server.ask(method, &format!("/subscribe?{query}"), &headers, b"").await;
                assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{answer:?}");
            }
        }
        let (id, _) = stop.split_once(".stop").expect("an id of an ended stream");
        let over = format!("{id}.stop1");
        for cursor in [id, &over] {
            let headers = [&[("last-event-id", cursor)], &*more].concat();
            server.ask("GET", &format!("/subscribe?{query}"), &headers, b"").await.problem(401, "unauthorized");
        }
        let path = format!("/subscribe?topic=a&ticket={unused}");
        server.ask("GET", &path, &more, b"").await.problem(401, "unauthorized");
    }
}

#[tokio::test]
async fn a_stream_by_ticket_and_an_unused_ticket_end_with_their_key() {
    // Goal: after a reload without the key, its stream ends, and its unused ticket opens nothing; those of a key that
    // stays go on.
    let directory = Directory::new();
    std::fs::create_dir_all(&directory.0).expect("a directory");
    let file = directory.0.join("tidings.toml");
    write_keys(&file, &["old", "new"]);
    let mut command = program();
    command.arg("--config").arg(&file).args(["--listen", "127.0.0.1:0"]);
    let server = Process::spawn(&mut command).await;
    let take = async |id: &str| {
        let claims =
            json!({"sub": "ann", "exp": seconds_from_now(600), "tidings": {"subscribe": ["a"], "publish": ["a"]}});
        let token = sign(Some(id), &format!("{SECRET}{id}"), &claims);
        let request = reqwest::Client::new().post(server.url("/tickets")).bearer_auth(token);
        let answer: Value =
            request.json(&json!({"topics": ["a"]})).send().await.expect("an answer").json().await.expect("JSON");
        answer["ticket"].as_str().unwrap_or_else(|| panic!("a ticket: {answer}")).to_owned()
    };
    let open = async |ticket: &str| {
        Stream::open(server.address, &format!("/subscribe?topic=a&ticket={ticket}"), &[("accept", "*/*")]).await
    };
    let (mut ends, goes_on) = (open(&take("old").await).await, open(&take("new").await).await);
    assert_eq!((ends.status, goes_on.status), (200, 200));
    let (gone, stays) = (take("old").await, take("new").await);
    write_keys(&file, &["new"]);
    server.signal("HUP").await;
    let rest = tokio::time::timeout(DEADLINE, ends.rest()).await.expect("it ends");
    assert!(rest.contains("event: broker.unauthorized"), "{rest}");
    assert_eq!((open(&gone).await.status, open(&stays).await.status), (401, 200));
}

#[tokio::test]
async fn no_line_of_the_log_has_a_ticket() {
    // Goal: not even with everything logged; nor do errors and audit lines. The log does have lines of these requests.
    let keys = format!("[{{ id = \"k\", algorithm = \"HS256\", secret = \"{SECRET}\" }}]");
    let mut command: Command = program();
    command.args(["--listen", "127.0.0.1:0"]).env("RUST_LOG", "trace").env("TIDINGS__AUTH__KEYS", keys);
    let mut server = Process::spawn(&mut command).await;
    let (client, bearer) = (reqwest::Client::new(), bearer("ann"));
    let mut tickets = Vec::new();
    for reader in readers() {
        let mut request = client.post(server.url("/tickets")).header("authorization", &bearer);
        for (name, value) in &reader {
            request = request.header(*name, *value);
        }
        let answer = request.json(&json!({"topics": ["a"]})).send().await.expect("an answer");
        let answer: Value = answer.json().await.expect("JSON");
        let ticket = answer["ticket"].as_str().unwrap_or_else(|| panic!("a ticket: {answer}")).to_owned();
        for query in ["topic=a", "topic=a", "topic=%zz", "topic=a&topics=a"] {
            for accept in ["*/*", "text/event-stream"] {
                let headers = [&[("accept", accept)], &*reader].concat();
                drop(Stream::open(server.address, &format!("/subscribe?{query}&ticket={ticket}"), &headers).await);
            }
        }
        tickets.push(ticket);
    }
    let ended = client.delete(server.url("/subjects/ann")).header("authorization", &bearer).send().await;
    assert_eq!(ended.expect("an answer").status(), 204);
    server.signal("TERM").await;
    server.exit().await;
    let (lines, log) = server.last_words().await;
    assert!(log.contains("end_subject") && log.contains("TRACE"), "the control: {log}");
    for secret in tickets.iter().map(String::as_str).chain([bearer.trim_start_matches("Bearer ")]) {
        assert!(!log.contains(secret) && !lines.join("\n").contains(secret), "{secret} in {log}");
    }
}
