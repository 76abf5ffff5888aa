//! Where content may come from, and that it arrives as it was sent.

use serde_json::Value;

use crate::harness::{Stream, TestServer, encoded};

/// Publishes and gives the content as a subscriber with `envelope=json` sees it: every byte, line ends included.
async fn published(server: &TestServer, stream: &mut Stream, query: &str, content_type: &str, body: &[u8]) -> String {
    let headers = [("content-type", content_type)];
    let headers = if content_type.is_empty() { &headers[..0] } else { &headers };
    server.ask("POST", &format!("/publish?{query}"), headers, body).await.ok();
    let block = stream.next().await.expect("an event");
    let envelope: Value = serde_json::from_str(&block.data).expect("JSON");
    envelope["data"].as_str().expect("text").to_owned()
}

/// Content that some step on the way might spoil.
const CONTENTS: [&str; 12] = [
    "hello",
    "",
    " leading and trailing ",
    "a+b&c=d%20e#f",
    "line\nline\r\nline\rline\n",
    "\n\n",
    "\0NUL \u{1b} \u{7f}",
    "\u{feff}BOM \u{2028} \u{85}",
    "订单 №7 🦀",
    "data: x\nid: 7\n\nevent: broker.gap\n\n",
    r#"{"a":[1,2.50,null],"b":"\"\\"}"#,
    "<img src=x onerror=alert(1)>",
];

#[tokio::test]
async fn every_way_carries_every_text() {
    // Query, form, JSON string and raw bodies of several types carry the same text to the last byte.
    let server = TestServer::start();
    let mut stream = server.subscribe("topic=a&envelope=json").await;
    for content in CONTENTS {
        let pair = format!("content={}", encoded(content));
        let json = serde_json::json!({"topic": "a", "content": content}).to_string();
        let form = "application/x-www-form-urlencoded";
        let plus = pair.replace("%20", "+");
        let cases = [
            (format!("topic=a&{pair}"), "", ""),
            (format!("topic=a&{plus}"), "", ""),
            ("topic=a".to_owned(), form, pair.as_str()),
            (String::new(), form, &format!("topic=a&{plus}")),
            (String::new(), "application/x-www-form-urlencoded; charset=UTF-8", &format!("{pair}&topic=a")),
            (String::new(), "application/json", &json),
            (String::new(), "Application/JSON; charset=\"utf-8\"", &json),
            ("topic=a".to_owned(), "text/plain", content),
            ("topic=a".to_owned(), "text/plain;charset=utf-8", content),
            ("topic=a".to_owned(), "text/plain; charset=us-ascii", content),
            ("topic=a".to_owned(), "application/octet-stream", content),
            ("topic=a".to_owned(), "application/xml", content),
            ("topic=a".to_owned(), "application/vnd.api+json", content),
        ];
        for (query, content_type, body) in cases {
            let data = published(&server, &mut stream, &query, content_type, body.as_bytes()).await;
            assert_eq!(data, content, "{query} {content_type}");
        }
    }
}

#[tokio::test]
async fn a_body_without_a_type_is_raw() {
    // A client that names no Content-Type is understood; an empty body alone is not content, though.
    let server = TestServer::start();
    let mut stream = server.subscribe("topic=a&envelope=json").await;
    assert_eq!(published(&server, &mut stream, "topic=a", "", b"content=x").await, "content=x");
    assert_eq!(published(&server, &mut stream, "topic=a&content=from+query", "", b"").await, "from query");
}

#[tokio::test]
async fn json_content_that_is_not_text_goes_out_compact() {
    // Objects keep the order of their members and numbers their digits: the broker has no opinion on them.
    let server = TestServer::start();
    let mut stream = server.subscribe("topic=a&envelope=json").await;
    let cases = [
        (r#"{ "z" : 1, "a" : [ true , null ] }"#, r#"{"z":1,"a":[true,null]}"#),
        ("null", "null"),
        ("true", "true"),
        ("7", "7"),
        ("-0.0", "-0.0"),
        ("1.10", "1.10"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("0.1234567890123456789", "0.1234567890123456789"),
        ("[ ]", "[]"),
        ("{ }", "{}"),
        (r#""""#, ""),
        (r#""订单 \u00e9 \ud83e\udd80""#, "订单 é 🦀"),
        (r#"{"k":"\u8ba2\n"}"#, r#"{"k":"订\n"}"#),
        (r#"{"a":{"b":{"c":[{"d":[]}]}}}"#, r#"{"a":{"b":{"c":[{"d":[]}]}}}"#),
    ];
    for (content, expected) in cases {
        let body = format!(r#"{{"topic":"a","content":{content},"more":"is ignored"}}"#);
        let data = published(&server, &mut stream, "", "application/json", body.as_bytes()).await;
        assert_eq!(data, expected, "{content}");
    }
}

#[tokio::test]
async fn chunked_bodies_are_put_together() {
    // Chunks are of the transfer, not of the content; a character may be split between two of them.
    let server = TestServer::start();
    let mut stream = server.subscribe("topic=a&envelope=json").await;
    let cases: [(&str, &[&[u8]], &str); 3] = [
        ("text/plain", &[b"hel", "lo 订".as_bytes().split_at(4).0, "lo 订".as_bytes().split_at(4).1], "hello 订"),
        ("application/x-www-form-urlencoded", &[b"con", b"tent=%4", b"1"], "A"),
        ("application/json", &[br#"{"content""#, br#":"x"}"#], "x"),
    ];
    for (content_type, chunks, expected) in cases {
        server.ask_bytes(&chunked(content_type, chunks)).await.ok();
        let envelope: Value = serde_json::from_str(&stream.next().await.expect("an event").data).expect("JSON");
        assert_eq!(envelope["data"], expected, "{content_type}");
    }
}

/// A POST to topic `a` in chunks.
pub fn chunked(content_type: &str, chunks: &[&[u8]]) -> Vec<u8> {
    let head =
        "POST /publish?topic=a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n";
    let mut request = format!("{head}Content-Type: {content_type}\r\n\r\n").into_bytes();
    for chunk in chunks {
        request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        request.extend_from_slice(chunk);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    request
}
