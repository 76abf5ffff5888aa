//! The page with a token: it publishes with it, and subscribes by tickets.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};

use super::{
    driver::{Browser, Window},
    proxy::Proxy,
    rows, until_rows, until_state,
};
use crate::{
    auth::{SECRET, seconds_from_now, token, with_keys},
    harness::{Process, TestServer, process::program, until},
};

const ENTER: &str = "\u{e007}";

/// A token of `subject`, for topic `a`, until `exp`.
fn token_until(subject: &str, exp: u64) -> String {
    token(subject, &json!({"publish": ["a"], "subscribe": ["a"]}), exp)
}

/// Types a token into the field of the page.
pub async fn enter(window: &Window<'_>, token: &str) {
    window.run("document.querySelector('#token-panel').open = true").await;
    window.fill("#token", "").await;
    window.press("#token", &format!("{token}{ENTER}")).await;
}

async fn publish(url: &str, token: &str, content: &str) -> String {
    let request = reqwest::Client::new().post(format!("{url}?topic=a")).bearer_auth(token);
    let request = request.header("content-type", "text/plain").body(content.to_owned());
    let answer: Value = request.send().await.expect("an answer").json().await.expect("JSON");
    answer["id"].as_str().unwrap_or_else(|| panic!("an id: {answer}")).to_owned()
}

async fn ids(window: &Window<'_>) -> Vec<String> {
    rows(window).await.into_iter().map(|row| row.id).collect()
}

#[tokio::test]
async fn with_a_token_the_page_comes_back_by_new_tickets_and_misses_nothing() {
    // Goal: the stream ends again and again; the page shows each event once. The token is in the header alone: in no
    // address, and in no line of the log.
    let Some(browser) = Browser::start().await else { return };
    let keys = format!("[{{ id = \"k\", algorithm = \"HS256\", secret = \"{SECRET}\" }}]");
    let mut command = program();
    command.args(["--listen", "127.0.0.1:0"]).env("RUST_LOG", "debug").envs([
        ("TIDINGS__AUTH__KEYS", keys.as_str()),
        ("TIDINGS__AUTH__ANONYMOUS", "none"),
        ("TIDINGS__STREAM__LIFETIME_MAX", "1s"),
        ("TIDINGS__STREAM__RETRY", "300ms"),
    ]);
    let mut server = Process::spawn(&mut command).await;
    let proxy = Proxy::to(server.address).await;
    let window = browser.open(&proxy.url("/?topic=a")).await;
    until_state(&window, "refused").await;
    let reason = window.text("#reason").await;
    assert!(reason.contains("asks for a token"), "{reason}");
    assert_eq!(window.value("document.querySelector('#token-panel').open").await, true, "it shows where");
    let token = token_until("ann", seconds_from_now(600));
    enter(&window, &token).await;
    until_state(&window, "open").await;
    let (mut published, url) = (Vec::new(), server.url("/publish"));
    for end in 1..=3 {
        let has_come_back = format!("Number(document.querySelector('#reconnects').textContent) >= {end}");
        until("another stream", async || {
            published.push(publish(&url, &token, &format!("during {end}")).await);
            window.value(&has_come_back).await == true
        })
        .await;
    }
    window.fill("#publish-topic", "news").await;
    window.click("#publish").await;
    window.until("document.querySelector('#publish-answer').dataset.tone === 'bad'").await;
    let answer = window.text("#publish-answer").await;
    assert!(answer.contains("Choose another topic, or enter another token"), "it is for another topic: {answer}");
    window.fill("#publish-topic", "a").await;
    window.click("#publish").await;
    until_rows(&window, published.len() + 1).await;
    let shown = ids(&window).await;
    assert_eq!(shown[..published.len()], published, "each once, in order");
    assert_eq!(shown.len(), published.len() + 1);
    assert_eq!(window.value("document.querySelectorAll('#events .gap').length").await, 0);
    let sent = proxy.sent();
    let headers = sent.to_lowercase().matches("\r\nauthorization: bearer ").count();
    assert!(headers > 4 && sent.matches(&token).count() == headers, "only in the header: {sent}");
    let tickets: Vec<&str> = sent.split("&ticket=").skip(1).map(|rest| &rest[..48]).collect();
    assert_eq!(tickets.iter().collect::<BTreeSet<_>>().len(), tickets.len(), "each stream has a ticket of its own");
    assert!(tickets.len() >= 4 && sent.matches("POST /tickets ").count() >= tickets.len(), "{sent}");
    assert!(!window.value("location.href").await.to_string().contains(&token));
    for command in ["#curl-subscribe", "#curl-publish"] {
        let command = window.text(command).await;
        assert!(command.contains("Bearer $TOKEN") && !command.contains(&token), "{command}");
    }
    server.signal("TERM").await;
    server.exit().await;
    let (_, log) = server.last_words().await;
    assert!(log.contains("DEBUG"), "the control: {log}");
    assert!(!log.contains(&token) && tickets.iter().all(|ticket| !log.contains(ticket)), "{log}");
}

