//! Too many connections, and topics that end.

use std::time::Instant;

use super::{RETRY, driver::Browser, driver::Window, eager, proxy::Proxy, rows, until_rows, until_state};
use crate::harness::{TestServer, until};

/// How many subscribe requests this window has sent.
async fn attempts(window: &Window<'_>) -> u64 {
    let entries =
        "performance.getEntriesByType('resource').filter((entry) => entry.name.includes('/subscribe?')).length";
    window.value(entries).await.as_u64().expect("a number")
}

/// That something does not happen can only be watched for a while: here as long as several retries would take.
async fn stays_away(window: &Window<'_>, state: &str, sent: u64) {
    // A refusal asks for four times `retry`; three of them, and the jitter.
    let end = Instant::now() + RETRY * 15;
    until("the time in which it would have come back", async || {
        until_state(window, state).await;
        Instant::now() > end
    })
    .await;
    assert_eq!(attempts(window).await, sent, "it has not come back by itself");
}

async fn delete(server: &TestServer, topic: &str) {
    let request = reqwest::Client::new().delete(server.url(&format!("/topics/{topic}")));
    assert_eq!(request.send().await.expect("an answer").status(), 204);
}

#[tokio::test]
async fn a_page_too_many_says_why_and_stops() {
    // Past `limits.connections_max` the page names the reason and stays away until its button is pressed.
    let Some(browser) = Browser::start().await else { return };
    let server = TestServer::with(|config| {
        eager(config);
        config.limits.connections_max = 1;
    });
    let one = browser.open(&server.url("/?topic=a")).await;
    until_state(&one, "open").await;
    let two = browser.open_another(&server.url("/?topic=b")).await;
    until_state(&two, "refused").await;
    let reason = two.text("#reason").await;
    assert!(reason.contains("as many connections as it allows"), "{reason}");
    assert_eq!(two.text("#retry").await, "Try again");
    stays_away(&two, "refused", 1).await;
    two.click("#retry").await;
    two.until(
        "performance.getEntriesByType('resource').filter((entry) => entry.name.includes('/subscribe?')).length === 2",
    )
    .await;
    until_state(&two, "refused").await;
    one.go("about:blank").await;
    server.until_subscribers("a", 0).await;
    stays_away(&two, "refused", 2).await;
    two.click("#retry").await;
    until_state(&two, "open").await;
    server.publish("b", "at last").await;
    until_rows(&two, 1).await;
    assert_eq!(rows(&two).await[0].data, "at last");
}

#[tokio::test]
async fn a_page_that_was_open_comes_back_until_there_is_room() {
    // The connection is lost and another subscriber has the only place; the page tries again, and misses nothing.
    let Some(browser) = Browser::start().await else { return };
    let server = TestServer::with(|config| {
        eager(config);
        config.limits.connections_max = 1;
    });
    let proxy = Proxy::to(server.address).await;
    let window = browser.open(&proxy.url("/?topic=a")).await;
    until_state(&window, "open").await;
    proxy.cut();
    server.until_subscribers("a", 0).await;
    let another = server.subscribe("topic=a").await;
    let before = attempts(&window).await;
    proxy.restore();
    until("the page to be refused twice", async || attempts(&window).await >= before + 3).await;
    server.publish("a", "missed").await;
    drop(another);
    until_state(&window, "open").await;
    until_rows(&window, 1).await;
    assert_eq!(rows(&window).await[0].data, "missed");
}

#[tokio::test]
async fn a_deleted_topic_ends_its_page() {
    // DELETE ends the stream, the page says so and does not come back; Subscribe begins the topic's next life.
    let Some(browser) = Browser::start().await else { return };
    let server = TestServer::with(eager);
    let window = browser.open(&server.url("/?topic=a")).await;
    until_state(&window, "open").await;
    server.publish("a", "first life").await;
    until_rows(&window, 1).await;
    delete(&server, "a").await;
    until_state(&window, "ended").await;
    window.until("document.querySelector('#events .deleted')?.textContent === 'Topic a was deleted.'").await;
    stays_away(&window, "ended", 1).await;
    server.until_subscribers("a", 0).await;
    window.click("#subscribe").await;
    until_state(&window, "open").await;
    server.publish("a", "second life").await;
    until_rows(&window, 2).await;
    assert_eq!(rows(&window).await[1].data, "second life");
    assert_eq!(window.value("document.querySelectorAll('#events .gap').length").await, 0);
}

#[tokio::test]
async fn a_deleted_topic_leaves_the_page_with_the_others() {
    // Of two topics one is deleted: the stream goes on with the other, and after a reconnect, too.
    let Some(browser) = Browser::start().await else { return };
    let server = TestServer::with(eager);
    let window = browser.open(&server.url("/?topic=a&topic=b")).await;
    until_state(&window, "open").await;
    delete(&server, "a").await;
    window.until("document.querySelector('#topics').textContent === 'b×'").await;
    until_state(&window, "open").await;
    assert_eq!(window.text("#reason").await, "Following 1 topic.");
    server.publish("b", "goes on").await;
    until_rows(&window, 1).await;
    until_state(&window, "open").await;
    assert_eq!(window.value("new URLSearchParams(location.search).getAll('topic').join()").await, "b");
    window.click("#unsubscribe").await;
    server.until_subscribers("b", 0).await;
    server.publish("b", "missed").await;
    window.click("#subscribe").await;
    until_rows(&window, 2).await;
    let shown: Vec<String> = rows(&window).await.into_iter().map(|row| row.data).collect();
    assert_eq!(shown, ["goes on", "missed"]);
}
