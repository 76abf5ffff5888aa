//! The page at work: subscribe, publish, by mouse and by keyboard, and its commands for a shell.

use std::process::Command;

use super::{Row, driver::Browser, left_out, on_path, rows, until_rows, until_state};
use crate::harness::{TestServer, until};

/// The keys as `WebDriver` spells them.
const ENTER: &str = "\u{e007}";
const TAB: &str = "\u{e004}";
const CONTROL: &str = "\u{e009}";

#[tokio::test]
async fn what_one_window_publishes_both_show() {
    // An event published in one window arrives in every window that follows its topic, in that one too.
    let Some(browser) = Browser::start().await else { return };
    let server = TestServer::start();
    let one = browser.open(&server.url("/?topic=news&topic=weather")).await;
    let two = browser.open_another(&server.url("/?topic=news")).await;
    until_state(&one, "open").await;
    until_state(&two, "open").await;
    one.fill("#publish-event", "greeting").await;
    one.fill("#publish-content", "hello, both\n  of you").await;
    one.click("#publish").await;
    for window in [&one, &two] {
        until_rows(window, 1).await;
    }
    let (first, second) = (rows(&one).await, rows(&two).await);
    let held = server.held("news").await;
    let row = Row {
        id: held["last_id"].as_str().expect("an id").to_owned(),
        topic: "news".to_owned(),
        kind: "greeting".to_owned(),
        data: "hello, both\n  of you".to_owned(),
    };
    assert_eq!(first, [row]);
    assert_eq!(second, first);
    assert_eq!(held["events"], 1, "{held}");
    assert_eq!(one.text("#cursor").await, first[0].id);
    one.until("document.querySelector('#publish-answer').dataset.tone === 'good'").await;
    assert_eq!(one.text("#publish-answer").await, format!("Published as {}, to 2 subscribers.", first[0].id));
    let time = one.value("Math.abs(Date.now() - Date.parse(document.querySelector('#events time').dateTime))").await;
    assert!(time.as_f64().expect("a number") < 60_000.0, "the event's time is now: {time}");
}

#[tokio::test]
async fn a_connected_page_does_not_say_that_it_waits() {
    // The hint for a connection that takes long, after five seconds, is for one that is not there yet.
    let Some(browser) = Browser::start().await else { return };
    let server = TestServer::start();
    let window = browser.open(&server.url("/?topic=a")).await;
    until_state(&window, "open").await;
    // Absence can only be watched for as long as it takes to show.
    until("seven seconds of it", async || {
        assert_eq!(window.text("#countdown").await, "");
        window.value("performance.now() > 7000").await == true
    })
    .await;
    until_state(&window, "open").await;
}

#[tokio::test]
async fn the_page_is_worked_by_keyboard_alone() {
    // Topics are typed, chosen, subscribed to, published to and left without a mouse.
    let Some(browser) = Browser::start().await else { return };
    let server = TestServer::start();
    let window = browser.open(&server.url("/")).await;
    until_state(&window, "idle").await;
    window.press("#topic-input", &format!("\u{e003}订单/7, b{ENTER}")).await;
    let topics = "[...document.querySelectorAll('#topics li span')].map((topic) => topic.textContent).join()";
    assert_eq!(window.value(topics).await, "订单/7,b", "Backspace took the first one away, the comma made two");
    window.press("#subscribe", ENTER).await;
    until_state(&window, "open").await;
    server.until_subscribers("b", 1).await;
    assert_eq!(window.value("document.activeElement.id").await, "unsubscribe", "the focus goes along");
    assert_eq!(window.value("new URLSearchParams(location.search).getAll('topic').join()").await, "订单/7,b");
    window.fill("#publish-topic", "订单/7").await;
    window.fill("#publish-content", "shipped").await;
    window.press("#publish-content", &format!("{CONTROL}{ENTER}")).await;
    until_rows(&window, 1).await;
    let shown = rows(&window).await;
    assert_eq!(
        (shown[0].topic.as_str(), shown[0].kind.as_str(), shown[0].data.as_str()),
        ("订单/7", "message", "shipped")
    );
    window.press("#unsubscribe", ENTER).await;
    until_state(&window, "idle").await;
    server.until_subscribers("b", 0).await;
    assert_eq!(window.value("document.activeElement.id").await, "subscribe");
    window.press("#topic-input", TAB).await;
    assert_eq!(window.value("document.activeElement.id").await, "since", "Tab goes on to the next control");
}

