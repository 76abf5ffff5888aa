//! The systems this grew out of, as far as they need no browser.

use crate::harness::{Stream, TestServer, encoded};

/// A client of the notice service: its topic is its id.
async fn client(server: &TestServer, id: &str) -> Stream {
    let stream = server.subscribe(&format!("topic={}", encoded(id))).await;
    assert_eq!(stream.status, 200);
    stream
}

#[tokio::test]
async fn a_notice_service_reaches_one_client_and_notices_it_leave() {
    // One topic a client: a notice reaches its client and nobody else, and a client that leaves is seen to be gone.
    let server = TestServer::start();
    let ids = ["client-1", "订单台 2", "3b241101-e2bb-4255-8caf-4136c566a962"];
    let mut clients = Vec::new();
    for id in ids {
        clients.push(client(&server, id).await);
        server.until_subscribers(&encoded(id), 1).await;
    }
    for (id, stream) in ids.iter().zip(&mut clients) {
        let notice = format!("for {id} alone");
        let path = format!("/publish?topic={}&content={}", encoded(id), encoded(&notice));
        assert_eq!(server.ask("GET", &path, &[], b"").await.ok()["subscribers"], 1);
        assert_eq!(stream.next().await.expect("a notice").data, notice);
    }
    assert!(clients.iter().all(|stream| stream.pending() == 0));
    drop(clients.remove(0));
    server.until_subscribers(&encoded(ids[0]), 0).await;
    let answer = server.ask("GET", "/publish?topic=client-1&content=too+late", &[], b"").await;
    assert_eq!(answer.ok()["subscribers"], 0);
    for id in &ids[1..] {
        let topic = server.ask("GET", &format!("/topics/{}", encoded(id)), &[], b"").await.ok();
        assert_eq!(topic["subscribers"], 1);
    }
}

#[tokio::test]
async fn a_client_that_comes_back_gets_every_notice_it_missed() {
    // Not only the last: offline for five notices, back with its id, it gets all five, once.
    let server = TestServer::start();
    let mut stream = client(&server, "client-1").await;
    server.publish("client-1", "0").await;
    let seen = stream.next().await.expect("a notice").id;
    drop(stream);
    server.until_subscribers("client-1", 0).await;
    for n in 1..=5 {
        server.publish("client-1", &n.to_string()).await;
    }
    let mut stream = server.resume("topic=client-1", &seen).await;
    assert_eq!(super::data(&stream.take(5).await), ["1", "2", "3", "4", "5"]);
    server.publish("client-1", "6").await;
    assert_eq!(super::data(&stream.take(1).await), ["6"]);
}

#[tokio::test]
async fn one_clients_stream_is_started_sent_to_and_ended() {
    // start, send, end: all that was sent arrives, the stream ends cleanly, the browser stops, others feel nothing.
    let server = TestServer::start();
    let mut stream = client(&server, "job-7").await;
    let mut other = client(&server, "job-8").await;
    for (event, content) in [("start", "7"), ("progress", "50 %"), ("progress", "100 %"), ("done", "")] {
        let path = format!("/publish?topic=job-7&event={event}&content={}", encoded(content));
        server.ask("POST", &path, &[], b"").await.ok();
    }
    assert_eq!(server.ask("DELETE", "/topics/job-7", &[], b"").await.status, 204);
    let blocks = stream.all().await;
    let seen: Vec<_> = blocks.iter().map(|block| (block.event.as_str(), block.data.as_str())).collect();
    let deleted = ("broker.deleted", r#"{"topic":"job-7"}"#);
    assert_eq!(seen, [("start", "7"), ("progress", "50 %"), ("progress", "100 %"), ("done", ""), deleted]);
    // What an EventSource does next, and the answer at which it stops for good.
    let again = server.resume("topic=job-7", stream.last_event_id()).await;
    assert_eq!(again.status, 204);
    server.publish("job-8", "still there").await;
    assert_eq!(other.next().await.expect("an event").data, "still there");
}
