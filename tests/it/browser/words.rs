//! The page's languages and themes, and that it loads and runs nothing but its own.

use serde_json::json;

use super::{driver::Browser, driver::Window, until_rows, until_state};
use crate::harness::TestServer;

/// Elements that should say something and do not, or that show a blank of a template.
const UNSAID: &str = "[...document.querySelectorAll('[data-word]')].filter((element) => \
                      element.textContent.trim() === '' || /[{}]|undefined|null/.test(element.textContent)).map((element) => element.id).join()";

/// Controls that cannot be seen when the focus comes to them, from below or from above.
const COVERED: &str = "[...document.querySelectorAll('button, input, select, textarea, [tabindex]')].flatMap((control, at, all) => \
                       [control, all[all.length - 1 - at]]).filter((control) => { \
                         control.focus(); \
                         if (document.activeElement !== control) return false; \
                         const { left, top, width, height } = control.getBoundingClientRect(); \
                         return !control.contains(document.elementFromPoint(left + width / 2, top + height / 2)); \
                       }).map((control) => control.id || control.className).join()";

async fn speaks(window: &Window<'_>, language: &str, state: &str) {
    assert_eq!(window.value("document.documentElement.lang").await, language);
    assert_eq!(window.text("#state").await, state);
    assert_eq!(window.value(UNSAID).await, "", "every word is said in {language}");
}

#[tokio::test]
async fn the_language_changes_at_once_and_is_remembered() {
    // Everything visible changes, rows that are already there included; a reload keeps the choice.
    let Some(browser) = Browser::start().await else { return };
    let server = TestServer::start();
    let window = browser.open(&server.url("/?topic=a")).await;
    until_state(&window, "open").await;
    server.publish("a", "").await;
    until_rows(&window, 1).await;
    speaks(&window, "en", "Connected").await;
    let unnamed = "[...document.querySelectorAll('input, textarea, select, button')].filter((element) => \
                   !(element.labels?.length || element.ariaLabel || element.textContent.trim())).length";
    assert_eq!(window.value(unnamed).await, 0, "every control has a name");
    let english = window.value("document.body.innerText").await;
    window.click("#lang").await;
    speaks(&window, "zh-Hans", "已连接").await;
    assert_eq!(window.text("#publish").await, "发布");
    assert_eq!(window.value("document.querySelector('#events .data').dataset.empty").await, "（空）");
    window.go(&server.url("/?topic=a")).await;
    until_state(&window, "open").await;
    speaks(&window, "zh-Hans", "已连接").await;
    window.go(&server.url("/?topic=a&topic=b")).await;
    until_state(&window, "open").await;
    window.click("#lang").await;
    speaks(&window, "en", "Connected").await;
    assert_ne!(window.value("document.body.innerText").await, english, "this one follows two topics");
}

#[tokio::test]
async fn the_theme_changes_and_is_remembered() {
    // The first press is one that can be seen, and a reload begins with the theme that was chosen.
    let Some(browser) = Browser::start().await else { return };
    let server = TestServer::start();
    let window = browser.open(&server.url("/")).await;
    let colour = "getComputedStyle(document.body).backgroundColor";
    let before = window.value(colour).await;
    window.click("#theme").await;
    let after = window.value(colour).await;
    assert_ne!(after, before);
    window.go(&server.url("/")).await;
    assert_eq!(window.value(colour).await, after);
}

#[tokio::test]
async fn the_page_fits_a_phone() {
    // At 360 pixels nothing is cut off or scrolls sideways, and what is pressed can be reached.
    let Some(browser) = Browser::start().await else { return };
    let server = TestServer::start();
    let window = browser.open(&server.url("/?topic=a&topic=a-rather-long-topic/with/levels/and-more-of-them")).await;
    window.resize(360, 800).await;
    until_state(&window, "open").await;
    server.publish("a", &"x".repeat(500)).await;
    until_rows(&window, 1).await;
    for _ in 0..2 {
        let overflow = "[...document.querySelectorAll('body *')].filter((element) => \
                        element.getBoundingClientRect().right > innerWidth + 1).map((element) => element.id || element.className).join()";
        assert_eq!(window.value("innerWidth").await, 360);
        assert_eq!(window.value(overflow).await, "");
        assert_eq!(window.value(COVERED).await, "", "what has the focus is not behind the status strip");
        window.click("#publish").await;
        window.click("#lang").await;
    }
}

#[tokio::test]
async fn the_console_stays_clean_and_nothing_comes_from_elsewhere() {
    // A tour of the page causes no error and no violation of its policy, and every part comes from the broker.
    let Some(browser) = Browser::start().await else { return };
    let server = TestServer::start();
    let window = browser.open(&server.url("/?topic=a")).await;
    until_state(&window, "open").await;
    window.fill("#publish-topic", "a").await;
    window.click("#publish").await;
    until_rows(&window, 1).await;
    for button in
        ["#lang", "#theme", "#hold", "#hold", "#copy-link", "[data-copy=curl-publish]", "#clear", "#unsubscribe"]
    {
        window.click(button).await;
    }
    until_state(&window, "idle").await;
    assert_eq!(browser.console().await, Vec::<String>::new());
    let foreign =
        "performance.getEntriesByType('resource').filter((entry) => !entry.name.startsWith(location.origin)).length";
    assert_eq!(window.value(foreign).await, 0);
    // The control: the console is heard, and the policy is in force.
    window
        .run(
            "const script = document.createElement('script'); script.textContent = 'document.title = 1'; \
             document.body.append(script); document.body.setAttribute('onclick', 'document.title = 2'); document.body.click()",
        )
        .await;
    assert_eq!(window.value("document.title").await, json!("Tidings"));
    let console = browser.console().await;
    assert_eq!(console.len(), 2, "{console:?}");
    assert!(console.iter().all(|line| line.contains("Content Security Policy")), "{console:?}");
}
