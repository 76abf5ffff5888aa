//! What is published is shown as text, whatever it looks like.

use reqwest::Method;

use super::{driver::Browser, rows, until_rows, until_state};
use crate::harness::{QueryPair as _, TestServer};

const PAYLOADS: [&str; 4] = [
    "<img src=x onerror=\"document.title = 'ran'\">",
    "<script>document.title = 'ran'</script>",
    "</pre></li><b class=\"event\">bold</b><iframe srcdoc=\"<p>\"></iframe>",
    "&lt;i&gt; <svg onload=\"document.title = 'ran'\">",
];

#[tokio::test]
async fn markup_is_shown_as_text() {
    // Content, topic and event name become neither elements nor scripts, in rows, chips and answers alike.
    let Some(browser) = Browser::start().await else { return };
    let server = TestServer::start();
    let topic = PAYLOADS[0];
    let mut url = reqwest::Url::parse(&server.url("/")).expect("a URL");
    url.query_pairs_mut().append_pair("topic", topic);
    let window = browser.open(url.as_str()).await;
    until_state(&window, "open").await;
    let elements = "document.querySelectorAll('*:not(#events *):not(#topics *)').length";
    let before = window.value(elements).await;
    for payload in PAYLOADS {
        let request = reqwest::Client::new().request(Method::POST, server.url("/publish")).query_pair("topic", topic);
        let request = request.query_pair("event", payload).header("content-type", "text/plain").body(payload);
        assert_eq!(request.send().await.expect("an answer").status(), 200, "{payload}");
    }
    until_rows(&window, PAYLOADS.len()).await;
    for (row, payload) in rows(&window).await.iter().zip(PAYLOADS) {
        assert_eq!((row.topic.as_str(), row.kind.as_str(), row.data.as_str()), (topic, payload, payload));
    }
    let strange = "[...document.querySelectorAll('#events *, #topics *')].map((element) => element.localName)\
                   .filter((name) => !['li', 'div', 'span', 'time', 'pre', 'button'].includes(name)).join()";
    assert_eq!(window.value(strange).await, "", "no element that the page did not make");
    assert_eq!(window.value(elements).await, before, "nor outside the lists");
    assert_eq!(window.value("document.title").await, "Tidings", "no script has run");
    assert_eq!(browser.console().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_refusal_quotes_markup_as_text() {
    // The broker's own words quote what was wrong; the page shows them as text.
    let Some(browser) = Browser::start().await else { return };
    let server = TestServer::with(|config| config.limits.topic_bytes_max = tidings::config::Size::new(8));
    let mut url = reqwest::Url::parse(&server.url("/")).expect("a URL");
    url.query_pairs_mut().append_pair("topic", PAYLOADS[0]);
    let window = browser.open(url.as_str()).await;
    until_state(&window, "refused").await;
    let reason = window.text("#reason").await;
    assert!(reason.contains("`topic` is refused"), "{reason}");
    window.fill("#publish-topic", PAYLOADS[0]).await;
    window.click("#publish").await;
    window.until("document.querySelector('#publish-answer').dataset.tone === 'bad'").await;
    let answer = window.text("#publish-answer").await;
    assert!(answer.contains("the limit is 8"), "{answer}");
    assert_eq!(window.value("document.querySelectorAll('img:not(.mark), script:not([src])').length").await, 0);
    assert_eq!(window.value("document.title").await, "Tidings");
}
