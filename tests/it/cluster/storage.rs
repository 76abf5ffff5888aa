//! NATS has an older copy of its stream.

use super::{Cluster, resume, until};
use crate::harness::{
    nats::{Nats, program},
    tools::left_out,
};

/// A NATS of its own with this limit of bytes on the disk; `None` without, which is said.
fn own_nats(disk_bytes_max: u64) -> Option<Nats> {
    let started = program().map(|program| Nats::start_with(program, disk_bytes_max, ""));
    started.map_err(|missing| left_out(&missing)).ok()
}

#[tokio::test]
async fn a_stream_that_was_restored_from_a_copy_ends_the_processes() {
    // Goal: positions never get other events under the same ids. Each process ends with the code of a failed log, and
    // says why. The next one serves what the copy has, in a new epoch, and tells all earlier clients.
    let Some(nats) = own_nats(1_000_000_000_000_000) else { return };
    let cluster = Cluster::on(&nats);
    let mut nodes = [cluster.node().await, cluster.node().await];
    let kept = cluster.publish(&nodes[0], "a", "kept").await;
    nats.kill();
    nats.save();
    nats.restart();
    for n in 0..3 {
        until("an acknowledgement", async || {
            let lost = cluster.publish_once(&nodes[0], &n.to_string(), &format!("lost {n}")).await;
            lost.expect("an answer").status() == 200
        })
        .await;
    }
    let lost = cluster.publish(&nodes[1], "a", "lost").await;
    nats.kill();
    nats.put_back();
    nats.restart();
    for node in &mut nodes {
        assert_eq!(node.exit().await.code(), Some(74));
        let (_, errors) = node.last_words().await;
        assert!(errors.contains("not the one of before"), "{errors}");
        // The node that came first has given the stream a new epoch.
        assert!(errors.contains("its last position is") || errors.contains("it was made anew"), "{errors}");
    }
    let next = cluster.node().await;
    for id in [&kept, &lost] {
        let blocks = resume(&next, "topic=a", id).await.take(2).await;
        assert!(blocks[0].event == "broker.gap" && blocks[0].data.contains("reset"), "{blocks:?}");
        assert_eq!(blocks[1].data, "kept");
    }
    let id = cluster.publish(&next, "a", "new").await;
    let epoch = |id: &str| id.split('-').next().map(str::to_owned);
    assert_ne!(epoch(&id), epoch(&lost));
}
