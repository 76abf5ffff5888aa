//! The program is told to stop: streams end cleanly, spread over the drain time, and their clients come back.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::harness::{DEADLINE, Process, Stream, TestServer, until};

const SSE: &[(&str, &str)] = &[("accept", "text/event-stream")];
/// A drain that nobody waits for.
const LONG: &[(&str, &str)] = &[("TIDINGS__SHUTDOWN__DRAIN", "60s")];
/// What "at once" may take on a busy machine; far below any drain time used with it.
const AT_ONCE: Duration = Duration::from_secs(3);
/// How long a drain lets every stream be, for the sake of publishes that are under way.
const LAST_EVENTS: Duration = Duration::from_millis(100);

/// How a subscriber's stream was, seen from its end.
struct Ended {
    topic: usize,
    at: Instant,
    last_event_id: String,
    /// The content of what it got.
    contents: Vec<String>,
}

/// Reads a stream to its end, which must be clean.
async fn to_the_end(mut stream: Stream, topic: usize) -> Ended {
    let mut contents = Vec::new();
    while let Some(block) = stream.next().await {
        assert_eq!(block.event, "message", "{}", block.data);
        contents.push(block.data);
    }
    let at = Instant::now();
    let body = std::str::from_utf8(&stream.body).expect("UTF-8");
    let retry = stream.retry().expect("a reconnection time");
    let tail = &body[body.len().saturating_sub(80)..];
    assert!(body.ends_with(&format!("\n\nretry: {retry}\n")), "the last block is not complete: {tail:?}");
    assert!((2_400..=3_600).contains(&retry), "{retry}");
    Ended { topic, at, last_event_id: stream.last_event_id().to_owned(), contents }
}

/// Publishes one after the other until the server drains; the content of what was acknowledged, in order, and when.
async fn publish_until_refused(address: SocketAddr, topic: usize) -> Vec<(String, Instant)> {
    let client = reqwest::Client::new();
    let mut acknowledged = Vec::new();
    loop {
        let content = format!("{topic}/{}", acknowledged.len());
        let url = format!("http://{address}/publish?topic=t{topic}");
        let request = client.post(url).header("content-type", "text/plain").body(content.clone());
        let response = request.send().await.expect("an answer, not a broken connection");
        if response.status() == 200 {
            acknowledged.push((content, Instant::now()));
            continue;
        }
        assert_eq!(response.status(), 503);
        let after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        assert!(after.is_some_and(|after| after >= 1), "it says when to try again");
        let problem: Value = response.json().await.expect("a problem document");
        assert_eq!(problem["code"], "draining", "{problem}");
        return acknowledged;
    }
}

/// Opens `n` streams, `tasks` at a time, each over one of `topics` topics in turn.
async fn open(address: SocketAddr, n: usize, topics: usize, cursors: Vec<String>) -> Vec<Stream> {
    const TASKS: usize = 50;
    let mut opening = JoinSet::new();
    for task in 0..TASKS {
        let cursors = cursors.clone();
        opening.spawn(async move {
            let mut streams = Vec::new();
            for i in (task..n).step_by(TASKS) {
                let cursor = cursors.get(i).map(|id| ("last-event-id", id.as_str()));
                let headers: Vec<_> = SSE.iter().copied().chain(cursor).collect();
                streams.push((i, Stream::open(address, &format!("/subscribe?topic=t{}", i % topics), &headers).await));
            }
            streams
        });
    }
    let mut streams: Vec<(usize, Stream)> = opening.join_all().await.into_iter().flatten().collect();
    streams.sort_unstable_by_key(|(i, _)| *i);
    streams.into_iter().map(|(_, stream)| stream).collect()
}

