//! What a verified client certificate gives, through both readers of requests.

use std::time::{Duration, SystemTime};

use serde_json::json;
use tidings::config::{Anonymous, CertificateConfig, Config};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use super::{
    SSE, VERSIONS,
    client::{Files, Pair, bridge, dial},
};
use crate::{
    auth::{seconds_from_now, token, with_keys},
    cli::run,
    harness::{
        Answer, DEADLINE, FOR_THE_FALLBACK, Process, READERS, Stream, TestServer, blocking::Directory, process::program,
    },
};

/// The headers of a request that the fast path serves, and of one that the fallback serves.
const FRONTS: [&[(&str, &str)]; 2] = [&[], &[FOR_THE_FALLBACK]];
const PUBLISH: &str = "/publish?topic=users/app&content=x";

/// A server whose clients show certificates: `app` has a row.
fn configure(files: &Files, config: &mut Config) {
    files.configure(config);
    with_keys(config);
    config.server.tls_client_ca = Some(files.path("ca.pem"));
    let row = json!({"subject": "app", "publish": ["users/{sub}"], "subscribe": ["news"], "manage": []});
    config.auth.certificates = vec![serde_json::from_value::<CertificateConfig>(row).expect("a row")];
}

/// The same server, as a client with this certificate reaches it. It is reached while the result exists.
async fn as_client(server: &TestServer, files: &Files, certificate: Option<&Pair>) -> TestServerAt {
    TestServerAt(bridge(server.address, files.authority.client(&VERSIONS, certificate)).await)
}

/// The address of a bridge, which shows a certificate.
struct TestServerAt(std::net::SocketAddr);

impl TestServerAt {
    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{length}{headers}\r\n");
        let mut socket = TcpStream::connect(self.0).await.expect("a connection");
        socket.write_all(request.as_bytes()).await.expect("it is sent");
        Answer::read(Stream::receive(socket).await, request.as_bytes()).await
    }

    async fn subscribe(&self, front: &[(&str, &str)]) -> Stream {
        Stream::open(self.0, "/subscribe?topic=news", &[front, SSE].concat()).await
    }
}

fn bearer(subject: &str, tidings: &serde_json::Value) -> String {
    format!("Bearer {}", token(subject, tidings, seconds_from_now(60)))
}

/// Goal: a certificate gives exactly the rights of its row. A certificate without a row gives as much as none, and no header
/// makes up for it.
#[tokio::test]
async fn a_certificate_gives_the_rights_of_its_row() {
    let files = Files::new();
    let server = TestServer::with(|config| configure(&files, config));
    let [app, other] = ["app", "other"].map(|subject| files.authority.sign(&[], Some(subject)));
    let dns = files.authority.sign(&["app"], None);
    for front in FRONTS {
        for certificate in [&app, &dns] {
            let client = as_client(&server, &files, Some(certificate)).await;
            client.ask("POST", PUBLISH, front).await.ok();
            client.ask("GET", PUBLISH, front).await.ok();
            let forbidden = client.ask("POST", "/publish?topic=users/bob&content=x", front).await;
            assert_eq!(forbidden.problem(403, "forbidden")["topic"], "users/bob");
            client.ask("GET", "/topics/news", front).await.problem(403, "forbidden");
            assert_eq!(client.subscribe(front).await.status, 200);
        }
        for certificate in [Some(&other), None] {
            let client = as_client(&server, &files, certificate).await;
            for forged in [
                ("x-client-cert-subject", "app"),
                ("x-ssl-client-s-dn", "CN=app"),
                ("ssl-client-subject", "app"),
                ("subject", "app"),
                ("client-cert", "app"),
            ] {
                let answer = client.ask("POST", PUBLISH, &[front, &[forged]].concat()).await;
                answer.problem(401, "unauthorized");
                assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"tidings\""));
            }
            assert_eq!(client.subscribe(front).await.status, 401);
        }
    }
}

