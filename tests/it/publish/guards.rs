//! Pages of other sites: a browser would send their GETs and simple POSTs without asking.

use tidings::config::{Config, Origins};

use crate::harness::TestServer;

fn app(config: &mut Config) {
    config.cors.origins = Origins::Only(vec!["https://app.example.com".to_owned()]);
}

/// What a page's request bears, and whether it publishes with no origins configured, with the app's, and with `*`.
/// Where CORS has nothing to match, because there is no origin, `*` is not asked.
type Case<'a> = (&'a [(&'a str, &'a str)], bool, bool, Option<bool>);

const CASES: &[Case<'_>] = &[
    // Not a browser, or one too old to say.
    (&[], true, true, Some(true)),
    // The broker's own page, and the address bar.
    (&[("sec-fetch-site", "same-origin")], true, true, Some(true)),
    (&[("sec-fetch-site", "none")], true, true, Some(true)),
    (&[("origin", "http://{own}"), ("sec-fetch-site", "same-origin")], true, true, Some(true)),
    // Behind a proxy that does not pass `Host`: the browser knows better, and no page can set its word.
    (&[("origin", "https://public.example"), ("sec-fetch-site", "same-origin")], true, true, Some(true)),
    // Its word against us counts, too.
    (&[("origin", "http://{own}"), ("sec-fetch-site", "cross-site")], false, false, Some(true)),
    (&[("origin", "http://{own}"), ("sec-fetch-site", "same-site")], false, false, Some(true)),
    (&[("origin", "http://{own}."), ("sec-fetch-site", "")], false, false, Some(true)),
    (&[("origin", "http://{own}")], true, true, Some(true)),
    // Behind a proxy that ends TLS.
    (&[("origin", "https://{own}")], true, true, Some(true)),
    // Images, links and forms of other pages.
    (&[("sec-fetch-site", "cross-site")], false, false, None),
    (&[("sec-fetch-site", "same-site")], false, false, None),
    (&[("sec-fetch-site", "something new")], false, false, None),
    // Pages of other origins.
    (&[("origin", "https://evil.example")], false, false, Some(true)),
    (&[("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")], false, false, Some(true)),
    (&[("origin", "https://{own}.evil.example")], false, false, Some(true)),
    (&[("origin", "http://localhost:1")], false, false, Some(true)),
    (&[("origin", "null")], false, false, Some(true)),
    (&[("origin", "null"), ("sec-fetch-site", "cross-site")], false, false, Some(true)),
    (&[("origin", "")], false, false, Some(true)),
    (&[("origin", "caf\u{e9}")], false, false, Some(true)),
    // The allow-list is of exact origins.
    (&[("origin", "https://app.example.com"), ("sec-fetch-site", "cross-site")], false, true, Some(true)),
    (&[("origin", "https://app.example.com")], false, true, Some(true)),
    (&[("origin", "http://app.example.com")], false, false, Some(true)),
    (&[("origin", "https://app.example.com:8443")], false, false, Some(true)),
    (&[("origin", "https://app.example.com.evil.example")], false, false, Some(true)),
    (&[("origin", "https://evil.example/https://app.example.com")], false, false, Some(true)),
];

#[tokio::test]
async fn pages_of_other_sites_may_not_publish_or_delete() {
    // Whatever method, only what CORS allows gets through, and a refusal publishes and deletes nothing.
    let servers =
        [TestServer::start(), TestServer::with(app), TestServer::with(|config| config.cors.origins = Origins::Any)];
    for (which, server) in servers.iter().enumerate() {
        let own = server.address.to_string();
        for (n, (headers, none, listed, any)) in CASES.iter().enumerate() {
            let Some(allowed) = [Some(*none), Some(*listed), *any][which] else { continue };
            let values: Vec<_> = headers.iter().map(|(name, value)| (*name, value.replace("{own}", &own))).collect();
            let headers: Vec<_> = values.iter().map(|(name, value)| (*name, value.as_str())).collect();
            publishes_and_deletes(server, &format!("topic-{n}"), &headers, allowed).await;
        }
    }
}

/// Tries every method that changes something on a topic of its own.
async fn publishes_and_deletes(server: &TestServer, topic: &str, headers: &[(&str, &str)], allowed: bool) {
    let path = format!("/publish?topic={topic}");
    for (method, path, body) in
        [("GET", format!("{path}&content=x"), ""), ("POST", path.clone(), "x"), ("PUT", path, "x")]
    {
        let answer = server.ask(method, &path, headers, body.as_bytes()).await;
        if allowed {
            answer.ok();
        } else {
            answer.problem(403, "cross_site");
        }
    }
    server.publish(topic, "to be deleted").await;
    let address = format!("/topics/{topic}");
    assert_eq!(server.ask("GET", &address, &[], b"").await.ok()["events"], if allowed { 4 } else { 1 }, "{headers:?}");
    let deleted = server.ask("DELETE", &address, headers, b"").await;
    if allowed {
        assert_eq!(deleted.status, 204, "{deleted:?}");
    } else {
        deleted.problem(403, "cross_site");
        assert_eq!(server.ask("GET", &address, &[], b"").await.ok()["events"], 1, "{headers:?}");
    }
}

#[tokio::test]
async fn the_servers_own_page_is_known_however_the_host_is_spelled() {
    // Case, default port and the root's dot make no other host; another port or name does.
    let server = TestServer::with(|config| config.server.hosts = vec!["broker.example".to_owned()]);
    for (origin, host, own) in [
        ("http://broker.example", "Broker.Example", true),
        ("http://broker.example", "broker.example:80", true),
        ("https://broker.example", "broker.example:443", true),
        ("https://broker.example", "broker.example.", true),
        ("https://broker.example", "broker.example:80", false),
        ("http://broker.example", "127.0.0.1:8080", false),
    ] {
        for request in ["POST /publish?topic=a", "DELETE /topics/a"] {
            let head = format!("{request} HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nConnection: close");
            let answer = server.ask_bytes(format!("{head}\r\nContent-Length: 1\r\n\r\nx").as_bytes()).await;
            if own {
                assert!(matches!(answer.status, 200 | 204), "{answer:?}");
            } else {
                answer.problem(403, "cross_site");
            }
        }
    }
}

#[tokio::test]
async fn pages_of_other_sites_are_not_read_to_by_default() {
    // Without `cors.origins` no answer gives another origin leave to read it.
    let server = TestServer::start();
    for path in ["/publish?topic=a&content=x", "/topics/a", "/healthz"] {
        let answer = server.ask("GET", path, &[("origin", "https://app.example.com")], b"").await;
        assert_eq!(answer.header("access-control-allow-origin"), None, "{answer:?}");
    }
    let stream = server.get("/subscribe?topic=a", &[("origin", "https://app.example.com")]).await;
    assert_eq!((stream.status, stream.header("access-control-allow-origin")), (200, None));
}
