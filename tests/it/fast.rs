//! The fast path: plain publishes and subscriptions that never see the fallback. Nobody may be able to tell.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use tidings::config::{Config, Engine, Origins, Size};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::harness::{Answer, DEADLINE, Stream, TestServer, blocking::Client};

/// A request that has it is not plain, and means the same.
const FULL: (&str, &str) = ("Content-Encoding", "identity");

fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{length}{headers}\r\n{body}")
}

/// What may differ: the time, the position, and the order of the headers.
fn normal(answer: &Answer) -> (u16, Vec<(String, String)>, Value) {
    let differs = |name: &str| matches!(name, "date" | "content-length");
    let same = |(name, value): &(String, String)| (name.clone(), if differs(name) { "…" } else { value }.to_owned());
    // What is for pages of other origins tells nobody anything who has none; only caches must know (`Vary`).
    let told = |(name, _): &&(String, String)| !name.starts_with("access-control-");
    let mut headers: Vec<_> = answer.headers.iter().filter(told).map(same).collect();
    headers.sort();
    let mut body: Value = serde_json::from_str(&answer.body).unwrap_or_else(|_| {
        // A refusal in a stream: its reconnection time is jittered.
        Value::String(answer.body.chars().filter(|c| !c.is_ascii_digit()).collect())
    });
    let receipts = body.get_mut("published").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default();
    for mut receipt in receipts.into_iter().chain([body.take()]) {
        if let Some(id) = receipt.get_mut("id") {
            *id = Value::Null;
        }
        body = if body.is_null() { receipt } else { Value::Array(vec![body, receipt]) };
    }
    (answer.status, headers, body)
}

#[tokio::test]
async fn both_ways_answer_alike() {
    // Goal: status, headers and body are the same, whether a request is plain or not.
    for origins in [Origins::default(), Origins::Any, Origins::Only(vec!["https://app.example.com".to_owned()])] {
        let server = TestServer::with(|config| {
            config.publish.event_bytes_max = Size::new(1000);
            config.limits.topics_per_request_max = 2;
            config.limits.subscribers_per_topic_max = 1;
            config.cors.origins = origins;
        });
        answers_alike(&server).await;
    }
}

