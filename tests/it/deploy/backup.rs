//! What the page says of backups: a stream that was restored needs a new epoch.

use async_nats::jetstream;

use super::{Cluster, id_of, read, token};
use crate::harness::{Stream, nginx::program};

/// The key of the epoch in the metadata of the stream, as the page has it.
fn epoch_key() -> String {
    let page = read("docs/cluster-operations.md");
    let rest = page.split("--metadata \"").nth(1).expect("the page sets it");
    rest.split('=').next().expect("a key and a value").to_owned()
}

#[tokio::test]
async fn a_stream_with_a_new_epoch_tells_earlier_subscribers_reset() {
    // Goal: the servers are stopped, the epoch is changed as the page says, and the servers are started. A subscriber of
    // before is told `reset` and gets what is held, with ids of the new epoch. Without the change nothing of it happens.
    let Some(program) = program() else { return };
    let Some(mut cluster) = Cluster::start(&[]).await else { return };
    let nginx = cluster.proxy(&program).await;
    let id = id_of(cluster.publish(&nginx, "before").send().await.expect("an answer")).await;
    let nats = jetstream::new(async_nats::connect(cluster.nats.url()).await.expect("a connection"));
    let authorization = format!("Bearer {}", token());
    let headers = [("accept", "text/event-stream"), ("authorization", &authorization), ("last-event-id", &id)];
    for is_changed in [false, true] {
        cluster.stop_all("TERM").await;
        if is_changed {
            let stream = nats.get_stream(cluster.namespace.as_str()).await.expect("the stream");
            let mut config = stream.cached_info().config.clone();
            let before = config.metadata.insert(epoch_key(), "0newer00".to_owned());
            assert_eq!(before.as_deref(), id.split('-').next(), "it is the epoch");
            nats.update_stream(config).await.expect("the stream is changed");
        }
        cluster.start_all().await;
        let mut stream = Stream::open(nginx.address, "/subscribe?topic=a", &headers).await;
        let after = cluster.publish_surely(&nginx, &format!("after {is_changed}")).await;
        if is_changed {
            let gap = stream.next().await.expect("a notice");
            assert!(gap.event == "broker.gap" && gap.data.contains("reset"), "{gap:?}");
            assert_eq!(stream.next().await.expect("an event").data, "before");
            assert_eq!(stream.next().await.expect("an event").data, "after false");
            assert!(after.starts_with("0newer00-"), "{after}");
        }
        assert_eq!(stream.next().await.expect("an event").id, after);
    }
}
