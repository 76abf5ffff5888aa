//! The code for a page with tickets that `docs/access.md` prints, in a page of another site.

use std::time::Duration;

use serde_json::json;

use super::{
    driver::Browser,
    eventsource::{LIFETIME, RETRY, ids},
    files::Site,
    open_to,
};
use crate::{
    auth::{seconds_from_now, token, with_keys},
    clients::printed,
    harness::{TestServer, until},
};

async fn publish(server: &TestServer, credential: &str, content: &str) -> (String, u64) {
    let path = format!("/publish?topic=b&content={content}");
    let answer = server.ask("POST", &path, &[("authorization", credential)], b"").await.ok();
    (answer["id"].as_str().expect("an id").to_owned(), answer["subscribers"].as_u64().expect("a number"))
}

async fn site() -> Site {
    let code = printed::code_of("docs/access.md", "A page with `EventSource`");
    Site::serve(vec![("/page", include_str!("pages/ticket.html").to_owned()), ("/follow.js", code)]).await
}

#[tokio::test]
async fn the_printed_code_comes_back_with_new_tickets_and_misses_nothing() {
    // Goal: streams end; what is published meanwhile arrives once, in order. When an operator ends the subject, it stays
    // away.
    let Some(browser) = Browser::start().await else { return };
    let site = site().await;
    let server = open_to(&site.origin(), |config| {
        with_keys(config);
        config.stream.lifetime_max = LIFETIME;
        config.stream.retry = RETRY;
    });
    let rights = json!({"publish": ["**"], "subscribe": ["a", "b"], "manage": ["**"]});
    let token = token("ann", &rights, seconds_from_now(600));
    let credential = format!("Bearer {token}");
    let query = format!("broker={}&topic=a&topic=b&token={token}", server.url(""));
    let window = browser.open(&format!("{}/page?{query}", site.origin())).await;
    // Where its stream begins is decided now, and not when the server counts it.
    window.until("seen.opens === 1").await;
    let mut published = Vec::new();
    for tickets in 2..=3 {
        // Until nobody is there, and one more for those who come back.
        until("a moment without subscribers", async || {
            let (id, subscribers) = publish(&server, &credential, "x").await;
            published.push(id);
            subscribers == 0
        })
        .await;
        window.until(&format!("seen.tickets >= {tickets} && seen.events.length >= {}", published.len())).await;
    }
    assert_eq!(ids(&window).await, published);
    // Its stream may have ended by its lifetime at this very moment; then it comes back without an id of an end.
    until("the end", async || {
        let answer = server.ask("DELETE", "/subjects/ann", &[("authorization", &credential)], b"").await;
        assert_eq!(answer.status, 204, "{answer:?}");
        window.value("seen.over").await == true
    })
    .await;
    assert_eq!(window.value("seen.error").await, "");
}

#[tokio::test]
async fn the_printed_code_says_why_it_gets_no_ticket() {
    let Some(browser) = Browser::start().await else { return };
    let site = site().await;
    let server = open_to(&site.origin(), |config| {
        with_keys(config);
        config.stream.retry = Duration::from_millis(100);
    });
    let other = token("ann", &json!({"subscribe": ["b"]}), seconds_from_now(600));
    for (token, expected) in [("x", "no key of this server has signed it"), (&*other, "no right to subscribe")] {
        let query = format!("broker={}&topic=a&token={token}", server.url(""));
        let window = browser.open(&format!("{}/page?{query}", site.origin())).await;
        window.until("seen.error !== ''").await;
        let error = window.value("seen.error").await;
        assert!(error.as_str().is_some_and(|error| error.contains(expected)), "{error}");
        assert_eq!(window.value("seen.tickets").await, 1);
    }
}