async fn answers_alike(server: &TestServer) {
    let _crowd = server.subscribe("topic=crowded").await;
    let long = "x".repeat(1001);
    let (json, form) = (("Content-Type", "application/json"), ("Content-Type", "application/x-www-form-urlencoded"));
    let (text, key) = (("Content-Type", "text/plain"), ("Idempotency-Key", "k"));
    let requests: &[(&str, &str, &[(&str, &str)], &str)] = &[
        ("POST", "/publish?topic=a", &[text], "content"),
        ("PUT", "/publish?topic=a&event=e", &[], "content"),
        ("GET", "/publish?topic=a&content=c", &[], ""),
        ("POST", "/publish?topic=a&topic=b", &[text], "content"),
        ("POST", "/publish", &[json], r#"{"topic":"a","content":{"b":1}}"#),
        ("POST", "/publish", &[form], "topic=a&content=b+c"),
        ("POST", "/publish?topic=a", &[text, key], "once"),
        ("POST", "/publish?topic=a", &[text, key], "once"),
        ("POST", "/publish?topic=a", &[text, key], "something else"),
        ("POST", "/publish?topic=a", &[text], ""),
        ("POST", "/publish?topic=a", &[], ""),
        ("POST", "/publish", &[text], "content"),
        ("POST", "/publish?topic=%ff", &[text], "content"),
        ("POST", "/publish?topic=a", &[json], "{"),
        ("POST", "/publish?topic=a", &[("Content-Type", "multipart/form-data; boundary=x")], "--x--"),
        ("POST", "/publish?topic=a", &[text], &long),
        ("POST", "/publish?topic=a", &[("sec-fetch-site", "cross-site")], "content"),
        ("POST", "/publish?topic=%ff", &[("Content-Type", "multipart/x")], "content"),
        ("GET", "/subscribe", &[], ""),
        ("GET", "/subscribe?topic=a&topic=b&topic=c", &[("Accept", "text/event-stream")], ""),
        ("GET", "/subscribe?topic=crowded", &[("Accept", "text/event-stream")], ""),
        ("GET", "/subscribe?topic=a&since=yesterday", &[], ""),
        ("GET", "/subscribe?topic=a&on_gap=fail&lastEventId=elsewhere-1", &[], ""),
    ];
    for (method, target, headers, body) in requests {
        let mut answers = Vec::new();
        for full in [false, true] {
            // Each way has its own keys, and the same history of them.
            let target = target.replace("topic=a", if full { "topic=z" } else { "topic=a" });
            let mut headers = headers.to_vec();
            headers.push(("Connection", "close"));
            headers.extend(full.then_some(FULL));
            let answer = server.ask_bytes(request(method, &target, &headers, body).as_bytes()).await;
            let (status, headers, body) = normal(&answer);
            answers.push((status, headers, body.to_string().replace("\"z\"", "\"a\"")));
        }
        assert_eq!(answers[0], answers[1], "{method} {target} {headers:?}");
    }
}

#[tokio::test]
async fn both_ways_open_the_same_stream() {
    let server = TestServer::start();
    server.publish("a", "the one").await;
    for accept in ["text/event-stream", "application/x-ndjson"] {
        let mut streams = Vec::new();
        for full in [false, true] {
            let mut headers = vec![("accept", accept), ("last-event-id", "elsewhere-7")];
            headers.extend(full.then_some(FULL));
            let mut stream = server.get("/subscribe?topic=a", &headers).await;
            let mut headers: Vec<_> = stream.headers.iter().filter(|(name, _)| name != "date").cloned().collect();
            headers.sort();
            while !String::from_utf8_lossy(&stream.body).contains("one") {
                assert!(stream.read().await, "the gap is told, then what is held");
            }
            // The reconnection time is jittered.
            let body = String::from_utf8_lossy(&stream.body).into_owned();
            let lines: Vec<_> = body.lines().filter(|line| !line.starts_with("retry: ")).map(str::to_owned).collect();
            streams.push((stream.status, headers, lines));
        }
        assert_eq!(streams[0], streams[1], "{accept}");
    }
}

/// A connection that takes one answer after the other.
struct Connection(Option<TcpStream>);

impl Connection {
    async fn open(server: &TestServer) -> Self {
        Self(Some(TcpStream::connect(server.address).await.expect("a connection")))
    }

    fn socket(&mut self) -> &mut TcpStream {
        self.0.as_mut().expect("a connection")
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.socket().write_all(bytes).await.expect("it is taken");
    }

    /// Reads one answer and not a byte more.
    async fn answer(&mut self) -> (u16, String) {
        let socket = self.socket();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(DEADLINE, socket.read_u8()).await.expect("an answer in time").expect("an answer"));
        }
        let head = String::from_utf8(head).expect("ASCII").to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        let mut body = vec![0; length.expect("a length")];
        timeout(DEADLINE, socket.read_exact(&mut body)).await.expect("a body in time").expect("a body");
        (head[9..12].parse().expect("a status"), String::from_utf8(body).expect("UTF-8"))
    }

    /// What comes until the server closes.
    async fn end(&mut self) -> String {
        let mut rest = Vec::new();
        timeout(DEADLINE, self.socket().read_to_end(&mut rest)).await.expect("an end in time").expect("a clean end");
        String::from_utf8(rest).expect("UTF-8")
    }
}

fn publish(content: &str) -> String {
    request("POST", "/publish?topic=a", &[("Content-Type", "text/plain")], content)
}