/// Goal: SIGTERM with thousands of streams and busy publishers: the program exits within the drain time, every client
/// sees a clean end, spread over that time, and resumes on the server that is started in its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_streams_end_cleanly_and_resume_on_the_restarted_server() {
    const STREAMS: usize = 2_000;
    const TOPICS: usize = 4;
    let drain = Duration::from_secs(6);
    let mut server = Process::start(&[("TIDINGS__SHUTDOWN__DRAIN", "6s")]).await;
    let address = server.address;
    let mut subscribers = JoinSet::new();
    for (i, stream) in open(address, STREAMS, TOPICS, Vec::new()).await.into_iter().enumerate() {
        subscribers.spawn(to_the_end(stream, i % TOPICS));
    }
    for topic in 0..TOPICS {
        server.until_subscribers(&format!("t{topic}"), (STREAMS / TOPICS) as u64).await;
    }
    let publishers: Vec<_> = (0..TOPICS).map(|topic| tokio::spawn(publish_until_refused(address, topic))).collect();
    // The publishers are at work when the events that one more subscriber sees have come some way.
    let mut witness = server.subscribe("topic=t0&last=1").await;
    witness.take(10).await;
    drop(witness);

    let begin = Instant::now();
    server.signal("TERM").await;
    let mut acknowledged = Vec::new();
    for publisher in publishers {
        acknowledged.push(publisher.await.expect("a publisher gets through"));
    }
    let mut ended = subscribers.join_all().await;
    let status = server.exit().await;
    let took = begin.elapsed();
    println!("{STREAMS} streams ended and the program exited in {took:?} of {drain:?}");
    assert!(status.success(), "{status}");
    assert!(took < drain, "it took {took:?}");
    let published: usize = acknowledged.iter().map(Vec::len).sum();
    assert!(published > 4 * TOPICS, "{published} events are no load");
    for stream in &ended {
        let (got, missed) =
            acknowledged[stream.topic].split_at_checked(stream.contents.len()).expect("it was published");
        assert!(got.iter().map(|(content, _)| content).eq(&stream.contents), "{:?} of {got:?}", stream.contents);
        // One may have been under way for so long that the stream had ended.
        assert!(missed.len() <= 1 && missed.iter().all(|(_, at)| *at >= begin), "{missed:?} after {begin:?}");
    }
    ended.sort_unstable_by_key(|stream| stream.at);
    let at = |part: usize| ended[STREAMS * part / 10].at - begin;
    println!("a tenth had ended after {:?}, half after {:?}, nine tenths after {:?}", at(1), at(5), at(9));
    assert!(ended[0].at - begin >= LAST_EVENTS, "one ended while publishes were under way");
    assert!(at(9) > at(1) + drain / 4, "they all ended at once");
    assert!(at(5) > at(1) && at(9) > at(5), "they ended in clumps");
    comes_back(address, &ended, TOPICS).await;
}

/// On the same port a new server knows nothing of the old history, and says so to everybody who comes with a cursor.
async fn comes_back(address: SocketAddr, ended: &[Ended], topics: usize) {
    let restarted = Process::start_at(&address.to_string(), &[]).await;
    let mut by_topic: Vec<Vec<&Ended>> = (0..topics).map(|t| ended.iter().filter(|e| e.topic == t).collect()).collect();
    let in_turn = (0..ended.len()).map(|i| by_topic[i % topics].pop().expect("as many of each").last_event_id.clone());
    let cursors: Vec<String> = in_turn.collect();
    let mut streams = open(address, ended.len(), topics, cursors.clone()).await;
    for (stream, cursor) in streams.iter_mut().zip(&cursors) {
        let block = stream.next().await.expect("a gap");
        let gap: Value = serde_json::from_str(&block.data).expect("JSON");
        assert_eq!((block.event.as_str(), &gap["reason"]), ("broker.gap", &Value::from("reset")), "{gap}");
        assert_eq!(gap["requested"], **cursor, "{gap}");
        assert_eq!(gap["resumed_after"], block.id, "{gap}");
    }
    let client = reqwest::Client::new();
    for topic in 0..topics {
        let id = restarted.publish(&client, &format!("t{topic}"), "a new history").await;
        for stream in streams.iter_mut().skip(topic).step_by(topics) {
            assert_eq!(stream.next().await.expect("an event").id, id);
        }
    }
}