#[tokio::test]
async fn a_token_that_has_ended_is_replaced_and_nothing_is_missed() {
    // Goal: the page says what to do, and with another token it goes on after its last event.
    let Some(browser) = Browser::start().await else { return };
    let server = TestServer::with(|config| {
        with_keys(config);
        config.stream.retry = Duration::from_millis(100);
    });
    let (url, lasting) = (server.url("/publish"), token_until("ann", seconds_from_now(600)));
    let window = browser.open(&server.url("/?topic=a")).await;
    until_state(&window, "refused").await;
    // With the leeway of five seconds it counts for three seconds more.
    enter(&window, &token_until("ann", seconds_from_now(0) - 2)).await;
    until_state(&window, "open").await;
    let mut published = vec![publish(&url, &lasting, "seen").await];
    until_rows(&window, 1).await;
    until_state(&window, "refused").await;
    let reason = window.text("#reason").await;
    assert!(reason.contains("does not accept the token"), "{reason}");
    for content in ["missed", "missed, too"] {
        published.push(publish(&url, &lasting, content).await);
    }
    enter(&window, &lasting).await;
    until_rows(&window, 3).await;
    published.push(publish(&url, &lasting, "live").await);
    until_rows(&window, 4).await;
    assert_eq!(ids(&window).await, published);
    // A topic that is not the token's.
    window.press("#topic-input", &format!("b{ENTER}")).await;
    until_state(&window, "refused").await;
    let reason = window.text("#reason").await;
    assert!(reason.contains("`b`") && reason.contains("another token"), "{reason}");
}

#[tokio::test]
async fn a_token_stays_in_its_tab_until_it_is_forgotten() {
    let Some(browser) = Browser::start().await else { return };
    let server = TestServer::with(with_keys);
    let token = token_until("ann", seconds_from_now(600));
    let window = browser.open(&server.url("/?topic=a")).await;
    until_state(&window, "refused").await;
    for wrong in ["two words", "schlüssel"] {
        enter(&window, wrong).await;
        window.until("document.querySelector('#token-hint').textContent.includes('cannot be a token')").await;
        until_state(&window, "refused").await;
    }
    enter(&window, &format!(" Bearer {token} ")).await;
    until_state(&window, "open").await;
    window.go(&server.url("/?topic=a")).await;
    until_state(&window, "open").await;
    let another = browser.open_another(&server.url("/?topic=a")).await;
    until_state(&another, "refused").await;
    assert_eq!(another.value("sessionStorage.length").await, 0);
    window.run("document.querySelector('#token-panel').open = true").await;
    assert_eq!(window.text("#token-state").await, "in use");
    window.click("#token-forget").await;
    until_state(&window, "idle").await;
    let kept = "JSON.stringify([sessionStorage.length, document.querySelector('#token').value, document.cookie])";
    assert_eq!(window.value(kept).await, r#"[0,"",""]"#);
    assert!(!window.value("JSON.stringify(localStorage)").await.to_string().contains(&token));
    window.click("#publish").await;
    window.until("document.querySelector('#publish-answer').textContent.includes('asks for a token')").await;
    window.go(&server.url("/?topic=a")).await;
    until_state(&window, "refused").await;
}
