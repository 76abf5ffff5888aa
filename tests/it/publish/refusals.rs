//! Bad input: each is a problem document that says what is wrong, and publishes nothing.

use crate::harness::TestServer;

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain";

/// A refused request: the query, the Content-Type (none when empty), the body, and the code that it is refused with.
type Case<'a> = (&'a str, &'a str, &'a [u8], &'a str);

/// Every case is a 400 with its code, for the methods that take a body, and leaves the log empty.
async fn refused(cases: &[Case<'_>]) {
    let server = TestServer::start();
    for (query, content_type, body, code) in cases {
        let headers = [("content-type", *content_type)];
        let headers = if content_type.is_empty() { &headers[..0] } else { &headers };
        for method in ["POST", "PUT"] {
            server.ask(method, &format!("/publish?{query}"), headers, body).await.problem(400, code);
        }
        if body.is_empty() && content_type.is_empty() {
            server.ask("GET", &format!("/publish?{query}"), headers, body).await.problem(400, code);
        }
    }
    let first = server.publish("a", "the first event").await;
    assert!(first.ends_with("-1"), "something was published before {first}");
}

#[tokio::test]
async fn a_bad_topic_is_refused() {
    // Missing, empty, over-long, with a control character, not UTF-8, broken encoding: from query, form and JSON.
    let long = "t".repeat(256);
    let (query, form) = (format!("topic={long}&content=x"), format!("topic={long}&content=x"));
    let json = format!(r#"{{"topic":"{long}","content":"x"}}"#);
    let wide = format!("topic={}&content=x", "%E8%AE%A2".repeat(86));
    refused(&[
        ("content=x", "", b"", "topic_missing"),
        ("", TEXT, b"x", "topic_missing"),
        ("", FORM, b"content=x", "topic_missing"),
        ("", JSON, br#"{"content":"x"}"#, "topic_missing"),
        ("", JSON, br#"{"topic":null,"content":"x"}"#, "topic_missing"),
        ("", JSON, br#"{"topic":[],"content":"x"}"#, "topic_missing"),
        ("topic=&content=x", "", b"", "bad_topic"),
        ("topic&content=x", "", b"", "bad_topic"),
        ("topic=a&topic=&content=x", "", b"", "bad_topic"),
        ("", FORM, b"topic=&content=x", "bad_topic"),
        ("", JSON, br#"{"topic":"","content":"x"}"#, "bad_topic"),
        ("", JSON, br#"{"topic":["a",""],"content":"x"}"#, "bad_topic"),
        (&query, "", b"", "bad_topic"),
        (&wide, "", b"", "bad_topic"),
        ("", FORM, form.as_bytes(), "bad_topic"),
        ("", JSON, json.as_bytes(), "bad_topic"),
        ("topic=a%0Ab&content=x", "", b"", "bad_topic"),
        ("topic=a%0D&content=x", "", b"", "bad_topic"),
        ("topic=%00&content=x", "", b"", "bad_topic"),
        ("topic=%C2%85&content=x", "", b"", "bad_topic"),
        ("", FORM, b"topic=%7F&content=x", "bad_topic"),
        ("", JSON, br#"{"topic":"\t","content":"x"}"#, "bad_topic"),
        ("topic=%ff&content=x", "", b"", "bad_utf8"),
        ("topic=%ED%A0%80&content=x", "", b"", "bad_utf8"),
        ("", FORM, b"topic=\xff&content=x", "bad_utf8"),
        ("", JSON, b"{\"topic\":\"\xff\",\"content\":\"x\"}", "bad_utf8"),
        ("topic=%&content=x", "", b"", "bad_encoding"),
        ("topic=%4&content=x", "", b"", "bad_encoding"),
        ("topic=%zz&content=x", "", b"", "bad_encoding"),
        ("", FORM, b"topic=a%g0&content=x", "bad_encoding"),
        ("", JSON, br#"{"topic":7,"content":"x"}"#, "bad_json"),
        ("", JSON, br#"{"topic":["a",7],"content":"x"}"#, "bad_json"),
        ("", JSON, br#"{"topic":{"a":"b"},"content":"x"}"#, "bad_json"),
    ])
    .await;
}

#[tokio::test]
async fn a_bad_event_name_is_refused() {
    // As topics; and the names that begin with `broker.` are ours, however they are sent.
    let long = "e".repeat(129);
    let (query, form) = (format!("topic=a&content=x&event={long}"), format!("content=x&event={long}"));
    let json = format!(r#"{{"content":"x","event":"{long}"}}"#);
    let raw = format!("topic=a&event={long}");
    refused(&[
        (&query, "", b"", "bad_event"),
        (&raw, TEXT, b"x", "bad_event"),
        ("topic=a", FORM, form.as_bytes(), "bad_event"),
        ("topic=a", JSON, json.as_bytes(), "bad_event"),
        ("topic=a&content=x&event=broker.gap", "", b"", "bad_event"),
        ("topic=a&event=broker.", TEXT, b"x", "bad_event"),
        ("topic=a", FORM, b"content=x&event=broker%2Erefused", "bad_event"),
        ("topic=a", JSON, br#"{"content":"x","event":"broker.deleted"}"#, "bad_event"),
        ("topic=a&content=x&event=a%0Adata:+forged", "", b"", "bad_event"),
        ("topic=a&event=a%0D", TEXT, b"x", "bad_event"),
        ("topic=a", FORM, b"content=x&event=%00", "bad_event"),
        ("topic=a", JSON, br#"{"content":"x","event":"a\nid: 9"}"#, "bad_event"),
        ("topic=a&content=x&event=%ff", "", b"", "bad_utf8"),
        ("topic=a", FORM, b"content=x&event=\xc3", "bad_utf8"),
        ("topic=a", JSON, b"{\"content\":\"x\",\"event\":\"\xff\"}", "bad_utf8"),
        ("topic=a&content=x&event=%e", "", b"", "bad_encoding"),
        ("topic=a", FORM, b"content=x&event=%", "bad_encoding"),
        ("topic=a", JSON, br#"{"content":"x","event":7}"#, "bad_json"),
        ("topic=a&content=x&event=b&event=c", "", b"", "repeated"),
        ("topic=a&event=b", FORM, b"content=x&event=c", "repeated"),
        ("topic=a", FORM, b"content=x&event=b&event=c", "repeated"),
        ("topic=a&event=b", JSON, br#"{"content":"x","event":"c"}"#, "repeated"),
    ])
    .await;
}

#[tokio::test]
async fn bad_content_is_refused() {
    // Missing is not empty; what cannot be read is not guessed; two contents leave no doubt.
    let deep = format!(r#"{{"content":{}{}}}"#, "[".repeat(5000), "]".repeat(5000));
    refused(&[
        ("topic=a", "", b"", "content_missing"),
        ("topic=a", FORM, b"", "content_missing"),
        ("topic=a", FORM, b"message=hello", "content_missing"),
        ("topic=a", FORM, b"event=e", "content_missing"),
        ("topic=a&content=x", FORM, b"message=hello", "content_missing"),
        ("topic=a", JSON, b"{}", "content_missing"),
        ("topic=a", JSON, br#"{"event":"e"}"#, "content_missing"),
        ("topic=a&content=%ff", "", b"", "bad_utf8"),
        ("topic=a&content=%C3%28", "", b"", "bad_utf8"),
        ("topic=a", FORM, b"content=%ff", "bad_utf8"),
        ("topic=a", TEXT, b"ab\xff", "bad_utf8"),
        ("topic=a", TEXT, b"\xed\xa0\x80", "bad_utf8"),
        ("topic=a", "application/octet-stream", b"\xe8\xae", "bad_utf8"),
        ("topic=a", "", b"\xff", "bad_utf8"),
        ("topic=a", JSON, b"{\"content\":\"\xff\"}", "bad_utf8"),
        ("topic=a&content=%", "", b"", "bad_encoding"),
        ("topic=a&content=100%25%", "", b"", "bad_encoding"),
        ("topic=a", FORM, b"content=%x1", "bad_encoding"),
        ("topic=a", JSON, b"", "bad_json"),
        ("topic=a", JSON, b"hello", "bad_json"),
        ("topic=a", JSON, b"[\"hello\"", "bad_json"),
        ("topic=a", JSON, br#"{"content":"x"} {}"#, "bad_json"),
        ("topic=a", JSON, br#"{"content":"x","content":"y"}"#, "bad_json"),
        ("topic=a", JSON, br#"{"topic":"b","topic":"c","content":"y"}"#, "bad_json"),
        ("topic=a", JSON, br#"{"content":"\ud800"}"#, "bad_json"),
        ("topic=a", JSON, b"{\"content\":\"\x01\"}", "bad_json"),
        ("topic=a", JSON, br#"{"content":01}"#, "bad_json"),
        ("topic=a", JSON, deep.as_bytes(), "bad_json"),
        ("topic=a&content=x&content=y", "", b"", "repeated"),
        ("topic=a&content=x", TEXT, b"y", "repeated"),
        ("topic=a&content=x", FORM, b"content=y", "repeated"),
        ("topic=a", FORM, b"content=x&content=y", "repeated"),
        ("topic=a&content=x", JSON, br#"{"content":"y"}"#, "repeated"),
    ])
    .await;
}

#[tokio::test]
async fn a_refusal_says_where() {
    // The detail names the field, its source and the place: the reader is a person at a terminal.
    let server = TestServer::start();
    let cases: [(&str, &str, &[u8], &[&str]); 6] = [
        ("topic=ab%zz&content=x", "", b"", &["`topic`", "the query", "byte 2"]),
        ("topic=a&content=a%ffb", "", b"", &["`content`", "the query", "byte 1"]),
        ("topic=a", FORM, b"content=%", &["`content`", "the form", "byte 0"]),
        ("topic=a", TEXT, b"abc\xff", &["the body", "byte 3"]),
        ("topic=ab%0A&content=x", "", b"", &["`topic`", "U+000A", "byte 2"]),
        ("topic=a&content=x&event=broker.x", "", b"", &["`event`", "`broker.`"]),
    ];
    for (query, content_type, body, words) in cases {
        let headers = [("content-type", content_type)];
        let headers = if content_type.is_empty() { &headers[..0] } else { &headers };
        let answer = server.ask("POST", &format!("/publish?{query}"), headers, body).await;
        let detail = answer.json()["detail"].as_str().expect("a detail").to_owned();
        assert!(words.iter().all(|word| detail.contains(word)), "{detail}");
    }
}

#[tokio::test]
async fn one_bad_topic_spoils_the_whole_request() {
    // Several topics are published to all or, when one cannot be, to none.
    let server = TestServer::start();
    server.ask("POST", "/publish?topic=a&topic=b%00&content=x", &[], b"").await.problem(400, "bad_topic");
    server.ask("GET", "/topics/a", &[], b"").await.problem(404, "topic_unknown");
}

#[tokio::test]
async fn unknown_methods_are_told_what_is_allowed() {
    // 405 names what the address answers.
    let server = TestServer::start();
    let cases = [
        ("/publish?topic=a&content=x", &["DELETE", "PATCH", "OPTIONS", "BREW"][..], "GET, POST, PUT"),
        ("/subscribe?topic=a", &["POST", "PUT", "DELETE", "PATCH", "OPTIONS"], "GET, HEAD"),
        ("/topics/a", &["POST", "PUT", "PATCH"], "GET, DELETE"),
        ("/healthz", &["POST", "PUT", "DELETE", "OPTIONS"], "GET, HEAD"),
        ("/readyz", &["POST", "PUT", "DELETE", "OPTIONS"], "GET, HEAD"),
    ];
    for (path, methods, allow) in cases {
        for method in methods {
            let answer = server.ask(method, path, &[], b"").await;
            answer.problem(405, "method_not_allowed");
            assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
        }
    }
    let head = server.ask("HEAD", "/publish?topic=a&content=x", &[], b"").await;
    assert_eq!((head.status, head.header("allow")), (405, Some("GET, POST, PUT")));
    server.ask("GET", "/topics/a", &[], b"").await.problem(404, "topic_unknown");
    server.ask("GET", "/nowhere", &[], b"").await.problem(404, "not_found");
    // What watches a server asks with HEAD as well.
    for path in ["/healthz", "/readyz"] {
        for method in ["GET", "HEAD"] {
            let answer = server.ask(method, path, &[], b"").await;
            assert_eq!((answer.status, answer.body.is_empty()), (200, method == "HEAD"), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn bodies_that_cannot_be_read_are_415() {
    // Multipart, another charset, an encoded body: refused, and the detail says what to send.
    let server = TestServer::start();
    let cases = [
        ("content-type", "multipart/form-data; boundary=x"),
        ("content-type", "Multipart/Mixed"),
        ("content-type", "text/plain; charset=iso-8859-1"),
        ("content-type", "text/plain; charset=\"UTF-16\""),
        ("content-type", "application/json;charset=gbk"),
        ("content-type", "application/x-www-form-urlencoded; charset=latin1"),
        ("content-encoding", "gzip"),
        ("content-encoding", "br"),
    ];
    for header in cases {
        let answer = server.ask("POST", "/publish?topic=a", &[header], b"hello").await;
        answer.problem(415, "unsupported_media_type");
    }
    let identity = [("content-encoding", "Identity"), ("content-type", "text/plain; charset=UTF-8")];
    server.ask("POST", "/publish?topic=a", &identity, b"hello").await.ok();
}