/// Goal: during the drain the program says what it does: alive, not ready, no publishes, no new streams; to each in the
/// way that makes it come back.
#[tokio::test]
async fn a_draining_server_refuses_in_ways_that_make_clients_come_back() {
    let server = Process::start(LONG).await;
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(server.subscribe("topic=t").await);
    }
    server.until_subscribers("t", 200).await;
    assert_eq!(reqwest::get(server.url("/readyz")).await.expect("an answer").status(), 200);
    server.signal("TERM").await;
    let readyz = server.url("/readyz");
    until("the server to drain", async || reqwest::get(&readyz).await.expect("an answer").status() == 503).await;
    assert_eq!(reqwest::get(server.url("/healthz")).await.expect("an answer").status(), 200);
    for method in ["GET", "POST", "PUT"] {
        let method = method.parse().expect("a method");
        let request = reqwest::Client::new().request(method, server.url("/publish?topic=t&content=c"));
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 503);
        assert!(response.headers().contains_key("retry-after"));
        assert_eq!(response.json::<Value>().await.expect("a problem document")["code"], "draining");
    }
    let mut refused = server.subscribe("topic=t").await;
    assert_eq!(refused.status, 200, "an EventSource stops for good at anything else");
    let block = refused.next().await.expect("an event");
    let data: Value = serde_json::from_str(&block.data).expect("JSON");
    assert_eq!((block.event.as_str(), &data["code"]), ("broker.refused", &Value::from("draining")), "{data}");
    assert_eq!(data["retry_ms"].as_u64(), refused.retry(), "{data}");
    assert!(refused.next().await.is_none(), "the stream ends");

    let mut other = Stream::open(server.address, "/subscribe?topic=t", &[("accept", "application/x-ndjson")]).await;
    assert_eq!(other.status, 503);
    assert!(other.header("retry-after").is_some());
    assert!(String::from_utf8_lossy(&other.body).contains("draining") || other.read().await);
}

/// Goal: a second signal ends the server at once.
#[tokio::test]
async fn a_second_signal_ends_the_program_at_once() {
    for (first, second) in [("TERM", "TERM"), ("INT", "INT"), ("TERM", "INT")] {
        let mut server = Process::start(LONG).await;
        let mut held = Vec::new();
        for _ in 0..100 {
            held.push(server.subscribe("topic=t").await);
        }
        server.until_subscribers("t", 100).await;
        server.signal(first).await;
        let readyz = server.url("/readyz");
        until("the server to drain", async || reqwest::get(&readyz).await.expect("an answer").status() == 503).await;
        let begin = Instant::now();
        server.signal(second).await;
        let status = server.exit().await;
        assert!(begin.elapsed() < AT_ONCE, "{first}, {second}: it took {:?}", begin.elapsed());
        assert!(status.success(), "{status}");
        let (_, report) = server.last_words().await;
        assert!(report.contains("ended at once"), "{report}");
    }
}

/// Goal: nobody to say goodbye to, nothing to wait for, however long the drain may take.
#[tokio::test]
async fn an_idle_server_exits_at_once() {
    for signal in ["TERM", "INT"] {
        let mut server = Process::start(LONG).await;
        // A client that keeps its connection for a later request is not one to wait for.
        let client = reqwest::Client::new();
        server.publish(&client, "t", "hello").await;
        let mut gone = server.subscribe("topic=t&since=all").await;
        gone.take(1).await;
        drop(gone);
        server.until_subscribers("t", 0).await;
        let begin = Instant::now();
        server.signal(signal).await;
        let status = server.exit().await;
        assert!(begin.elapsed() < AT_ONCE, "SIG{signal}: it took {:?}", begin.elapsed());
        assert!(status.success(), "{status}");
    }
}

/// Goal: streams on which nothing has happened for longer than the drain takes end spread over it like all others.
#[tokio::test]
async fn streams_that_were_quiet_for_long_do_not_all_end_at_once() {
    let drain = Duration::from_secs(1);
    let mut server = Process::start(&[("TIDINGS__SHUTDOWN__DRAIN", "1s")]).await;
    let streams = open(server.address, 100, 1, Vec::new()).await;
    server.until_subscribers("t0", 100).await;
    let quiet_since = Instant::now();
    until("a long quiet", async || quiet_since.elapsed() > drain + drain / 4).await;
    let mut subscribers = JoinSet::new();
    for stream in streams {
        subscribers.spawn(to_the_end(stream, 0));
    }
    server.signal("TERM").await;
    let mut ended: Vec<_> = subscribers.join_all().await.into_iter().map(|stream| stream.at).collect();
    assert!(server.exit().await.success());
    ended.sort_unstable();
    assert!(ended[90] > ended[10] + drain / 4, "they ended within {:?}", ended[90] - ended[10]);
}