/// Goal: a caller whose certificate has no row is one without a credential: it may do what `auth.anonymous` says.
#[tokio::test]
async fn without_a_row_auth_anonymous_counts() {
    let files = Files::new();
    let server = TestServer::with(|config| {
        configure(&files, config);
        config.auth.anonymous = Anonymous::Subscribe;
    });
    let [app, other] = ["app", "other"].map(|subject| files.authority.sign(&[], Some(subject)));
    for front in FRONTS {
        let other = as_client(&server, &files, Some(&other)).await;
        assert_eq!(other.ask("HEAD", "/subscribe?topic=x", front).await.status, 200);
        other.ask("POST", PUBLISH, front).await.problem(401, "unauthorized");
        // The row counts, not what others may do.
        let app = as_client(&server, &files, Some(&app)).await;
        assert_eq!(app.ask("HEAD", "/subscribe?topic=x", front).await.status, 403);
    }
}

/// Goal: a credential in the request counts before the certificate, whether it is valid or not.
#[tokio::test]
async fn a_token_counts_before_the_certificate() {
    let files = Files::new();
    let server = TestServer::with(|config| configure(&files, config));
    let app = files.authority.sign(&[], Some("app"));
    let client = as_client(&server, &files, Some(&app)).await;
    let orders = bearer("ann", &json!({"publish": ["orders"]}));
    for front in FRONTS {
        let with = |credential| [front, &[("authorization", credential)]].concat();
        client.ask("POST", PUBLISH, &with("Bearer x")).await.problem(401, "unauthorized");
        client.ask("POST", PUBLISH, &with(&orders)).await.problem(403, "forbidden");
        client.ask("POST", "/publish?topic=orders&content=x", &with(&orders)).await.ok();
        client.ask("POST", PUBLISH, front).await.ok();
    }
}

/// Goal: a page of another site cannot use the certificate that a browser shows by itself.
#[tokio::test]
async fn a_page_of_another_site_cannot_use_it() {
    let files = Files::new();
    let server = TestServer::with(|config| configure(&files, config));
    let app = files.authority.sign(&[], Some("app"));
    let client = as_client(&server, &files, Some(&app)).await;
    for front in FRONTS {
        for header in [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")] {
            client.ask("POST", PUBLISH, &[front, &[header]].concat()).await.problem(403, "cross_site");
        }
        client.ask("POST", PUBLISH, &[front, &[("sec-fetch-site", "same-origin")]].concat()).await.ok();
    }
}