#[tokio::test]
async fn pausing_misses_nothing() {
    // Unsubscribe and Subscribe again: what was published in between is shown, once and in order.
    let Some(browser) = Browser::start().await else { return };
    let server = TestServer::start();
    let window = browser.open(&server.url("/?topic=a")).await;
    until_state(&window, "open").await;
    let mut ids = vec![server.publish("a", "before").await];
    until_rows(&window, 1).await;
    window.click("#unsubscribe").await;
    server.until_subscribers("a", 0).await;
    for n in 0..10 {
        ids.push(server.publish("a", &n.to_string()).await);
    }
    window.click("#subscribe").await;
    until_state(&window, "open").await;
    ids.push(server.publish("a", "after").await);
    until_rows(&window, ids.len()).await;
    let shown: Vec<String> = rows(&window).await.into_iter().map(|row| row.id).collect();
    assert_eq!(shown, ids);
}

#[tokio::test]
async fn the_publish_command_does_what_the_form_does() {
    // Pasted into a shell, the command publishes exactly what was typed, whatever a shell or curl could make of it.
    let Some(browser) = Browser::start().await else { return };
    if on_path("curl").is_none() {
        return left_out("no curl on PATH");
    }
    let server = TestServer::start();
    let topic = "a b'c$d&é";
    let content = "@/etc/hostname 'single' \"double\" $HOME `id` %41 a+b=c&d\n\\n 订单 !!";
    let window = browser.open(&server.url("/")).await;
    window.fill("#topic-input", &format!("{topic}{ENTER}")).await;
    window.click("#subscribe").await;
    until_state(&window, "open").await;
    window.fill("#publish-topic", topic).await;
    window.fill("#publish-event", "it's").await;
    window.fill("#publish-content", content).await;
    let command = window.text("#curl-publish").await;
    let output = Command::new("sh").args(["-c", &command]).output().expect("a shell");
    assert!(output.status.success(), "{command}: {output:?}");
    until_rows(&window, 1).await;
    let shown = rows(&window).await;
    assert_eq!((shown[0].topic.as_str(), shown[0].kind.as_str(), shown[0].data.as_str()), (topic, "it's", content));
}

#[tokio::test]
async fn the_subscribe_command_follows_the_same_topics() {
    // Pasted into a shell, the command receives what the page receives.
    let Some(browser) = Browser::start().await else { return };
    if on_path("curl").is_none() {
        return left_out("no curl on PATH");
    }
    let server = TestServer::start();
    let window = browser.open(&server.url("/?topic=a%20b%27c%26d&topic=%E8%AE%A2%E5%8D%95")).await;
    until_state(&window, "open").await;
    let id = server.publish("a b'c&d", "one").await;
    let other = server.publish("订单", "two").await;
    // From the beginning; curl ends with the server.
    window.run("const since = document.querySelector('#since'); since.value = 'since=all'; since.dispatchEvent(new Event('change'))").await;
    let command = window.text("#curl-subscribe").await;
    let curl = std::thread::spawn(move || Command::new("sh").args(["-c", &command]).output().expect("a shell"));
    server.until_subscribers("订单", 2).await;
    server.shutdown();
    let output = String::from_utf8(curl.join().expect("an end").stdout).expect("UTF-8");
    assert!(output.contains(&format!("data: one\nid: {id}\n\n")), "{output}");
    assert!(output.contains(&format!("data: two\nid: {other}\n\n")), "{output}");
}