/// Goal: a drain of nothing ends the program at once: its streams are cut behind what was acknowledged, without a reset.
#[tokio::test]
async fn a_drain_of_zero_ends_at_once() {
    let mut server = Process::start(&[("TIDINGS__SHUTDOWN__DRAIN", "0s")]).await;
    let mut streams = Vec::new();
    for _ in 0..100 {
        streams.push(server.subscribe("topic=t").await);
    }
    server.until_subscribers("t", 100).await;
    let id = server.publish(&reqwest::Client::new(), "t", "the last").await;
    let begin = Instant::now();
    server.signal("TERM").await;
    let status = server.exit().await;
    assert!(begin.elapsed() < AT_ONCE, "it took {:?}", begin.elapsed());
    assert!(status.success(), "{status}");
    for stream in &mut streams {
        let blocks = stream.until_cut().await;
        assert_eq!(blocks.iter().map(|block| &block.id).collect::<Vec<_>>(), [&id], "what was acknowledged");
        assert!(stream.body.ends_with(b"\n\n"), "the last block is complete");
    }
}

/// Goal: neither a reader that does not read nor a request that never ends holds the program beyond the drain time.
#[tokio::test]
async fn stalled_peers_do_not_hold_up_the_end() {
    let drain = Duration::from_secs(2);
    let mut server = Process::start(&[("TIDINGS__SHUTDOWN__DRAIN", "2s")]).await;
    let stalled = server.subscribe("topic=t").await;
    let client = reqwest::Client::new();
    for _ in 0..40 {
        server.publish(&client, "t", &"x".repeat(256 << 10)).await;
    }
    let mut dribbling = TcpStream::connect(server.address).await.expect("a connection");
    let request = "POST /publish?topic=t HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nhalf";
    dribbling.write_all(request.as_bytes()).await.expect("half a request");
    let begin = Instant::now();
    server.signal("TERM").await;
    let status = server.exit().await;
    let took = begin.elapsed();
    assert!(took < drain + AT_ONCE && status.success(), "{status} after {took:?}");
    drop(stalled);
}

/// Goal: a request that is under way when the drain begins still gets its answer, whether or not there are streams to
/// drain meanwhile: `shutdown.drain` is for requests, too.
#[tokio::test]
async fn a_publish_under_way_is_answered_during_the_drain() {
    for streams in [40, 0] {
        let mut server = TestServer::with(|config| config.shutdown.drain = Duration::from_secs(5));
        let held = open(server.address, streams, 1, Vec::new()).await;
        let mut publisher = TcpStream::connect(server.address).await.expect("a connection");
        let request = "POST /publish?topic=t0 HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\
                    Content-Type: text/plain\r\nContent-Length: 8\r\n\r\n";
        publisher.write_all(request.as_bytes()).await.expect("a head");
        let mut answer = [0; 1024];
        let n = timeout(DEADLINE, publisher.read(&mut answer)).await.expect("an answer in time").expect("an answer");
        assert!(answer[..n].starts_with(b"HTTP/1.1 100 "), "it has read the head and waits for the body");
        server.begin_shutdown();
        let readyz = server.url("/readyz");
        until("the server to drain", async || match reqwest::get(&readyz).await {
            Ok(response) => response.status() == 503,
            // Gone already: the rest of the test says whether that was too soon.
            Err(_) => true,
        })
        .await;
        publisher.write_all(b"complete").await.expect("the body");
        let n = timeout(DEADLINE, publisher.read(&mut answer)).await.expect("an answer in time").expect("an answer");
        let answer = String::from_utf8_lossy(&answer[..n]);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{streams} streams: {answer:?}");
        drop(held);
    }
}

/// Goal: signals that other servers reload for, or that a closing terminal sends, end nothing, also while the drain goes
/// on; they are logged, so that an operator knows what was reloaded and what was not.
#[tokio::test]
async fn signals_that_mean_nothing_here_end_nothing() {
    let mut server = Process::start(LONG).await;
    let mut stream = server.subscribe("topic=t").await;
    for signal in ["HUP", "USR1", "USR2"] {
        server.signal(signal).await;
    }
    let id = server.publish(&reqwest::Client::new(), "t", "still here").await;
    assert_eq!(stream.next().await.expect("an event").id, id);
    server.signal("TERM").await;
    let readyz = server.url("/readyz");
    until("the server to drain", async || reqwest::get(&readyz).await.expect("an answer").status() == 503).await;
    server.signal("HUP").await;
    assert_eq!(reqwest::get(server.url("/healthz")).await.expect("an answer").status(), 200);
    // The control: a signal that means something ends it at once.
    server.signal("TERM").await;
    assert!(server.exit().await.success());
    let (_, report) = server.last_words().await;
    assert!(report.contains("SIGHUP: reading keys and certificates again"), "{report}");
    for signal in ["SIGUSR1", "SIGUSR2"] {
        assert!(report.contains(&format!("{signal} is ignored")), "{report}");
    }
}
