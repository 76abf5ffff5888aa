//! The shipped configuration of nginx: which requests it repeats, and what clients see while servers are stopped.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use reqwest::{Client, Method};
use serde_json::Value;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
};

use super::{Cluster, NODES, id_of, nginx_conf, replaced, token};
use crate::harness::{
    Stream, connect_from,
    nginx::{Nginx, program},
    until,
};

/// Servers that take each request and close the connection without an answer.
struct Silent {
    addresses: Vec<SocketAddr>,
    /// The first line of each request.
    requests: Arc<Mutex<Vec<String>>>,
}

impl Silent {
    async fn start() -> Self {
        let mut silent = Self { addresses: Vec::new(), requests: Arc::default() };
        for _ in 0..NODES {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            silent.addresses.push(listener.local_addr().expect("an address"));
            let requests = Arc::clone(&silent.requests);
            tokio::spawn(async move {
                while let Ok((socket, _)) = listener.accept().await {
                    take(socket, &requests).await;
                }
            });
        }
        silent
    }

    /// The requests since the last call.
    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut *self.requests.lock().expect("no panic"))
    }
}

async fn take(mut socket: TcpStream, requests: &Mutex<Vec<String>>) {
    let mut bytes: Vec<u8> = Vec::new();
    let is_whole = |bytes: &[u8]| {
        let end: &[u8] = if bytes.starts_with(b"GET") { b"\r\n\r\n" } else { b"\r\n\r\nhello" };
        bytes.ends_with(end)
    };
    while !is_whole(&bytes) {
        if !socket.read_buf(&mut bytes).await.is_ok_and(|n| n > 0) {
            return;
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    requests.lock().expect("no panic").push(text.lines().next().unwrap_or_default().to_owned());
}

/// Subscribes to topic `a` through nginx.
async fn subscribe(nginx: &Nginx) -> Stream {
    let authorization = format!("Bearer {}", token());
    let headers = [("accept", "text/event-stream"), ("authorization", authorization.as_str())];
    Stream::open(nginx.address, "/subscribe?topic=a", &headers).await
}

#[tokio::test]
async fn nginx_sends_no_publish_twice() {
    // Goal: a server takes a publish, and the connection ends without an answer. The publisher must decide whether to
    // send it again. The control: a subscription, which changes nothing, is sent to each of the servers.
    let Some(program) = program() else { return };
    let silent = Silent::start().await;
    let client = Client::new();
    for (method, path, status, count) in [
        (Method::POST, "/publish?topic=a", 502, 1),
        (Method::PUT, "/publish?topic=a", 403, 0),
        (Method::GET, "/publish?topic=a&content=hello", 403, 0),
        (Method::POST, "/tickets", 502, 1),
        (Method::GET, "/subscribe?topic=a", 503, NODES),
    ] {
        // A new one each time: it leaves servers out that have not answered.
        let nginx = Nginx::start(&program, |listen, dir| nginx_conf(&silent.addresses, listen, dir)).await;
        let mut request = client.request(method.clone(), nginx.url(path)).header("content-type", "text/plain");
        if method != Method::GET {
            request = request.body("hello");
        }
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), status, "{method} {path}");
        let taken = silent.taken();
        assert_eq!(taken.len(), count, "{method} {path}: {taken:?}");
    }
}

#[tokio::test]
async fn publishes_go_to_another_server_while_one_is_down() {
    // Goal: the server that nginx has used for this client is killed: its stream ends, and each publish is an event at the
    // first attempt, because nginx could not send it to the dead server. Without any server, the answer is a clear error.
    let Some(program) = program() else { return };
    let Some(mut cluster) = Cluster::start(&[]).await else { return };
    let nginx = cluster.proxy(&program).await;
    let mut stream = subscribe(&nginx).await;
    let home = cluster.until_home(None).await;
    let first = id_of(cluster.publish(&nginx, "first").send().await.expect("an answer")).await;
    assert_eq!(stream.next().await.expect("an event").id, first);
    cluster.stop_node(home, "KILL").await;
    assert!(stream.until_cut().await.is_empty(), "the stream ends with the server");
    let mut published = Vec::new();
    for n in 0..30 {
        let answer = cluster.publish(&nginx, &n.to_string()).send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "publish {n}");
        published.push(id_of(answer).await);
    }
    let authorization = format!("Bearer {}", token());
    let headers = [("accept", "text/event-stream"), ("authorization", &authorization), ("last-event-id", &first)];
    let mut stream = Stream::open(nginx.address, "/subscribe?topic=a", &headers).await;
    let received: Vec<String> = stream.take(30).await.into_iter().map(|block| block.id).collect();
    assert_eq!(received, published, "the stream goes on at another server");
    cluster.stop_all("KILL").await;
    let answer = cluster.publish(&nginx, "nobody").send().await.expect("an answer");
    assert_eq!(answer.status(), 502);
    let answer = cluster.request(Method::GET, &nginx.url("/subscribe?topic=a")).send().await.expect("an answer");
    assert_eq!(answer.status(), 503, "a client that is no EventSource is told");
    assert_eq!(answer.headers()["retry-after"], "3");
}

