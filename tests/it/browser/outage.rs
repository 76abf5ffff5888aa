//! The page loses the server and finds it again.

use super::{driver::Browser, driver::Window, eager, proxy::Proxy, rows, until_rows, until_state};
use crate::harness::TestServer;

/// Events that are published while the page is away.
const MISSED: usize = 30;

async fn ids(window: &Window<'_>) -> Vec<String> {
    rows(window).await.into_iter().map(|row| row.id).collect()
}

/// Publishes `n` events to two topics in turn; their ids.
async fn publish(server: &TestServer, n: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..n {
        ids.push(server.publish(["a", "b"][n % 2], &n.to_string()).await);
    }
    ids
}

/// Nothing may come after the last one, so one more is awaited before the rows are compared.
async fn shows_exactly(window: &Window<'_>, server: &TestServer, mut published: Vec<String>) {
    published.extend(publish(server, 1).await);
    until_rows(window, published.len()).await;
    assert_eq!(ids(window).await, published);
}

#[tokio::test]
async fn after_an_outage_the_page_shows_every_missed_event_once() {
    // The line is cut in the middle of two streams' worth of events, twice, and restored.
    let Some(browser) = Browser::start().await else { return };
    let server = TestServer::with(eager);
    let proxy = Proxy::to(server.address).await;
    let window = browser.open(&proxy.url("/?topic=a&topic=b")).await;
    until_state(&window, "open").await;
    let mut published = Vec::new();
    for outage in 1..=2 {
        published.extend(publish(&server, 3).await);
        until_rows(&window, published.len()).await;
        let seen = published.len();
        proxy.cut();
        until_state(&window, "reconnecting").await;
        published.extend(publish(&server, MISSED).await);
        assert_eq!(ids(&window).await, published[..seen], "the line is cut");
        proxy.restore();
        until_rows(&window, published.len()).await;
        until_state(&window, "open").await;
        assert_eq!(window.text("#reconnects").await, outage.to_string());
    }
    shows_exactly(&window, &server, published).await;
    assert_eq!(window.value("document.querySelectorAll('#events .gap').length").await, 0);
}

#[tokio::test]
async fn cut_before_its_first_event_the_page_misses_nothing() {
    // The stream's first bytes carry a cursor: a page that drops before any event still resumes where it joined.
    let Some(browser) = Browser::start().await else { return };
    let server = TestServer::with(eager);
    let proxy = Proxy::to(server.address).await;
    let window = browser.open(&proxy.url("/?topic=a&topic=b")).await;
    until_state(&window, "open").await;
    proxy.cut();
    until_state(&window, "reconnecting").await;
    let published = publish(&server, MISSED).await;
    proxy.restore();
    until_rows(&window, published.len()).await;
    shows_exactly(&window, &server, published).await;
}

#[tokio::test]
async fn a_browser_that_goes_offline_and_back_shows_every_missed_event_once() {
    // The browser itself says that there is no network, and then that there is.
    let Some(browser) = Browser::start().await else { return };
    let server = TestServer::with(eager);
    let window = browser.open(&server.url("/?topic=a&topic=b")).await;
    until_state(&window, "open").await;
    let mut published = publish(&server, 3).await;
    until_rows(&window, published.len()).await;
    window.set_offline(true).await;
    until_state(&window, "offline").await;
    published.extend(publish(&server, MISSED).await);
    assert_eq!(ids(&window).await, published[..3], "there is no network");
    window.set_offline(false).await;
    until_rows(&window, published.len()).await;
    until_state(&window, "open").await;
    shows_exactly(&window, &server, published).await;
    assert_eq!(window.value("Number(document.querySelector('#reconnects').textContent) >= 1").await, true);
}

#[tokio::test]
async fn a_page_left_behind_lets_go_of_its_stream() {
    // A browser may keep the page it leaves, and would keep its connection; back again, it has missed nothing.
    let Some(browser) = Browser::start().await else { return };
    let server = TestServer::with(eager);
    let window = browser.open(&server.url("/?topic=a&topic=b")).await;
    until_state(&window, "open").await;
    let mut published = publish(&server, 3).await;
    until_rows(&window, published.len()).await;
    // As the browser says it; whether it keeps this very page is its own decision.
    window.run("dispatchEvent(new PageTransitionEvent('pagehide', {persisted: true}))").await;
    server.until_subscribers("b", 0).await;
    published.extend(publish(&server, MISSED).await);
    window.run("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))").await;
    until_rows(&window, published.len()).await;
    shows_exactly(&window, &server, published).await;
    window.go("about:blank").await;
    server.until_subscribers("a", 0).await;
}

#[tokio::test]
async fn after_a_restart_the_page_shows_the_gap() {
    // Memory forgets: the page says where its history breaks off, then goes on with the new one.
    let Some(browser) = Browser::start().await else { return };
    let server = TestServer::with(eager);
    let port = server.address.port();
    let window = browser.open(&server.url("/?topic=a")).await;
    until_state(&window, "open").await;
    let before = server.publish("a", "before").await;
    until_rows(&window, 1).await;
    server.shutdown();
    let server = TestServer::with(|config| {
        eager(config);
        config.server.port = port;
    });
    window.until("document.querySelector('#events .gap') !== null").await;
    until_state(&window, "open").await;
    let after = server.publish("a", "after").await;
    until_rows(&window, 2).await;
    assert_eq!(ids(&window).await, [before.clone(), after]);
    let order = "[...document.querySelectorAll('#events > li')].map((row) => row.classList[0]).join()";
    assert_eq!(window.value(order).await, "event,gap,event", "newest first, one gap between the two");
    let gap = window.text("#events .gap").await;
    assert!(gap.contains("new history") && gap.contains(&before), "{gap}");
}
