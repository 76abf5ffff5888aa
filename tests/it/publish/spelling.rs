//! What people type: addresses as they look, parameters as they remember them, answers on a terminal.

use crate::harness::{READERS, TestServer};

fn get(target: &str, headers: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n").into_bytes()
}

#[tokio::test]
async fn an_address_may_be_typed_as_it_looks() {
    // `curl '…?topic=新闻'` sends UTF-8 as it is; so do others with quotes and angle brackets.
    let server = TestServer::start();
    let mut stream = server.subscribe("topic=%E6%96%B0%E9%97%BB").await;
    for reader in READERS {
        let answer = server.ask_bytes(&get("/publish?topic=新闻&content=订单+№7+\"<é>{}|\\^`", reader)).await;
        assert_eq!(answer.ok()["topic"], "新闻");
        assert_eq!(stream.next().await.expect("an event").data, "订单 №7 \"<é>{}|\\^`");
        let known = server.ask_bytes(&get("/topics/新闻", reader)).await;
        assert_eq!(known.ok()["topic"], "新闻");
        // As long as an address may be.
        let content = "订".repeat(7_000);
        let answer = server.ask_bytes(&get(&format!("/publish?topic=新闻&content={content}"), reader)).await;
        answer.ok();
        assert_eq!(stream.next().await.expect("an event").data, content);
    }
    let body = "x".repeat(40_000);
    let head = format!(
        "POST /publish?topic=新闻 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}",
        body.len()
    );
    server.ask_bytes(format!("{head}\r\nExpect: 100-continue\r\n\r\n{body}").as_bytes()).await;
    assert_eq!(stream.next().await.expect("an event").data, body);
}

#[tokio::test]
async fn an_address_that_is_not_utf8_is_refused_with_a_way_out() {
    // Latin-1, as an old terminal sends it: its meaning cannot be known.
    let server = TestServer::start();
    for reader in READERS {
        for target in [&b"/publish?topic=caf\xe9&content=x"[..], b"/subscribe?topic=\xff", b"/topics/\xff"] {
            let tail = format!(" HTTP/1.1\r\nHost: localhost\r\n{reader}\r\n");
            let answer = server.ask_bytes(&[b"GET ", target, tail.as_bytes()].concat()).await;
            let problem = answer.problem(400, "bad_utf8");
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("--data-urlencode")), "{problem}");
        }
    }
    server.ask("GET", "/topics/caf%C3%A9", &[], b"").await.problem(404, "topic_unknown");
}

#[tokio::test]
async fn a_parameter_that_looks_like_another_is_named() {
    // It would be ignored otherwise, and the stream or the event would not be what was asked for.
    let server = TestServer::start();
    for (target, meant) in [
        ("/subscribe?topics=a", "topic"),
        ("/subscribe?topic=a&lastn=2", "last"),
        ("/subscribe?topic=a&lasteventid=x-1", "lastEventId"),
        ("/subscribe?topic=a&Since=all", "since"),
        ("/subscribe?topic=a&ongap=fail", "on_gap"),
        ("/publish?topics=a&content=x", "topic"),
        ("/publish?topic=a&contents=x", "content"),
        ("/publish?topic=a&content=x&evnet=e", "event"),
    ] {
        for reader in READERS {
            let problem = server.ask_bytes(&get(target, reader)).await.problem(400, "unknown_parameter");
            assert!(
                problem["detail"].as_str().is_some_and(|detail| detail.ends_with(&format!("did you mean `{meant}`?"))),
                "{problem}"
            );
        }
    }
    server.ask("GET", "/topics/a", &[], b"").await.problem(404, "topic_unknown");
    // Others are the client's own: against caches, for statistics, for a proxy.
    for reader in READERS {
        for other in ["_=17", "t=1764072000", "token=abc", "utm_source=x", "context=y", "list=z", "utm=100%", "_=%ff"] {
            server.ask_bytes(&get(&format!("/publish?topic=a&content=x&{other}"), reader)).await.ok();
        }
    }
    assert_eq!(server.get("/subscribe?topic=a&_=%ff&token=100%", &[]).await.status, 200);
}

#[tokio::test]
async fn a_topic_in_the_path_is_told_where_it_belongs() {
    let server = TestServer::start();
    for (path, hint) in [("/publish/news", "/publish?topic=news"), ("/subscribe/a/b", "/subscribe?topic=a/b")] {
        let problem = server.ask("GET", path, &[], b"").await.problem(404, "not_found");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.ends_with(hint)), "{problem}");
    }
    for path in ["/publish/", "/publishers/news", "/"] {
        let answer = server.ask("GET", path, &[], b"").await;
        assert!(!answer.body.contains("the topic is a parameter"), "{answer:?}");
    }
}

#[tokio::test]
async fn json_ends_with_a_newline() {
    // On a terminal the prompt would follow it otherwise.
    let server = TestServer::start();
    for reader in READERS {
        for (target, status) in [
            ("/publish?topic=a&content=x", 200),
            ("/publish?topic=a&topic=b&content=x", 200),
            ("/publish?topic=a", 400),
            ("/subscribe", 400),
            ("/topics/a", 200),
            ("/topics/none", 404),
            ("/nowhere", 404),
        ] {
            let answer = server.ask_bytes(&get(target, reader)).await;
            assert_eq!(answer.status, status);
            assert!(answer.body.ends_with("}\n") && !answer.body.ends_with("\n\n"), "{answer:?}");
            answer.json();
        }
    }
    let bad = server.ask_bytes(b"hello\r\n\r\n").await;
    assert!(bad.body.ends_with("}\n"), "{bad:?}");
}
