//! What can happen to a stream under TLS while it is open: other readers of its request, the end of its right, new keys.

use std::{
    io::{BufRead as _, BufReader, Read, Write as _},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Instant,
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use tokio_rustls::rustls::version::TLS13;

use super::{
    SSE, VERSIONS,
    client::{Files, bridge, dial, server},
};
use crate::{
    auth::{seconds_from_now, token, with_keys},
    harness::{DEADLINE, FOR_THE_FALLBACK, TestServer, tools},
};

/// Goal: a subscription that the fallback reads is live, resumes and ends with its topic, as one that the fast path reads.
#[tokio::test]
async fn a_stream_through_the_fallback_is_live_and_resumes() {
    let files = Files::new();
    for version in VERSIONS {
        let server = server(&files, version, |_| {}).await;
        let headers = [SSE[0], FOR_THE_FALLBACK];
        let mut stream = server.get("/subscribe?topic=t", &headers).await;
        server.until_subscribers("t", 1).await;
        let mut ids = Vec::new();
        for n in 0..30 {
            // Some are larger than a record of TLS.
            let content = format!("{n} ").repeat(if n % 3 == 0 { 20_000 } else { 1 });
            ids.push(server.publish("t", &content).await);
            let block = stream.next().await.expect("an event");
            assert!(block.id == ids[n] && block.data == content, "{n}");
        }
        drop(stream);
        server.until_subscribers("t", 0).await;
        let mut resumed =
            server.get("/subscribe?topic=t", &[&headers[..], &[("last-event-id", &ids[9])]].concat()).await;
        let got: Vec<String> = resumed.take(20).await.into_iter().map(|block| block.id).collect();
        assert_eq!(got, ids[10..]);
        assert_eq!(server.ask("DELETE", "/topics/t", &[], b"").await.status, 204);
        assert_eq!(resumed.next().await.map(|block| block.event).as_deref(), Some("broker.deleted"));
        assert!(resumed.next().await.is_none(), "a clean end");
    }
}

/// Goal: a stream ends with `broker.unauthorized`, cleanly, when its token expires, whichever reader read its request.
#[tokio::test]
async fn a_stream_ends_when_its_token_expires() {
    let files = Files::new();
    for version in VERSIONS {
        let server = server(&files, version, with_keys).await;
        let bearer = |exp| format!("Bearer {}", token("ann", &json!({"subscribe": ["t"]}), exp));
        // It has expired, and is still valid for what is left of the leeway of 5 s.
        let (short, long) = (bearer(seconds_from_now(0) - 2), bearer(seconds_from_now(60)));
        let mut streams = Vec::new();
        for authorization in [&short, &long] {
            for reader in [&[][..], &[FOR_THE_FALLBACK]] {
                let headers = [&[SSE[0], ("authorization", authorization)], reader].concat();
                let stream = server.get("/subscribe?topic=t", &headers).await;
                assert_eq!(stream.status, 200);
                streams.push(stream);
            }
        }
        for stream in &mut streams[..2] {
            assert_eq!(stream.next().await.map(|block| block.event).as_deref(), Some("broker.unauthorized"));
            assert!(stream.next().await.is_none(), "a clean end");
        }
        // The control: a token that has not expired leaves its stream open.
        for stream in &mut streams[2..] {
            assert_eq!(stream.pending(), 0);
            assert!(stream.socket.try_read(&mut [0; 1]).is_err(), "it is open");
        }
    }
}

/// Goal: a client may ask for new keys (`KeyUpdate`, RFC 8446, section 4.6.3) while its stream is open, between events and
/// several times: it gets every event. One that asks more often than rustls allows is cut.
#[tokio::test]
async fn a_client_may_change_the_keys_during_a_stream() {
    /// So many requests for new keys rustls allows while a client sends nothing else.
    const ALLOWED: usize = 32;
    let files = Files::new();
    let mut server = TestServer::with(|config| files.configure(config));
    let direct = server.address;
    server.address = bridge(direct, files.authority.client(&[&TLS13], None)).await;
    let mut tls = dial(direct, files.authority.client(&[&TLS13], None)).await.expect("a handshake");
    tls.write_all(b"GET /subscribe?topic=t HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        .await
        .expect("it is sent");
    server.until_subscribers("t", 1).await;
    let (mut received, mut buffer, begin) = (String::new(), vec![0; 64 << 10], Instant::now());
    for n in 0..ALLOWED / 2 {
        for _ in 0..2 {
            tls.get_mut().1.refresh_traffic_keys().expect("TLS 1.3");
            tls.flush().await.expect("it is sent");
        }
        let id = server.publish("t", &format!("event {n}")).await;
        while !received.contains(&format!("data: event {n}\nid: {id}\n")) {
            assert!(begin.elapsed() < DEADLINE, "event {n} is not in {received}");
            let read = timeout(DEADLINE, tls.read(&mut buffer)).await.expect("in time").expect("bytes");
            assert!(read > 0, "the stream ended after {received}");
            received.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    }
    tls.get_mut().1.refresh_traffic_keys().expect("TLS 1.3");
    tls.flush().await.expect("it is sent");
    server.until_subscribers("t", 0).await;
}

/// A program, and the lines it prints.
struct Lines {
    child: Child,
    lines: Receiver<String>,
}

impl Lines {
    fn of(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        let (send, lines) = channel();
        let (out, errors) = (child.stdout.take().expect("its output"), child.stderr.take().expect("its errors"));
        let both: [Box<dyn Read + Send>; 2] = [Box::new(out), Box::new(errors)];
        for printed in both {
            let send = send.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(printed).lines().map_while(Result::ok) {
                    // An error means that the test has ended.
                    send.send(line).ok();
                }
            });
        }
        Self { child, lines }
    }

    /// Waits for a line that has `text`.
    fn until(&self, text: &str) {
        let begin = Instant::now();
        // One deadline for all lines: heartbeats would have it wait for ever.
        let left = || DEADLINE.saturating_sub(begin.elapsed());
        while !self.lines.recv_timeout(left()).unwrap_or_else(|_| panic!("no line with {text}")).contains(text) {}
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Goal: the same with a client of OpenSSL, which is another implementation of TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssl_may_change_the_keys_during_a_stream() {
    let Some(openssl) = tools::on_path("openssl") else { return tools::left_out("openssl") };
    let files = Files::new();
    let server = TestServer::with(|config| files.configure(config));
    let address = server.address.to_string();
    let mut client = Lines::of(
        Command::new(openssl).args(["s_client", "-tls1_3", "-connect", &address, "-CAfile"]).arg(files.path("ca.pem")),
    );
    client.until("Verify return code: 0 (ok)");
    let mut input = client.child.stdin.take().expect("its input");
    input
        .write_all(b"GET /subscribe?topic=t HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        .expect("it reads");
    client.until("event: broker.open");
    for n in 0..5 {
        // A line `K` changes the keys of both directions.
        input.write_all(b"K\n").expect("it reads");
        client.until("KEYUPDATE");
        publish(&server, &files, &format!("event {n}")).await;
        client.until(&format!("data: event {n}"));
    }
}

/// Publishes to `t` on a connection of its own.
async fn publish(server: &TestServer, files: &Files, content: &str) {
    let mut tls = dial(server.address, files.authority.client(&VERSIONS, None)).await.expect("a handshake");
    let head = "POST /publish?topic=t HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: text/plain";
    let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{content}", content.len());
    tls.write_all(request.as_bytes()).await.expect("it is sent");
    let mut answer = String::new();
    timeout(DEADLINE, tls.read_to_string(&mut answer)).await.expect("in time").expect("a clean end");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// Goal: curl subscribes and publishes with the certificate of the authority, and, the control, not without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_publishes_and_subscribes() {
    let Some(curl) = tools::on_path("curl") else { return tools::left_out("curl") };
    let files = Files::new();
    let server = TestServer::with(|config| files.configure(config));
    let url = |path: &str| format!("https://localhost:{}{path}", server.address.port());
    let curl = |arguments: &[&str]| {
        let mut command = Command::new(&curl);
        command.args(["-sS", "--ipv4"]).args(arguments);
        command
    };
    let ca = files.path("ca.pem");
    let ca = ca.to_str().expect("UTF-8");
    let subscribe = url("/subscribe?topic=t");
    let stream = Lines::of(&mut curl(&["-N", "--cacert", ca, &subscribe]));
    stream.until("event: broker.open");
    for n in 0..5 {
        let arguments = ["--cacert", ca, "--fail", "-d", &format!("topic=t&content=event {n}"), &url("/publish")];
        let output = curl(&arguments).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        stream.until(&format!("data: event {n}"));
        stream.until(&format!("id: {}", answer["id"].as_str().expect("an id")));
    }
    let output = curl(&["--fail", &url("/healthz")]).output().expect("it runs");
    // 60 is curl's code for a certificate that it cannot verify.
    assert_eq!(output.status.code(), Some(60), "{}", String::from_utf8_lossy(&output.stderr));
}
