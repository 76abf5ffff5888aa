//! The shortest way through everything.

use crate::harness::TestServer;

#[tokio::test]
async fn an_event_reaches_a_subscriber() {
    // Subscribe, publish, receive.
    let server = TestServer::start();
    let mut stream = server.subscribe("topic=news").await;
    assert_eq!(stream.status, 200);
    let id = server.publish("news", "hello").await;
    let block = stream.next().await.expect("an event");
    assert_eq!((block.event.as_str(), block.id, block.data.as_str()), ("message", id, "hello"));
}
