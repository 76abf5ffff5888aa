//! The browser's own EventSource, in pages of another site.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    driver::{Browser, Window},
    files::Site,
    open_to,
};
use crate::harness::{QueryPair as _, TestServer, until};

/// Streams end after this time, jittered, and their clients come back.
pub const LIFETIME: Duration = Duration::from_secs(1);
/// Long enough that something is published while nobody is there.
pub const RETRY: Duration = Duration::from_millis(500);

/// Waits until nobody follows the topic, then publishes: live delivery cannot be how this event arrives.
pub async fn publish_to_nobody(server: &TestServer, topic: &str, content: &str) -> Vec<String> {
    let mut ids = Vec::new();
    until("a moment without subscribers", async || {
        server.until_subscribers(topic, 0).await;
        let request = reqwest::Client::new().post(server.url("/publish")).query_pair("topic", topic);
        let request = request.header("content-type", "text/plain").body(content.to_owned());
        let answer: Value = request.send().await.expect("an answer").json().await.expect("JSON");
        ids.push(answer["id"].as_str().expect("an id").to_owned());
        answer["subscribers"] == 0
    })
    .await;
    ids
}

/// The ids of the events that `eventsource.html` or `polyfill.html` has been given.
pub async fn ids(window: &Window<'_>) -> Vec<String> {
    serde_json::from_value(window.value("seen.events.map(([type, id]) => id)").await).expect("texts")
}

#[tokio::test]
async fn streams_that_end_are_resumed_by_last_event_id() {
    // With `stream.lifetime_max` the stream ends again and again; what is published meanwhile arrives once, in order.
    let Some(browser) = Browser::start().await else { return };
    let site = Site::serve(vec![("/page", include_str!("pages/eventsource.html").to_owned())]).await;
    let server = open_to(&site.origin(), |config| {
        config.stream.lifetime_max = LIFETIME;
        config.stream.retry = RETRY;
    });
    let window = browser.open(&format!("{}/page?broker={}&topic=a&topic=b", site.origin(), server.url(""))).await;
    window.until("seen.opens === 1").await;
    // The first of them comes before the page has seen any event: the id of the first bytes must do.
    let mut published = Vec::new();
    for end in 1..=3 {
        published.extend(publish_to_nobody(&server, "a", "missed").await);
        published.push(server.publish("b", "maybe missed").await);
        window.until(&format!("seen.opens > {end}")).await;
        published.push(server.publish("a", "live").await);
        window.until(&format!("seen.events.length >= {}", published.len())).await;
    }
    assert_eq!(ids(&window).await, published);
    assert_eq!(window.value("seen.errors.every((state) => state === EventSource.CONNECTING)").await, true);
    assert_eq!(window.value("seen.events.some(([type]) => type !== 'message')").await, false, "no gap either");
}

#[tokio::test]
async fn named_events_reach_their_listeners() {
    // `event=` is the type a page listens for.
    let Some(browser) = Browser::start().await else { return };
    let site = Site::serve(vec![("/page", include_str!("pages/eventsource.html").to_owned())]).await;
    let server = open_to(&site.origin(), |_| {});
    let window = browser.open(&format!("{}/page?broker={}&topic=a", site.origin(), server.url(""))).await;
    window.until("seen.opens === 1").await;
    let request = reqwest::Client::new().post(server.url("/publish")).query_pair("topic", "a");
    let request = request.query_pair("event", "greeting").query_pair("content", "hello\r\nagain\r  indented");
    assert_eq!(request.send().await.expect("an answer").status(), 200);
    window.until("seen.events.length === 1").await;
    let event = window.value("[seen.events[0][0], seen.events[0][2]]").await;
    assert_eq!(event, json!(["greeting", "hello\nagain\n  indented"]));
}

#[tokio::test]
async fn a_deleted_topic_closes_its_eventsource() {
    // DELETE ends the stream; the reconnect is answered 204, at which an EventSource stops for good.
    let Some(browser) = Browser::start().await else { return };
    let site = Site::serve(vec![("/page", include_str!("pages/eventsource.html").to_owned())]).await;
    let server = open_to(&site.origin(), |_| {});
    let window = browser.open(&format!("{}/page?broker={}&topic=a", site.origin(), server.url(""))).await;
    window.until("seen.opens === 1").await;
    server.publish("a", "last words").await;
    window.until("seen.events.length === 1").await;
    let answer = reqwest::Client::new().delete(server.url("/topics/a")).send().await.expect("an answer");
    assert_eq!(answer.status(), 204);
    window.until("source.readyState === EventSource.CLOSED").await;
    let told = window.value("[seen.events[1][0], JSON.parse(seen.events[1][2]), seen.opens, seen.errors]").await;
    assert_eq!(told, json!(["broker.deleted", {"topic": "a"}, 1, [0, 2]]), "it was told, came back once, and closed");
}

#[tokio::test]
async fn a_page_of_a_site_that_is_not_listed_gets_nothing() {
    // The control of all of these: without `cors.origins` neither the stream nor the publish is theirs.
    let Some(browser) = Browser::start().await else { return };
    let site = Site::serve(vec![
        ("/page", include_str!("pages/eventsource.html").to_owned()),
        ("/xhr", include_str!("pages/xhr.html").to_owned()),
    ])
    .await;
    let server = open_to("https://elsewhere.example", |_| {});
    let window = browser.open(&format!("{}/page?broker={}&topic=a", site.origin(), server.url(""))).await;
    window.until("source.readyState === EventSource.CLOSED").await;
    assert_eq!(window.value("seen.opens").await, 0);
    window.go(&format!("{}/xhr?broker={}", site.origin(), server.url(""))).await;
    window.fill("#topic", "b").await;
    window.fill("#content", "forged").await;
    window.click("#send").await;
    window.until("document.querySelector('#answer').textContent === '0 '").await;
    let answer = reqwest::get(server.url("/topics/b")).await.expect("an answer");
    assert_eq!(answer.status(), 404, "nothing was published");
}

#[tokio::test]
async fn the_articles_demo_page_works_as_it_is() {
    // `/subscribe?topic=` with EventSource and `/publish?topic=&content=` with XMLHttpRequest, unencoded as they do it.
    let Some(browser) = Browser::start().await else { return };
    let site = Site::serve(vec![("/page", include_str!("pages/xhr.html").to_owned())]).await;
    let server = open_to(&site.origin(), |_| {});
    let window = browser.open(&format!("{}/page?broker={}", site.origin(), server.url(""))).await;
    window.fill("#topic", "客户端1").await;
    window.click("#open").await;
    let lines = "[...document.querySelectorAll('#message p')].map((line) => line.textContent).join('|')";
    window.until(&format!("{lines} === 'open'")).await;
    window.fill("#content", "你好, world <1>").await;
    window.click("#send").await;
    window.until(&format!("{lines} === 'open|你好, world <1>'")).await;
    window.until("document.querySelector('#answer').textContent.startsWith('200 {')").await;
    // The server notices that this client leaves.
    server.until_subscribers("客户端1", 1).await;
    window.click("#close").await;
    server.until_subscribers("客户端1", 0).await;
    // Opened again and deleted from outside, it closes by itself.
    window.click("#open").await;
    server.until_subscribers("客户端1", 1).await;
    let answer = reqwest::Client::new().delete(server.url("/topics/客户端1")).send().await.expect("an answer");
    assert_eq!(answer.status(), 204);
    window.until(&format!("{lines}.endsWith('|closed')")).await;
}
