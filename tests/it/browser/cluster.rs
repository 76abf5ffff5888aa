//! A browser in front of the shipped nginx and three servers: it is moved from one to another and misses nothing.

use serde_json::json;

use super::{
    driver::{Browser, Window},
    files::Site,
    rows,
    token::enter,
    until_rows, until_state,
};
use crate::{
    deploy::{Cluster, nginx_conf, replaced, token},
    harness::{
        nginx::{self, Nginx},
        until,
    },
};

/// The page shows the last 500 events only.
const EVENTS_PER_ROUND: usize = 80;

async fn ids(window: &Window<'_>) -> Vec<String> {
    rows(window).await.into_iter().map(|row| row.id).collect()
}

#[tokio::test]
async fn a_browser_whose_server_is_stopped_goes_on_at_another_one_and_misses_nothing() {
    // Goal: the page is open through nginx while events are published, also through nginx. The server that has its stream
    // is stopped: by SIGTERM, by SIGKILL, and both again. Each time the page goes on at another server by itself, and also
    // when all servers were killed and nginx could answer only 502. In the end it shows each acknowledged event once, in
    // order, and no gap.
    let (Some(browser), Some(program)) = (Browser::start().await, nginx::program()) else { return };
    let Some(mut cluster) = Cluster::start(&[]).await else { return };
    let nginx = cluster.proxy(&program).await;
    let window = browser.open(&nginx.url("/?topic=a")).await;
    until_state(&window, "refused").await;
    enter(&window, &token()).await;
    until_state(&window, "open").await;
    let mut published = vec![cluster.publish_surely(&nginx, "first").await];
    let mut home = cluster.until_home(None).await;
    for (round, signal) in ["TERM", "KILL", "TERM", "KILL"].into_iter().enumerate() {
        until_rows(&window, published.len()).await;
        cluster.nodes[home].as_ref().expect("it runs").signal(signal).await;
        let (from, mut count) = (home, 0);
        until("the page at another server", async || {
            if count < EVENTS_PER_ROUND {
                published.push(cluster.publish_surely(&nginx, &format!("{round}/{count}")).await);
                count += 1;
            }
            let other = cluster.home(Some(from)).await;
            home = other.unwrap_or(home);
            other.is_some()
        })
        .await;
        let status = cluster.nodes[from].take().expect("it ran").exit().await;
        assert_eq!(status.success(), signal == "TERM", "{signal}: {status}");
        cluster.start_node(from).await;
    }
    cluster.stop_all("KILL").await;
    until_state(&window, "reconnecting").await;
    cluster.start_all().await;
    published.push(cluster.publish_surely(&nginx, "last").await);
    until_rows(&window, published.len()).await;
    assert_eq!(ids(&window).await, published);
    assert_eq!(window.value("document.querySelectorAll('#events .gap').length").await, 0);
    assert!(window.value("Number(document.querySelector('#reconnects').textContent)").await.as_u64() >= Some(5));
}

#[tokio::test]
async fn an_event_source_comes_back_although_no_server_could_be_reached() {
    // Goal: all servers are killed, and later one of them starts again. An EventSource has tried meanwhile, and goes on
    // with the next event. The control: with a status instead of a closed connection it gives up.
    let (Some(browser), Some(program)) = (Browser::start().await, nginx::program()) else { return };
    let site = Site::serve(vec![("/page", include_str!("pages/eventsource.html").to_owned())]).await;
    let origin = site.origin();
    let settings = [("TIDINGS__AUTH__ANONYMOUS", "subscribe"), ("TIDINGS__CORS__ORIGINS", origin.as_str())];
    let Some(mut cluster) = Cluster::start(&settings).await else { return };
    for comes_back in [true, false] {
        let rule = if comes_back { "return 444;" } else { "return 503;" };
        let nginx = Nginx::start(&program, |listen, directory| {
            replaced(&nginx_conf(&cluster.addresses, listen, directory), "return 444;", rule)
        })
        .await;
        let window = browser.open(&format!("{}/page?broker={}&topic=a", site.origin(), nginx.url(""))).await;
        window.until("seen.opens === 1").await;
        let before = cluster.publish_surely(&nginx, &format!("before {comes_back}")).await;
        window.until("seen.events.length === 1").await;
        cluster.stop_all("KILL").await;
        if !comes_back {
            window.until("source.readyState === EventSource.CLOSED").await;
            break;
        }
        window.until("seen.errors.length >= 3").await;
        assert_eq!(window.value("seen.errors.every((state) => state === EventSource.CONNECTING)").await, true);
        cluster.start_all().await;
        let after = cluster.publish_surely(&nginx, "after").await;
        window.until("seen.events.length >= 2").await;
        assert_eq!(
            window.value("seen.events.map(([type, id]) => [type, id])").await,
            json!([["message", before], ["message", after]])
        );
        window.run("source.close()").await;
    }
}