#[tokio::test]
async fn a_server_that_hangs_loses_its_streams_and_is_left_out() {
    // Goal: the server that has the client's stream hangs: nginx cuts the stream and answers one publish with 504. The
    // next publish is at another server. Only the timeouts are shorter than those of the file.
    let Some(program) = program() else { return };
    let Some(cluster) = Cluster::start(&[("TIDINGS__STREAM__HEARTBEAT", "200ms")]).await else { return };
    let nginx = Nginx::start(&program, |listen, directory| {
        let text = nginx_conf(&cluster.addresses, listen, directory);
        let text = replaced(&text, "proxy_read_timeout 45s;", "proxy_read_timeout 2s;");
        replaced(&text, "proxy_read_timeout 15s;", "proxy_read_timeout 1s;")
    })
    .await;
    let mut stream = subscribe(&nginx).await;
    let home = cluster.until_home(None).await;
    cluster.nodes[home].as_ref().expect("it runs").signal("STOP").await;
    assert!(stream.until_cut().await.is_empty());
    for (content, status) in [("to the one that hangs", 504), ("to another one", 200)] {
        assert_eq!(cluster.publish(&nginx, content).send().await.expect("an answer").status(), status, "{content}");
    }
}

#[tokio::test]
async fn a_client_of_nginx_cannot_say_who_it_is() {
    // Goal: with one subscriber allowed from each address, a client counts by its own address, whatever it says in the
    // headers of a proxy.
    let Some(program) = program() else { return };
    let Some(cluster) = Cluster::start(&[("TIDINGS__LIMITS__CONNECTIONS_PER_IP_MAX", "1")]).await else { return };
    let nginx = cluster.proxy(&program).await;
    let authorization = format!("Bearer {}", token());
    let subscribe = async |from: &str, made_up: (&str, &str)| {
        let socket = connect_from(from, nginx.address).await;
        Stream::send(socket, "/subscribe?topic=a", &[("authorization", &authorization), made_up]).await
    };
    let first = subscribe("127.0.0.2", ("x-forwarded-for", "192.0.2.1")).await;
    assert_eq!(first.status, 200);
    for made_up in [("x-forwarded-for", "192.0.2.2"), ("forwarded", "for=192.0.2.2"), ("x-real-ip", "192.0.2.2")] {
        assert_eq!(subscribe("127.0.0.2", made_up).await.status, 429, "{made_up:?}");
    }
    assert_eq!(subscribe("127.0.0.3", ("x-forwarded-for", "192.0.2.1")).await.status, 200, "it is another client");
}

#[tokio::test]
async fn an_outage_of_nats_is_seen_by_probes_and_publishers_and_ends_no_stream() {
    // Goal: while NATS hangs, no server is ready and each is alive, as the probes of Kubernetes ask it. A publish gets a
    // problem that says when to try again. The stream through nginx stays open, and goes on when NATS does.
    let Some(program) = program() else { return };
    let settings = [("TIDINGS__CLUSTER__ACK_TIMEOUT", "500ms"), ("TIDINGS__STREAM__HEARTBEAT", "100ms")];
    let Some(cluster) = Cluster::start(&settings).await else { return };
    let nginx = cluster.proxy(&program).await;
    let mut stream = subscribe(&nginx).await;
    cluster.publish_surely(&nginx, "before").await;
    assert_eq!(stream.next().await.expect("an event").data, "before");
    let probes = super::files::probes("deploy/cluster/kubernetes/tidings.yaml", "tidings");
    let (ready, alive) = (&probes["readinessProbe"], &probes["livenessProbe"]);
    cluster.nats.signal("-STOP");
    for n in 0..NODES {
        until("readiness to end", async || cluster.status(n, ready).await == Some(503)).await;
        assert_eq!(cluster.status(n, alive).await, Some(200));
    }
    let answer = cluster.publish(&nginx, "refused").send().await.expect("an answer");
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    let problem: Value = answer.json().await.expect("a problem document");
    assert!(["unavailable", "outcome_unknown"].contains(&problem["code"].as_str().expect("a code")), "{problem}");
    let (blocks, read) = (stream.pending(), stream.body.len());
    until("a heartbeat", async || stream.read().await && stream.body.len() > read).await;
    assert_eq!(stream.pending(), blocks, "there is no event in it");
    cluster.nats.signal("-CONT");
    for n in 0..NODES {
        until("readiness", async || cluster.status(n, ready).await == Some(200)).await;
    }
    let id = cluster.publish_surely(&nginx, "after").await;
    until("the event", async || stream.next().await.expect("an event").id == id).await;
}
