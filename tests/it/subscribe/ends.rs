//! Why a stream ended, as the log says it.

use tidings::hub::End;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::harness::Process;

/// Ends the server; how many streams it says have ended for each reason that occurred.
async fn ends(mut server: Process) -> Vec<(End, usize)> {
    server.signal("TERM").await;
    server.exit().await;
    let (_, log) = server.last_words().await;
    let count = |end: &End| (*end, log.matches(&format!("end=\"{}\"", end.as_str())).count());
    let ends: Vec<(End, usize)> = End::ALL.iter().map(count).filter(|(_, count)| *count > 0).collect();
    assert_eq!(ends.iter().map(|(_, count)| count).sum::<usize>(), log.matches("stream closed").count(), "{log}");
    ends
}

#[tokio::test]
async fn the_log_says_why_each_stream_ended() {
    let settings = [("RUST_LOG", "tidings::hub=debug"), ("NO_COLOR", "1"), ("TIDINGS__SHUTDOWN__DRAIN", "1s")];
    let server = Process::start(&settings).await;
    let mut deleted = server.subscribe("topic=a").await;
    let mut both = server.subscribe("topic=a&topic=b").await;
    let gone = server.subscribe("topic=gone").await;
    server.until_subscribers("gone", 1).await;
    drop(gone);
    server.until_subscribers("gone", 0).await;
    let mut flood = TcpStream::connect(server.address).await.expect("a connection");
    flood.write_all(b"GET /subscribe?topic=flood HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("it is sent");
    server.until_subscribers("flood", 1).await;
    // It is cut before it has sent all of this.
    flood.write_all(&vec![b'x'; 16 << 20]).await.expect_err("it is cut");
    server.until_subscribers("flood", 0).await;
    for topic in ["a", "b"] {
        let deletion = reqwest::Client::new().delete(server.url(&format!("/topics/{topic}"))).send();
        assert_eq!(deletion.await.expect("an answer").status(), 204);
    }
    while deleted.next().await.is_some() || both.next().await.is_some() {}
    let drained = server.subscribe("topic=drained").await;
    server.until_subscribers("drained", 1).await;
    assert_eq!(ends(server).await, [(End::Drained, 1), (End::Deleted, 2), (End::PeerGone, 1), (End::Flooded, 1)]);
    drop(drained);

    let server = Process::start(&[&settings[..], &[("TIDINGS__STREAM__LIFETIME_MAX", "1s")]].concat()).await;
    let mut stream = server.subscribe("topic=a").await;
    while stream.next().await.is_some() {}
    assert_eq!(ends(server).await, [(End::Lifetime, 1)]);
}
