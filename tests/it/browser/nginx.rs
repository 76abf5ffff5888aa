//! The recipe for nginx in `docs/operating.md`, as it is printed, with a real nginx between the page and the server.
//!
//! Without nginx these tests are left out and say so; `tests/run` installs it and makes leaving out a failure.

use std::{net::SocketAddr, path::Path};

use tidings::config::Config;
use tokio::net::TcpSocket;

use crate::harness::{
    Stream, TestServer,
    nginx::{Nginx, program},
};
use crate::proxies::{KEY, with_key};

/// The block on the page.
fn recipe() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operating.md");
    let page = std::fs::read_to_string(page).expect("docs/operating.md");
    let block = page.split("```nginx\n").nth(1).and_then(|rest| rest.split("```").next());
    block.expect("docs/operating.md has a recipe for nginx").to_owned()
}

/// The block without the lines that contain `part`.
fn recipe_without(part: &str) -> String {
    recipe().lines().filter(|line| !line.contains(part)).map(|line| format!("{line}\n")).collect()
}

/// The settings that go with it.
fn settings(config: &mut Config) {
    config.server.hosts = vec!["push.example.com".to_owned()];
    config.server.trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
}

/// An nginx with `recipe` in front of `server`.
async fn start(program: &Path, recipe: &str, server: SocketAddr) -> Nginx {
    assert!(recipe.contains("http://127.0.0.1:8080"), "it names the server's default address");
    let recipe = recipe.replace("127.0.0.1:8080", &server.to_string());
    let text = |address: SocketAddr, directory: &Path| {
        let path = directory.display();
        let of_client = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let paths: String = of_client.iter().map(|name| format!("{name}_temp_path {path}/{name};\n")).collect();
        format!(
            "pid {path}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{paths}server {{\n\
             listen {address};\n{recipe}\n}}\n}}\n"
        )
    };
    Nginx::start(program, text).await
}

impl Nginx {
    /// Asks as a page that came through it does; the status.
    async fn ask(&self, method: &str, path: &str, origin: &str, site: Option<&str>) -> u16 {
        let site = site.map(|site| format!("Sec-Fetch-Site: {site}\r\n")).unwrap_or_default();
        self.send(method, path, &format!("Host: {}\r\nOrigin: {origin}\r\n{site}", self.address)).await
    }

    /// Sends a request with these headers; the status.
    async fn send(&self, method: &str, path: &str, headers: &str) -> u16 {
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{KEY}{headers}Connection: close\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\
             \r\nhello"
        );
        let mut socket = tokio::net::TcpStream::connect(self.address).await.expect("a connection");
        tokio::io::AsyncWriteExt::write_all(&mut socket, request.as_bytes()).await.expect("the request is sent");
        Stream::receive(socket).await.status
    }
}

impl Nginx {
    /// Subscribes from `address`, with a made-up address of a client.
    async fn subscribe_from(&self, address: &str, made_up: &str) -> Stream {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::new(address.parse().expect("an address"), 0)).expect("a local address");
        let mut socket = socket.connect(self.address).await.expect("a connection");
        let head = "GET /subscribe?topic=b HTTP/1.1\r\nHost: push.example.com\r\nX-Forwarded-For: ";
        let request = format!("{head}{made_up}\r\n{KEY}Connection: close\r\n\r\n");
        tokio::io::AsyncWriteExt::write_all(&mut socket, request.as_bytes()).await.expect("the request is sent");
        Stream::receive(socket).await
    }
}

/// Goal: behind the proxy of the recipe the page subscribes, publishes and deletes, with a browser that sends
/// `Sec-Fetch-Site` and with one that does not; other pages do not.
#[tokio::test]
async fn the_page_works_behind_the_recipe() {
    let Some(program) = program() else { return };
    let server = TestServer::with(with_key);
    let nginx = start(&program, &recipe(), server.address).await;
    let own = format!("http://{}", nginx.address);
    let mut stream = Stream::open(
        nginx.address,
        "/subscribe?topic=a",
        &[("accept", "text/event-stream"), ("authorization", "Bearer abc")],
    )
    .await;
    server.until_subscribers("a", 1).await;
    for site in [None, Some("same-origin")] {
        assert_eq!(nginx.ask("POST", "/publish?topic=a", &own, site).await, 200, "{site:?}");
        assert_eq!(stream.next().await.expect("an event, not buffered").data, "hello");
        assert_eq!(nginx.ask("DELETE", "/topics/other", &own, site).await, 404, "{site:?}");
    }
    for (origin, site) in [("https://evil.example", None), ("https://evil.example", Some("cross-site"))] {
        assert_eq!(nginx.ask("POST", "/publish?topic=a", origin, site).await, 403, "{site:?}");
        assert_eq!(nginx.ask("DELETE", "/topics/a", origin, site).await, 403, "{site:?}");
    }
    assert_eq!(nginx.ask("DELETE", "/topics/a", &own, None).await, 204);
    assert_eq!(stream.next().await.expect("the end of the topic").event, "broker.deleted");
    // The control: without the lines that pass `Host`, only the browser's own word helps.
    let nginx = start(&program, &recipe_without("Host"), server.address).await;
    let own = format!("http://{}", nginx.address);
    assert_eq!(nginx.ask("POST", "/publish?topic=a", &own, None).await, 403);
    assert_eq!(nginx.ask("POST", "/publish?topic=a", &own, Some("same-origin")).await, 200);
}

/// Goal: with the settings of the recipe, the name of the site is known and others are not, whatever a client says in
/// headers of a proxy, and its clients count by their own addresses.
#[tokio::test]
async fn the_settings_of_the_recipe_hold_against_made_up_headers() {
    let Some(program) = program() else { return };
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operating.md")).expect("a page");
    for line in ["hosts = [\"push.example.com\"]", "trusted_proxies = [\"127.0.0.1\"]"] {
        assert!(page.contains(line), "the page says what this test sets: {line}");
    }
    let server = TestServer::with(|config| {
        with_key(config);
        settings(config);
        config.limits.connections_per_ip_max = 1;
    });
    let site = "Host: push.example.com\r\n";
    let own = format!("{site}Origin: http://push.example.com\r\n");
    // Without the line that passes `Host`, too: then the server goes by what the proxy says.
    for recipe in [recipe(), recipe_without(" Host ")] {
        let nginx = start(&program, &recipe, server.address).await;
        assert_eq!(nginx.send("POST", "/publish?topic=a", &own).await, 200);
        for made_up in [
            "",
            "X-Forwarded-Host: push.example.com\r\n",
            "Forwarded: for=192.0.2.9;host=push.example.com;proto=http\r\n",
        ] {
            let evil = format!("Host: evil.example\r\nOrigin: http://evil.example\r\n{made_up}");
            assert_eq!(nginx.send("POST", "/publish?topic=a", &evil).await, 421, "{made_up}");
            assert_eq!(nginx.send("GET", "/subscribe?topic=a", &evil).await, 421, "{made_up}");
            assert_eq!(nginx.send("GET", "/healthz", &evil).await, 200, "{made_up}");
            assert_eq!(nginx.send("POST", "/publish?topic=a", &format!("{own}{made_up}")).await, 200, "{made_up}");
        }
        let first = nginx.subscribe_from("127.0.0.2", "192.0.2.1").await;
        assert_eq!(first.status, 200);
        assert_eq!(nginx.subscribe_from("127.0.0.2", "192.0.2.2").await.status, 429, "it is the same client");
        assert_eq!(nginx.subscribe_from("127.0.0.3", "192.0.2.1").await.status, 200, "it is another client");
        drop(first);
        server.until_subscribers("b", 0).await;
    }
}
