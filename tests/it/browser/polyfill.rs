//! `event-source-polyfill` from npm: for pages that must send a header.

use serde_json::json;

use super::{
    driver::Browser,
    eventsource::{LIFETIME, RETRY, ids, publish_to_nobody},
    files::Site,
    from_npm, open_to,
    proxy::Proxy,
};

#[tokio::test]
async fn the_polyfill_sends_its_header_and_misses_nothing() {
    // From another site, with `Authorization`: it resumes with its own `lastEventId` parameter, none missing, none twice.
    let Some(script) = from_npm("event-source-polyfill/src/eventsource.js") else { return };
    let Some(browser) = Browser::start().await else { return };
    let page = include_str!("pages/polyfill.html").to_owned();
    let site = Site::serve(vec![("/page", page), ("/polyfill.js", script)]).await;
    let server = open_to(&site.origin(), |config| {
        config.stream.lifetime_max = LIFETIME;
        config.stream.retry = RETRY;
        // The SHA-256 of the token that the page sends.
        let sha256 = "b02c0f9f94a15de8b5fbf467247449069c9e911ef80611698e6d2ab04eaf85c4";
        let key = json!({"name": "page", "sha256": sha256, "subscribe": ["a"]});
        config.auth.api_keys = vec![serde_json::from_value(key).expect("an API key")];
    });
    let proxy = Proxy::to(server.address).await;
    let window = browser.open(&format!("{}/page?broker={}&topic=a", site.origin(), proxy.url(""))).await;
    window.until("seen.opens === 1").await;
    let mut published = Vec::new();
    for end in 1..=2 {
        published.extend(publish_to_nobody(&server, "a", "missed").await);
        window.until(&format!("seen.opens > {end}")).await;
        published.push(server.publish("a", "live").await);
        window.until(&format!("seen.events.length >= {}", published.len())).await;
    }
    assert_eq!(ids(&window).await, published);
    assert_eq!(window.value("seen.errors.every((state) => state === 0)").await, true, "it kept coming back");
    let sent = proxy.sent();
    assert!(sent.contains("OPTIONS /subscribe?topic=a"), "a header asks CORS first: {sent}");
    assert!(sent.contains("uthorization: Bearer of-tidings\r\n"), "{sent}");
    assert!(sent.contains(&format!("&lastEventId={}", published[1])), "{sent}");
    assert!(!sent.contains("ast-Event-ID: "), "the parameter is all it has: {sent}");
}