#[tokio::test]
async fn requests_may_come_in_pieces_or_several_at_once() {
    // Goal: how the bytes are cut on their way changes nothing, and answers come in the order of the requests.
    let server = TestServer::start();
    let mut all = server.subscribe("topic=a").await;
    let mut connection = Connection::open(&server).await;
    let several = [publish("first"), publish("second"), publish("third")].concat();
    for size in [1, 7, several.len()] {
        for piece in several.as_bytes().chunks(size) {
            connection.write(piece).await;
        }
        for content in ["first", "second", "third"] {
            assert_eq!(connection.answer().await.0, 200, "pieces of {size}");
            assert_eq!(all.next().await.expect("an event").data, content, "pieces of {size}");
        }
    }
    // One that the fallback must answer, plain ones before and after it.
    let health = request("GET", "/healthz", &[], "");
    connection.write([publish("before"), health, publish("after")].concat().as_bytes()).await;
    assert_eq!(connection.answer().await.0, 200);
    assert_eq!(connection.answer().await, (200, "ok\n".to_owned()));
    assert_eq!(connection.answer().await.0, 200);
    assert_eq!([all.next().await, all.next().await].map(|e| e.expect("an event").data), ["before", "after"]);
    // A publish and a subscription in one go: the stream begins behind the publish.
    connection = Connection::open(&server).await;
    connection.write([publish("last"), request("GET", "/subscribe?topic=a", &[], "")].concat().as_bytes()).await;
    assert_eq!(connection.answer().await.0, 200);
    let mut stream = Stream::receive(connection.0.take().expect("a connection")).await;
    server.publish("a", "live").await;
    assert_eq!(stream.next().await.expect("an event").data, "live");
}

#[tokio::test]
async fn a_request_that_dawdles_is_still_answered() {
    // Goal: one that is not whole in time for the fast path is taken up by the fallback where it is.
    let server = TestServer::start();
    let text = publish("slowly");
    for at in [30, text.len() - 3] {
        let mut connection = Connection::open(&server).await;
        connection.write(&text.as_bytes()[..at]).await;
        // Nobody answers meanwhile; this is how it is seen that time has passed.
        let silence = timeout(Duration::from_millis(1500), connection.socket().read_u8()).await;
        assert!(silence.is_err(), "an answer to half a request: {silence:?}");
        connection.write(&text.as_bytes()[at..]).await;
        assert_eq!(connection.answer().await.0, 200, "cut at {at}");
    }
}

fn impatient(config: &mut Config) {
    config.server.keep_alive = Duration::from_secs(2);
    config.server.head_timeout = Duration::from_secs(2);
}

#[tokio::test]
async fn an_idle_connection_closes_quietly_and_at_its_time() {
    // Goal: a client that has sent no request gets no 408, and its connection is closed neither early nor late, whether
    // the fast path or the fallback has answered before.
    let server = TestServer::with(impatient);
    let health = request("GET", "/healthz", &[FULL], "");
    for before in [None, Some(publish("one")), Some(health)] {
        // The server's time begins after the first of these, and before the second.
        let begun = Instant::now();
        let mut connection = Connection::open(&server).await;
        if let Some(request) = &before {
            connection.write(request.as_bytes()).await;
            assert_eq!(connection.answer().await.0, 200);
        }
        let idle = Instant::now();
        assert_eq!(connection.end().await, "", "after {before:?}");
        let (least, most) = (begun.elapsed(), idle.elapsed());
        assert!(least >= Duration::from_millis(1900), "after {before:?} it was closed within {least:?}");
        assert!(most < Duration::from_millis(3500), "after {before:?} it was closed only after {most:?}");
    }
    // The control: half a request is somebody's, who is told.
    let mut connection = Connection::open(&server).await;
    connection.write(b"POST /publish?to").await;
    let rest = connection.end().await;
    assert!(rest.starts_with("HTTP/1.1 408"), "{rest}");
}

#[tokio::test]
async fn a_client_that_takes_no_answers_is_cut() {
    // Goal: a client that sends requests and reads nothing is cut, and holds no more memory than its socket meanwhile.
    let server = TestServer::with(|config| config.stream.write_timeout = Duration::from_secs(1));
    // The fallback's answers are as good as those of the fast path.
    for request in [publish("unanswered"), request("GET", "/app.js", &[], "")] {
        let mut connection = Connection::open(&server).await;
        let many = request.repeat(1000);
        let deadline = Instant::now() + DEADLINE;
        let cut = async {
            loop {
                if connection.socket().write_all(many.as_bytes()).await.is_err() {
                    return;
                }
                assert!(Instant::now() < deadline, "it goes on taking requests");
            }
        };
        timeout(DEADLINE, cut).await.expect("it is cut in time");
    }
}

