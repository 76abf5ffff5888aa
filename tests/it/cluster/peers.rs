//! What the servers of a cluster ask and tell each other: numbers of subscribers, tickets, and the ends of subjects.

use serde_json::{Value, json};
use tidings::config::{Config, Engine};

use super::Cluster;
use crate::{
    auth::{seconds_from_now, token, with_keys},
    harness::{
        Stream, TestServer,
        nats::{self, Nats},
        tools::left_out,
        until,
    },
    subscribers::ending::last_id,
};

const SSE: (&str, &str) = ("accept", "text/event-stream");
const JSON: (&str, &str) = ("content-type", "application/json");

/// Configures a server of the cluster, with a key for tokens.
fn in_cluster(cluster: &Cluster) -> impl Fn(&mut Config) {
    let (url, namespace) = (cluster.url.clone(), cluster.namespace.clone());
    move |config| {
        with_keys(config);
        config.log.engine = Engine::Cluster;
        config.cluster.servers = vec![url.clone()];
        config.cluster.namespace.clone_from(&namespace);
    }
}

fn bearer(subject: &str) -> String {
    let rights = json!({"publish": ["**"], "subscribe": ["**"], "manage": ["**"]});
    format!("Bearer {}", token(subject, &rights, seconds_from_now(600)))
}

async fn take_ticket(server: &TestServer, subject: &str) -> String {
    let headers = [("authorization", &*bearer(subject)), JSON];
    let answer = server.ask("POST", "/tickets", &headers, br#"{"topics": ["a"]}"#).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["ticket"].as_str().expect("a ticket").to_owned()
}

async fn open(server: &TestServer, query: &str, credential: Option<&str>) -> Stream {
    let headers: Vec<_> = [SSE].into_iter().chain(credential.map(|value| ("authorization", value))).collect();
    server.get(&format!("/subscribe?{query}"), &headers).await
}

/// How many subscribers of `a` a server counts, in the cluster.
async fn subscribers(server: &TestServer) -> Value {
    let answer = server.ask("GET", "/topics/a", &[("authorization", &bearer("ann"))], b"").await;
    if answer.status == 404 { json!(0) } else { answer.ok()["subscribers"].clone() }
}

async fn until_subscribers(server: &TestServer, n: usize) {
    until(&format!("{n} subscribers"), async || subscribers(server).await == json!(n)).await;
}

async fn publish(server: &TestServer, content: &str) -> Value {
    let path = format!("/publish?topic=a&content={content}");
    server.ask("POST", &path, &[("authorization", &bearer("ann"))], b"").await.ok()
}

#[tokio::test]
async fn each_server_counts_the_subscribers_of_all() {
    // Goal: the answers of every server have the sum, also those of a server that comes later; and what a server counts
    // that is gone does not stay.
    let Some(cluster) = Cluster::on_shared() else { return };
    let [first, second] = [TestServer::with(in_cluster(&cluster)), TestServer::with(in_cluster(&cluster))];
    let ann = bearer("ann");
    let mut streams = Vec::new();
    for server in [&first, &first, &second] {
        streams.push(open(server, "topic=a", Some(&ann)).await);
    }
    let third = TestServer::with(in_cluster(&cluster));
    for server in [&first, &second, &third] {
        until_subscribers(server, 3).await;
        assert_eq!(publish(server, "x").await["subscribers"], 3);
    }
    streams.pop();
    for server in [&first, &second, &third] {
        until_subscribers(server, 2).await;
    }
    drop(streams);
    first.shutdown();
    for server in [&second, &third] {
        until_subscribers(server, 0).await;
    }
}

#[tokio::test]
async fn the_subscribers_of_a_killed_server_are_forgotten() {
    // Goal: a server that can say nothing any more does not count for ever.
    let Some(cluster) = Cluster::on_shared() else { return };
    let (killed, other) = (cluster.node().await, cluster.node().await);
    let _stream = killed.subscribe("topic=a").await;
    let count = async || {
        let answer = cluster.client.get(other.url("/topics/a")).send().await.expect("an answer");
        answer.json::<Value>().await.expect("JSON")["subscribers"].as_u64().unwrap_or_default()
    };
    until("one subscriber", async || count().await == 1).await;
    // As `kill -9` does.
    drop(killed);
    until("none", async || count().await == 0).await;
}

#[tokio::test]
async fn a_ticket_of_one_server_opens_one_stream_at_any_server() {
    // Goal: once, at another server or at its own; to look does not use it up; and the ticket of a server that is gone is
    // no good.
    let Some(cluster) = Cluster::on_shared() else { return };
    let [giver, other] = [TestServer::with(in_cluster(&cluster)), TestServer::with(in_cluster(&cluster))];
    for [redeemer, next] in [[&other, &giver], [&giver, &other], [&other, &other]] {
        let ticket = take_ticket(&giver, "ann").await;
        let query = format!("topic=a&ticket={ticket}");
        let path = format!("/subscribe?{query}");
        for looked_at in [&giver, &other] {
            assert_eq!(looked_at.ask("HEAD", &path, &[], b"").await.status, 200);
        }
        let forbidden = format!("/subscribe?topic=b&ticket={}", take_ticket(&giver, "ann").await);
        redeemer.ask("GET", &forbidden, &[], b"").await.problem(403, "forbidden");
        let mut stream = open(redeemer, &query, None).await;
        let id = publish(&giver, "x").await["id"].clone();
        assert_eq!(stream.take(1).await[0].id, id.as_str().expect("an id"));
        for used in [next, redeemer] {
            used.ask("GET", &path, &[], b"").await.problem(401, "unauthorized");
            assert_eq!(used.ask("HEAD", &path, &[], b"").await.status, 401);
        }
        let refused = open(next, &query, None).await.all().await;
        assert_eq!(refused.last().map(|block| block.event.as_str()), Some("broker.unauthorized"), "{refused:?}");
    }
    let path = format!("/subscribe?topic=a&ticket={}", take_ticket(&giver, "ann").await);
    giver.shutdown();
    other.ask("GET", &path, &[], b"").await.problem(401, "unauthorized");
}

#[tokio::test]
async fn tickets_that_nobody_gave_cost_little() {
    // Goal: each one is a question to another server, so an address may ask only so often. A ticket that is good does not
    // count.
    let Some(cluster) = Cluster::on_shared() else { return };
    let limited = |config: &mut Config| {
        in_cluster(&cluster)(config);
        config.limits.failed_authentications_per_second_per_ip = 2;
    };
    let [giver, other] = [TestServer::with(in_cluster(&cluster)), TestServer::with(limited)];
    let node = &take_ticket(&giver, "ann").await[..16];
    let forged = format!("/subscribe?topic=a&ticket={node}{}", "0".repeat(48));
    for _ in 0..10 {
        let good = format!("/subscribe?topic=a&ticket={}", take_ticket(&giver, "ann").await);
        assert_eq!(other.ask("HEAD", &good, &[], b"").await.status, 200);
    }
    let mut statuses = Vec::new();
    while statuses.last() != Some(&429) {
        statuses.push(other.ask("HEAD", &forged, &[], b"").await.status);
    }
    assert!(statuses.len() > 2 && statuses.iter().rev().skip(1).all(|status| *status == 401), "{statuses:?}");
    assert_eq!(giver.ask("HEAD", &forged, &[], b"").await.status, 401, "its own server asks nobody");
}

#[tokio::test]
async fn a_ticket_at_two_servers_at_once_opens_one_stream() {
    // Goal: of two requests at the same moment, one gets the stream.
    let Some(cluster) = Cluster::on_shared() else { return };
    let servers = [TestServer::with(in_cluster(&cluster)), TestServer::with(in_cluster(&cluster))];
    for _ in 0..20 {
        let query = format!("topic=a&marks=none&ticket={}", take_ticket(&servers[0], "ann").await);
        let headers = [("accept", "application/x-ndjson")];
        let path = format!("/subscribe?{query}");
        let (here, there) = tokio::join!(servers[0].get(&path, &headers), servers[1].get(&path, &headers));
        let mut statuses = [here.status, there.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 401]);
    }
}

