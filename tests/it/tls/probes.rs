//! What a scanner or an attacker tries: each is refused, and the server goes on.

use std::{
    io::Write as _,
    net::SocketAddr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::rustls::{AlertDescription, Error};

use super::{
    VERSIONS,
    client::{Files, dial},
};
use crate::harness::{DEADLINE, TestServer, tools};

/// A `ClientHello` that offers at most `version`, with one cipher suite of that time.
fn hello(version: u16) -> Vec<u8> {
    let [major, minor] = version.to_be_bytes();
    let mut body = vec![major, minor];
    body.extend([7; 32]);
    // No session, ECDHE-RSA-AES128-SHA and AES128-SHA, no compression, no extensions.
    body.extend([0, 0, 4, 0xc0, 0x13, 0x00, 0x2f, 1, 0, 0, 0]);
    let length = |n: usize| u16::try_from(n).expect("it is short").to_be_bytes();
    let [high, low] = length(body.len());
    let message = [&[1, 0, high, low], &*body].concat();
    let [high, low] = length(message.len());
    [&[22, 3, 1, high, low], &*message].concat()
}

/// Sends `bytes`, and gives everything that comes back until the server closes the connection.
async fn send(server: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(server).await.expect("a connection");
    socket.write_all(bytes).await.expect("they are sent");
    let mut received = Vec::new();
    // A reset is an end, too.
    timeout(DEADLINE, socket.read_to_end(&mut received)).await.expect("an end in time").ok();
    received
}

/// The control of each probe: the server answers a client that does everything right.
async fn is_alive(server: &TestServer, files: &Files) -> bool {
    let mut tls = dial(server.address, files.authority.client(&VERSIONS, None)).await.expect("a handshake");
    tls.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.expect("it is sent");
    let mut answer = String::new();
    timeout(DEADLINE, tls.read_to_string(&mut answer)).await.expect("an answer in time").expect("a clean end");
    answer.starts_with("HTTP/1.1 200")
}

/// Goal: SSL 3, TLS 1.0 and TLS 1.1 are refused with an alert.
#[tokio::test]
async fn old_versions_are_refused() {
    let files = Files::new();
    let server = TestServer::with(|config| files.configure(config));
    for version in [0x0300, 0x0301, 0x0302] {
        let answer = send(server.address, &hello(version)).await;
        // A fatal alert: `handshake_failure` or `protocol_version`.
        assert!(matches!(*answer, [21, 3, _, 0, 2, 2, 40 | 70]), "{version:x}: {answer:?}");
    }
    assert!(is_alive(&server, &files).await);
}

/// Goal: a client that offers other protocols inside TLS, but not HTTP/1.1, gets `no_application_protocol`. One that
/// offers HTTP/1.1 among others gets it.
#[tokio::test]
async fn another_protocol_is_refused() {
    let files = Files::new();
    let server = TestServer::with(|config| files.configure(config));
    for version in VERSIONS {
        let mut config = files.authority.client(&[version], None);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let error = dial(server.address, config.clone()).await.expect_err("it is refused");
        let error = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
        assert_eq!(error, Some(&Error::AlertReceived(AlertDescription::NoApplicationProtocol)));
        config.alpn_protocols.push(b"http/1.1".to_vec());
        let tls = dial(server.address, config).await.expect("a handshake");
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    }
}

/// Goal: a client that speaks HTTP without TLS is told what to do.
#[tokio::test]
async fn plain_http_is_told_to_use_tls() {
    let files = Files::new();
    let server = TestServer::with(|config| files.configure(config));
    let answer = server.ask("GET", "/healthz", &[], b"").await;
    let problem = answer.problem(400, "bad_request");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("https://")), "{problem}");
}

/// Goal: bytes that are no handshake, or a part of one, end only their own connection.
#[tokio::test]
async fn garbage_and_parts_of_a_handshake_are_refused() {
    let files = Files::new();
    let server = TestServer::with(|config| {
        files.configure(config);
        config.server.head_timeout = Duration::from_millis(300);
    });
    let whole = hello(0x0303);
    let too_long = [vec![22, 3, 1, 0x40, 0, 1, 0x00, 0xff, 0xff], vec![0; 16_380]].concat();
    for bytes in [&b"\0\0\0\0\0\0\0\0"[..], &[0xff; 3000], &whole[..20], &whole[..1], &too_long.repeat(4), &[0x16; 100]]
    {
        send(server.address, bytes).await;
    }
    assert!(is_alive(&server, &files).await);
}

/// Goal: a handshake that drips byte by byte is cut at `server.head_timeout`.
#[tokio::test]
async fn a_handshake_that_drips_is_cut() {
    let files = Files::new();
    let server = TestServer::with(|config| {
        files.configure(config);
        config.server.head_timeout = Duration::from_millis(500);
    });
    let mut socket = TcpStream::connect(server.address).await.expect("a connection");
    let begin = Instant::now();
    let (mut drips, mut buffer) = (0, [0; 64]);
    for byte in hello(0x0303).into_iter().cycle() {
        // An error means that the server has closed the connection.
        if socket.write_all(&[byte]).await.is_err() {
            break;
        }
        drips += 1;
        if let Ok(read) = timeout(Duration::from_millis(20), socket.read(&mut buffer)).await {
            assert!(read.is_err() || read.is_ok_and(|n| n == 0), "nothing is answered");
            break;
        }
        assert!(begin.elapsed() < DEADLINE, "it is not cut");
    }
    assert!(drips > 3, "it was cut too early");
    assert!(is_alive(&server, &files).await);
}

/// Goal: a client cannot start a second handshake on a connection (renegotiation).
#[tokio::test]
async fn renegotiation_is_refused() {
    let Some(openssl) = tools::on_path("openssl") else { return tools::left_out("openssl") };
    let files = Files::new();
    let server = TestServer::with(|config| files.configure(config));
    let mut command = Command::new(openssl);
    command.args(["s_client", "-tls1_2", "-connect", &server.address.to_string()]);
    let mut client =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    // A line `R` asks for a second handshake.
    client.stdin.take().expect("its input").write_all(b"R\n").expect("it reads");
    let output =
        tokio::task::spawn_blocking(|| client.wait_with_output().expect("its output")).await.expect("no panic");
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("RENEGOTIATING"), "it asked: {said}");
    assert!(said.contains("no renegotiation"), "{said}");
    assert!(is_alive(&server, &files).await);
}