#[tokio::test]
async fn a_flood_on_one_connection_keeps_nobody_else_from_its_turn() {
    others_have_their_turn_beside(&request("GET", "/publish", &[], "").repeat(500)).await;
}

#[tokio::test]
async fn a_flood_of_empty_lines_keeps_nobody_else_from_its_turn() {
    others_have_their_turn_beside(&"\r\n".repeat(32 << 10)).await;
}

/// Goal: with one worker, a client that sends `flood` without end and reads all answers does not keep the worker for
/// itself: the requests of another client are answered, and the server stops when it is told to.
async fn others_have_their_turn_beside(flood: &str) {
    let server = TestServer::with(|config| {
        config.server.workers = 1;
        config.log.engine = Engine::Memory;
    });
    let stop = Arc::new(AtomicBool::new(false));
    let mut socket = std::net::TcpStream::connect(server.address).expect("a connection");
    let mut answers = socket.try_clone().expect("its other half");
    let (stopped, many) = (Arc::clone(&stop), flood.to_owned());
    let flood =
        std::thread::spawn(
            move || {
                while !stopped.load(Ordering::Relaxed) && socket.write_all(many.as_bytes()).is_ok() {}
            },
        );
    let drain = std::thread::spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
    let others = async {
        for _ in 0..100 {
            let mut connection = Connection::open(&server).await;
            connection.write(publish("among others").as_bytes()).await;
            assert_eq!(connection.answer().await.0, 200);
        }
    };
    // It takes a tenth of a second; without turns, as long as the flood happens to pause for.
    timeout(Duration::from_secs(5), others).await.expect("others have their turn");
    timeout(DEADLINE, tokio::task::spawn_blocking(|| server.shutdown())).await.expect("it stops").expect("no panic");
    stop.store(true, Ordering::Relaxed);
    flood.join().expect("no panic");
    // It ends with the connection, however that ended.
    drain.join().expect("no panic").ok();
}

#[test]
fn a_few_subscribers_have_an_event_before_its_publisher_has_the_answer() {
    // Goal: where a topic has up to four subscribers, an event does not wait for the requests that came with it: it is
    // written before the answer, so who has the answer finds it in the subscriber's socket, without waiting.
    let server = TestServer::with(|config| {
        config.log.engine = Engine::Memory;
        config.server.workers = 1;
    });
    let subscribe = || {
        let mut socket = std::net::TcpStream::connect(server.address).expect("a connection");
        socket.write_all(request("GET", "/subscribe?topic=few", &[], "").as_bytes()).expect("the request is sent");
        socket
    };
    let mut subscribers: Vec<_> = (0..4).map(|_| (subscribe(), Vec::new())).collect();
    let client = Client::connect(server.address);
    let mut client = client.expect("a connection");
    for (socket, bytes) in &mut subscribers {
        // Until its stream has opened, and the hub has it.
        read_until(socket, bytes, "broker.open");
    }
    client.must_publish("few", "first");
    for (socket, bytes) in &mut subscribers {
        read_until(socket, bytes, "data: first");
        socket.set_nonblocking(true).expect("it does not wait");
    }
    for n in 0..50 {
        let content = format!("event {n}.");
        client.must_publish("few", &content);
        for (socket, bytes) in &mut subscribers {
            bytes.clear();
            let read = socket.read_to_end(bytes).expect_err("the stream goes on");
            let text = String::from_utf8_lossy(bytes);
            assert!(read.kind() == ErrorKind::WouldBlock && text.contains(&content), "{content} is not in {text:?}");
        }
    }
}

fn read_until(socket: &mut std::net::TcpStream, bytes: &mut Vec<u8>, text: &str) {
    socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    while !String::from_utf8_lossy(bytes).contains(text) {
        let mut buffer = [0; 4096];
        let n = socket.read(&mut buffer).expect("bytes in time");
        assert!(n > 0, "the stream ended before {text}");
        bytes.extend_from_slice(&buffer[..n]);
    }
}