#[tokio::test]
async fn the_end_of_a_subject_ends_its_streams_and_tickets_everywhere() {
    // Goal: one request at one server. Other subjects, and streams that begin later, are left alone.
    let Some(cluster) = Cluster::on_shared() else { return };
    let servers = [TestServer::with(in_cluster(&cluster)), TestServer::with(in_cluster(&cluster))];
    let (ann, bob) = (bearer("ann"), bearer("bob"));
    let mut ended = Vec::new();
    let mut others = Vec::new();
    let mut tickets = Vec::new();
    for server in &servers {
        ended.push(open(server, "topic=a", Some(&ann)).await);
        others.push(open(server, "topic=a", Some(&bob)).await);
        tickets.push(take_ticket(server, "ann").await);
    }
    let answer = servers[0].ask("DELETE", "/subjects/ann", &[("authorization", &bob)], b"").await;
    assert_eq!(answer.status, 204, "{answer:?}");
    for stream in &mut ended {
        let id = last_id(stream).await;
        for server in &servers {
            let headers = [SSE, ("authorization", &*ann), ("last-event-id", &*id)];
            assert_eq!(server.get("/subscribe?topic=a", &headers).await.status, 204, "it stays away from all");
        }
    }
    for ticket in &tickets {
        let path = format!("/subscribe?topic=a&ticket={ticket}");
        for server in &servers {
            server.ask("GET", &path, &[], b"").await.problem(401, "unauthorized");
        }
    }
    let mut later = open(&servers[1], "topic=a", Some(&ann)).await;
    let id = publish(&servers[0], "x").await["id"].clone();
    for stream in others.iter_mut().chain([&mut later]) {
        assert_eq!(stream.take(1).await[0].id, id.as_str().expect("an id"));
    }
}

#[tokio::test]
async fn the_end_of_a_subject_is_not_confirmed_without_nats() {
    // Goal: this server ends the streams at once, and says that the others have not; a ticket cannot be asked about.
    let Ok(program) = nats::program().inspect_err(|missing| left_out(missing)) else { return };
    let nats = Nats::start(program);
    let cluster = Cluster::on(&nats);
    let servers = [TestServer::with(in_cluster(&cluster)), TestServer::with(in_cluster(&cluster))];
    let (ann, bob) = (bearer("ann"), bearer("bob"));
    let mut streams = [open(&servers[0], "topic=a", Some(&ann)).await, open(&servers[1], "topic=a", Some(&ann)).await];
    let ticket = take_ticket(&servers[0], "bob").await;
    nats.signal("-STOP");
    let refused = servers[0].ask("DELETE", "/subjects/ann", &[("authorization", &bob)], b"").await;
    refused.problem(503, "outcome_unknown");
    last_id(&mut streams[0]).await;
    let path = format!("/subscribe?topic=a&ticket={ticket}");
    servers[1].ask("GET", &path, &[], b"").await.problem(503, "outcome_unknown");
    nats.signal("-CONT");
    until("the end is confirmed", async || {
        servers[0].ask("DELETE", "/subjects/ann", &[("authorization", &bob)], b"").await.status == 204
    })
    .await;
    last_id(&mut streams[1]).await;
}