/// Goal: a proxy with a certificate does not give its rights to its clients: the certificate counts neither on a connection
/// of a trusted proxy, whatever that says of its client, nor with a header of any proxy.
#[tokio::test]
async fn the_certificate_of_a_proxy_gives_no_right() {
    let files = Files::new();
    let app = files.authority.sign(&[], Some("app"));
    let server = TestServer::with(|config| configure(&files, config));
    let trusting = TestServer::with(|config| {
        configure(&files, config);
        config.server.trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
    });
    let headers = [("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=192.0.2.1"), ("via", "1.1 proxy")];
    for front in FRONTS {
        let direct = as_client(&server, &files, Some(&app)).await;
        direct.ask("POST", PUBLISH, front).await.ok();
        let proxied = as_client(&trusting, &files, Some(&app)).await;
        proxied.ask("POST", PUBLISH, front).await.problem(401, "unauthorized");
        for header in headers {
            let headers = [front, &[header]].concat();
            direct.ask("POST", PUBLISH, &headers).await.problem(401, "unauthorized");
            proxied.ask("POST", PUBLISH, &headers).await.problem(401, "unauthorized");
        }
    }
    // The PROXY protocol has its preamble before TLS.
    for (server, expected) in [(&trusting, "HTTP/1.1 401"), (&server, "")] {
        for line in READERS {
            let mut socket = TcpStream::connect(server.address).await.expect("a connection");
            let mut preamble = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
            preamble.extend_from_slice(&[192, 0, 2, 1, 10, 0, 0, 1, 18, 103, 0, 80]);
            socket.write_all(&preamble).await.expect("it is sent");
            let connector = TlsConnector::from(std::sync::Arc::new(files.authority.client(&VERSIONS, Some(&app))));
            let answer = async {
                let mut tls = connector.connect(ServerName::from(server.address.ip()), socket).await.ok()?;
                let request = format!(
                    "POST {PUBLISH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n{line}\r\n"
                );
                tls.write_all(request.as_bytes()).await.ok()?;
                let mut answer = String::new();
                tls.read_to_string(&mut answer).await.ok()?;
                Some(answer)
            };
            let answer = timeout(DEADLINE, answer).await.expect("an end in time").unwrap_or_default();
            assert!(answer.starts_with(expected) && !answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    }
}

/// Goal: requests of both readers on one connection have the rights of its certificate, also after a wait.
#[tokio::test]
async fn every_request_of_a_connection_has_the_rights() {
    let files = Files::new();
    let server = TestServer::with(|config| configure(&files, config));
    let app = files.authority.sign(&[], Some("app"));
    for version in VERSIONS {
        let mut tls = dial(server.address, files.authority.client(&[version], Some(&app))).await.expect("a handshake");
        for line in READERS.into_iter().chain(READERS) {
            let request = format!("POST {PUBLISH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n{line}\r\n");
            tls.write_all(request.as_bytes()).await.expect("it is sent");
            let mut answer = String::new();
            while !answer.ends_with("}\n") {
                let mut buffer = [0; 4096];
                let n = timeout(DEADLINE, tls.read(&mut buffer)).await.expect("an answer in time").expect("an answer");
                assert!(n > 0, "{answer}");
                answer.push_str(std::str::from_utf8(&buffer[..n]).expect("UTF-8"));
            }
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    }
}

/// Goal: a caller with a certificate has an identity: its streams end with `DELETE /subjects/{name}`, its publishes count
/// against the rate of its key and subject, and its own limits hold.
#[tokio::test]
async fn a_certificate_is_an_identity() {
    let files = Files::new();
    let app = files.authority.sign(&[], Some("app"));
    let operator = [("authorization", bearer("op", &json!({"manage": ["**"]})))];
    let operator = operator.each_ref().map(|(name, value)| (*name, value.as_str()));
    for front in FRONTS {
        let server = TestServer::with(|config| configure(&files, config));
        let client = as_client(&server, &files, Some(&app)).await;
        let mut stream = client.subscribe(front).await;
        assert_eq!(stream.status, 200);
        let none = as_client(&server, &files, None).await;
        assert_eq!(none.ask("DELETE", "/subjects/other", &operator).await.status, 204);
        let listed = none.ask("GET", "/topics/news/subscribers", &operator).await.ok();
        assert_eq!(listed["subscribers"].as_array().map(Vec::len), Some(1), "{listed}");
        assert_eq!(none.ask("DELETE", "/subjects/app", &operator).await.status, 204);
        let rest = timeout(DEADLINE, stream.rest()).await.expect("it ends");
        assert!(rest.contains("event: broker.ended"), "{rest}");
        let limited = TestServer::with(|config| {
            configure(&files, config);
            config.limits.publishes_per_second_per_key = 1;
            config.auth.certificates[0].subscribers_max = std::num::NonZeroU32::new(1);
        });
        let client = as_client(&limited, &files, Some(&app)).await;
        crate::harness::until("a refusal", async || {
            client.ask("POST", PUBLISH, front).await;
            let answer = client.ask("POST", PUBLISH, front).await;
            answer.status == 429 && answer.problem(429, "rate_limited")["limit"] == "publishes_per_second_per_key"
        })
        .await;
        let _stream = client.subscribe(front).await;
        client.ask("GET", "/subscribe?topic=news", front).await.problem(429, "too_many_subscribers_of_token");
    }
}

/// Goal: the rights end with the validity of the certificate: its streams end with `broker.unauthorized`, and a connection
/// that is still open is one of a caller without a credential. A certificate that lasts goes on.
#[tokio::test]
async fn the_rights_end_when_the_certificate_expires() {
    let files = Files::new();
    let server = TestServer::with(|config| configure(&files, config));
    let lasting = files.authority.sign(&[], Some("app"));
    // Times beyond 2049 have another form (RFC 5280, section 4.1.2.5).
    let century = SystemTime::now() + Duration::from_hours(24 * 365 * 70);
    let century = files.authority.sign_until(&[], Some("app"), Some(century));
    let lasting = [as_client(&server, &files, Some(&lasting)).await, as_client(&server, &files, Some(&century)).await];
    let mut others = Vec::new();
    for client in &lasting {
        others.push(client.subscribe(&[]).await);
    }
    // Its end has no fraction of a second, and a handshake may take a moment.
    let expires_at = SystemTime::now() + Duration::from_secs(4);
    let short = files.authority.sign_until(&[], Some("app"), Some(expires_at));
    let mut open = dial(server.address, files.authority.client(&VERSIONS, Some(&short))).await.expect("a handshake");
    let client = as_client(&server, &files, Some(&short)).await;
    let mut streams = Vec::new();
    for front in FRONTS {
        let stream = client.subscribe(front).await;
        assert_eq!(stream.status, 200);
        streams.push(stream);
    }
    for stream in &mut streams {
        let rest = timeout(DEADLINE, stream.rest()).await.expect("it ends");
        assert!(rest.contains("event: broker.unauthorized"), "{rest}");
    }
    let late = SystemTime::now().duration_since(expires_at).unwrap_or_default();
    assert!(late < Duration::from_secs(2), "{late:?}");
    let request =
        format!("POST {PUBLISH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    open.write_all(request.as_bytes()).await.expect("it is sent");
    let mut answer = String::new();
    open.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    for (client, mut stream) in lasting.iter().zip(others) {
        client.ask("POST", PUBLISH, &[]).await.ok();
        let publisher = bearer("ann", &json!({"publish": ["news"]}));
        client.ask("POST", "/publish?topic=news&content=on", &[("authorization", &publisher)]).await.ok();
        assert_eq!(stream.next().await.expect("it goes on").data, "on");
    }
}

/// Goal: when a row is removed or changed and SIGHUP is sent, the streams of its subject end, and no others; the audit line
/// names the row. A row that comes gives its rights to connections that are open.
#[tokio::test]
async fn a_reload_ends_the_streams_of_rows_that_are_gone() {
    let files = Files::new();
    let directory = Directory::new();
    let file = directory.0.join("config.toml");
    let path = |name: &str| files.path(name).to_string_lossy().into_owned();
    let with_rows = |rows: &[(&str, &str)]| {
        let rows: String = rows
            .iter()
            .map(|(subject, topic)| {
                format!(
                    "[[auth.certificates]]\nsubject = \"{subject}\"\nsubscribe = [\"{topic}\"]\nmanage = [\"**\"]\n"
                )
            })
            .collect();
        let tls = format!(
            "tls_cert = {:?}\ntls_key = {:?}\ntls_client_ca = {:?}",
            path("cert.pem"),
            path("key.pem"),
            path("ca.pem")
        );
        std::fs::write(&file, format!("[server]\n{tls}\n[auth]\nanonymous = \"none\"\n{rows}")).expect("a file");
    };
    with_rows(&[("stays", "news"), ("goes", "news"), ("changes", "news")]);
    let mut command = program();
    command.arg("--config").arg(&file).args(["--listen", "127.0.0.1:0"]);
    let mut server = Process::spawn(&mut command).await;
    let mut clients = Vec::new();
    for subject in ["stays", "goes", "changes"] {
        let pair = files.authority.sign(&[], Some(subject));
        let address = bridge(server.address, files.authority.client(&VERSIONS, Some(&pair))).await;
        let client = TestServerAt(address);
        let stream = client.subscribe(&[]).await;
        assert_eq!(stream.status, 200, "{subject}");
        clients.push((client, stream));
    }
    with_rows(&[("stays", "news"), ("changes", "*")]);
    server.signal("HUP").await;
    let report = server.until_reported("keys or certificates were removed").await;
    assert!(report.contains(r#""auth.certificates" of "goes""#) && report.contains("changes"), "{report}");
    assert!(!report.contains("stays"), "{report}");
    for (_, stream) in &mut clients[1..] {
        let rest = timeout(DEADLINE, stream.rest()).await.expect("it ends");
        assert!(rest.contains("event: broker.unauthorized"), "{rest}");
    }
    let statuses = [clients[0].0.subscribe(&[]).await, clients[1].0.subscribe(&[]).await].map(|stream| stream.status);
    assert_eq!(statuses, [200, 401]);
    let listed = clients[0].0.ask("GET", "/topics/news/subscribers", &[]).await.ok();
    assert!(listed["subscribers"].as_array().is_some_and(|listed| !listed.is_empty()), "{listed}");
    assert_eq!(clients[0].0.ask("DELETE", "/subjects/stays", &[]).await.status, 204);
    let report = server.until_reported("end_subject").await;
    assert!(report.contains(r#""auth.certificates""#) && report.contains(r#"Some("stays")"#), "{report}");
    let rest = timeout(Duration::from_secs(10), clients[0].1.rest()).await.expect("it ends");
    assert!(rest.contains("event: broker.ended"), "{rest}");
}

/// Goal: rows that cannot be meant are refused at the start, with the key and the row.
#[tokio::test]
async fn rows_that_cannot_be_meant_are_refused() {
    let files = Files::new();
    let ca = files.path("ca.pem").to_string_lossy().into_owned();
    let ask = async |rows: &str, with_ca: bool| {
        let mut command = program();
        command.arg("--check").envs(files.settings()).env("TIDINGS__AUTH__CERTIFICATES", rows);
        if with_ca {
            command.env("TIDINGS__SERVER__TLS_CLIENT_CA", &ca);
        }
        run(&mut command).await
    };
    for (rows, with_ca, expected) in [
        (r#"[{ subject = "a" }, { subject = "b" }, { subject = "a" }]"#, true, "\"a\" is given twice"),
        (r#"[{ subject = "" }]"#, true, "a subject of 1 to 256 bytes"),
        (r#"[{ subject = "a\nb" }]"#, true, "without control characters"),
        (r#"[{ publish = ["a"] }]"#, true, "subject"),
        (r#"[{ subject = "a", sha256 = "x" }]"#, true, "sha256"),
        (r#"[{ subject = "a", subscribers_max = 0 }]"#, true, "from 1 to 10000000"),
        (r#"[{ subject = "a", publish = ["a*"] }]"#, true, "in the row of \"a\": the pattern"),
        (r#"[{ subject = "a" }]"#, false, "only together with server.tls_client_ca"),
    ] {
        let (code, _, said) = ask(rows, with_ca).await;
        assert_eq!(code, 78, "{rows}: {said}");
        assert!(said.contains("auth.certificates") && said.contains(expected), "{rows}: {said}");
    }
    let (code, _, said) = ask(r#"[{ subject = "a", publish = ["{sub}"] }, { subject = "b" }]"#, true).await;
    assert_eq!(code, 0, "the control: {said}");
    let reserved =
        r#"[{ id = "auth.certificates", algorithm = "HS256", secret = "a secret of thirty-two bytes...." }]"#;
    let (code, _, said) = run(program().arg("--check").env("TIDINGS__AUTH__KEYS", reserved)).await;
    assert!(code == 78 && said.contains("a name other than auth.certificates"), "{said}");
}
