//! Client certificates, and files that cannot be used.

use std::{net::TcpListener, os::unix::fs::PermissionsExt as _};

use tidings::{
    config::Config,
    transport::{Acceptor, Transport},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    VERSIONS,
    client::{Authority, Files, Pair, dial},
};
use crate::harness::{DEADLINE, TestServer, process::program};

/// Whether the server answers a client that shows `certificate`.
async fn is_answered(server: &TestServer, files: &Files, certificate: Option<&Pair>) -> bool {
    for version in VERSIONS {
        let answered = async {
            let mut tls = dial(server.address, files.authority.client(&[version], certificate)).await?;
            tls.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
            let mut answer = String::new();
            tls.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer.starts_with("HTTP/1.1 200"))
        };
        if !answered.await.unwrap_or(false) {
            return false;
        }
    }
    true
}

/// Goal: with `server.tls_client_ca`, a client may show a certificate of that authority, or none. One of another authority
/// is refused.
#[tokio::test]
async fn a_client_certificate_is_verified_if_there_is_one() {
    let files = Files::new();
    let server = TestServer::with(|config| {
        files.configure(config);
        config.server.tls_client_ca = Some(files.path("ca.pem"));
    });
    let good = files.authority.sign(&[], Some("app"));
    let other = Authority::new().sign(&[], Some("app"));
    assert!(is_answered(&server, &files, Some(&good)).await);
    assert!(is_answered(&server, &files, None).await);
    assert!(!is_answered(&server, &files, Some(&other)).await);
}

/// Goal: the name of a client is the common name of its certificate, otherwise the first DNS name. It is known after the
/// handshake, also when a ticket shortened the handshake.
#[tokio::test]
async fn a_client_certificate_names_the_client() {
    let files = Files::new();
    let mut config = Config::default();
    files.configure(&mut config);
    config.server.tls_client_ca = Some(files.path("ca.pem"));
    let acceptor = Acceptor::load(&config.server).expect("the files can be used");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let (tell, subjects) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut connection = Transport::accept(socket.expect("a connection"), &acceptor).expect("a session");
            connection.read(&mut [0; 100]).expect("a request");
            connection.write(b"an answer").expect("it is sent");
            tell.send(connection.certificate().map(|certificate| certificate.subject.clone()))
                .expect("the test waits for it");
        }
    });
    let both = files.authority.sign(&["device.example"], Some("app"));
    let only_dns = files.authority.sign(&["device.example", "other.example"], None);
    for (certificate, expected) in [(Some(&both), Some("app")), (Some(&only_dns), Some("device.example")), (None, None)]
    {
        for version in VERSIONS {
            let client = files.authority.client(&[version], certificate);
            // The second connection has the ticket of the first one.
            for _ in 0..2 {
                let mut tls = dial(address, client.clone()).await.expect("a handshake");
                tls.write_all(b"a request").await.expect("it is sent");
                tls.read_exact(&mut [0; 9]).await.expect("an answer");
                let subject = subjects.recv_timeout(DEADLINE).expect("a subject");
                assert_eq!(subject.as_deref(), expected);
            }
        }
    }
}

/// Starts the program with these settings, and gives the exit code and what it says when it does not start.
async fn refusal(settings: &[(&str, String)], arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = program();
    command.args(arguments).envs(settings.iter().map(|(key, value)| (key, value)));
    let output = command.output().await.expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Goal: with files that cannot be used, the server does not start, and says which key is wrong; `--check` says the same.
#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let files = Files::new();
    let [cert, key] = files.settings();
    let with = |name: &'static str, file: &str| (name, files.path(file).to_string_lossy().into_owned());
    std::fs::write(files.path("other.pem"), files.authority.sign(&["x"], None).key).expect("it is written");
    for (settings, expected) in [
        (vec![cert.clone()], "only together with server.tls_key"),
        (vec![key.clone()], "only together with server.tls_cert"),
        (vec![with("TIDINGS__SERVER__TLS_CLIENT_CA", "ca.pem")], "only together with server.tls_cert"),
        (vec![with("TIDINGS__SERVER__TLS_CERT", "missing.pem"), key.clone()], "server.tls_cert: cannot read"),
        (vec![with("TIDINGS__SERVER__TLS_CERT", "key.pem"), key.clone()], "has no certificate in the format PEM"),
        (vec![cert.clone(), with("TIDINGS__SERVER__TLS_KEY", "cert.pem")], "has no private key without a password"),
        (vec![cert.clone(), with("TIDINGS__SERVER__TLS_KEY", "other.pem")], "does not belong to the first certificate"),
        (vec![cert.clone(), key.clone(), with("TIDINGS__SERVER__TLS_CLIENT_CA", "key.pem")], "server.tls_client_ca:"),
    ] {
        for arguments in [&["--check"][..], &["--listen", "127.0.0.1:0"]] {
            let (code, said) = refusal(&settings, arguments).await;
            assert_eq!(code, Some(78), "{settings:?}: {said}");
            assert!(said.contains(expected), "{settings:?}: {said}");
        }
    }
    // The control.
    assert_eq!(refusal(&[cert, key], &["--check"]).await.0, Some(0));
}

/// Goal: a key that other users of the machine may read is used, with a warning.
#[tokio::test]
async fn a_key_that_others_may_read_is_warned_of() {
    let files = Files::new();
    for (mode, warns) in [(0o600, false), (0o640, true), (0o604, true)] {
        std::fs::set_permissions(files.path("key.pem"), std::fs::Permissions::from_mode(mode))
            .expect("its mode is set");
        let settings = files.settings();
        let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (*key, &**value)).collect();
        let mut server = crate::harness::Process::start(&settings).await;
        assert!(server.banner[0].contains("https://"), "{:?}", server.banner);
        server.signal("TERM").await;
        assert!(server.exit().await.success());
        let (_, report) = server.last_words().await;
        assert_eq!(report.contains("chmod 600"), warns, "{mode:o}: {report}");
    }
}
