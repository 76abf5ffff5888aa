//! The connection to NATS is encrypted.

use super::{Cluster, is_ready, until};
use crate::{
    cli::run,
    harness::{
        Process,
        nats::{self, Nats},
        process::program,
        tools::left_out,
    },
    tls::client::{Authority, Files},
};

/// A NATS that speaks TLS with these files; `None` without, which is said. `clients` is what it wants of its clients.
fn own_nats(files: &Files, clients: &str) -> Option<Nats> {
    let path = |name: &str| files.path(name).display().to_string();
    let tls = format!("tls {{ cert_file: {:?}, key_file: {:?}, {clients} }}\n", path("cert.pem"), path("key.pem"));
    let started = nats::program().map(|program| Nats::start_with(program, 1_000_000_000_000_000, &tls));
    started.map_err(|missing| left_out(&missing)).ok()
}

/// Starts a node with these settings, which reaches NATS and publishes.
async fn assert_reached(cluster: &Cluster, settings: &[(&str, &str)]) {
    let node = Process::start(&cluster.settings(settings)).await;
    until("readiness", async || is_ready(&node).await).await;
    cluster.publish(&node, "a", "content").await;
}

/// Starts a node with these settings, which does not reach NATS, and says why.
async fn assert_not_reached(cluster: &Cluster, settings: &[(&str, &str)], why: &str) {
    let mut node = Process::start(&cluster.settings(settings)).await;
    assert!(!is_ready(&node).await, "{settings:?}");
    assert_eq!(reqwest::get(node.url("/healthz")).await.expect("an answer").status(), 200);
    let said = node.until_reported("no connection to NATS yet").await;
    assert!(said.contains(why), "{said}");
}

#[tokio::test]
async fn a_nats_that_speaks_tls_is_reached_with_its_authority() {
    // Goal: with the authority, the server publishes. With another one, or without, it starts, is not ready, and says
    // why. A NATS that does not speak TLS is not reached by a server that asks for it.
    let files = Files::new();
    let Some(nats) = own_nats(&files, "timeout: 5") else { return };
    let cluster = Cluster::on(&nats);
    let ca = files.path("ca.pem").display().to_string();
    assert_reached(&cluster, &[("TIDINGS__CLUSTER__TLS_CA", &ca)]).await;
    assert_not_reached(&cluster, &[], "UnknownIssuer").await;
    let others = Files::new();
    let other = others.path("ca.pem").display().to_string();
    assert_not_reached(&cluster, &[("TIDINGS__CLUSTER__TLS_CA", &other)], "invalid peer certificate").await;
    let Some(plain) = Cluster::on_shared() else { return };
    assert_reached(&plain, &[]).await;
    assert_not_reached(&plain, &[("TIDINGS__CLUSTER__TLS_CA", &ca)], "does NATS speak it?").await;
    let tls = plain.url.replace("nats://", "tls://");
    assert_not_reached(&plain, &[("TIDINGS__CLUSTER__SERVERS", &tls)], "does NATS speak it?").await;
}

#[tokio::test]
async fn a_nats_that_asks_for_certificates_gets_one() {
    // Goal: the certificate of the configuration is shown. Without it, NATS refuses the connection.
    let files = Files::new();
    let ca = files.path("ca.pem").display().to_string();
    let Some(nats) = own_nats(&files, &format!("ca_file: {ca:?}, verify: true, timeout: 5")) else { return };
    let cluster = Cluster::on(&nats);
    let pair = files.authority.sign(&["tidings.example"], Some("tidings"));
    let (cert, key) = (files.path("client.pem"), files.path("client.key"));
    std::fs::write(&cert, pair.cert).expect("it is written");
    std::fs::write(&key, pair.key).expect("it is written");
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let settings = [
        ("TIDINGS__CLUSTER__TLS_CA", ca.as_str()),
        ("TIDINGS__CLUSTER__TLS_CERT", cert.as_str()),
        ("TIDINGS__CLUSTER__TLS_KEY", key.as_str()),
    ];
    assert_reached(&cluster, &settings).await;
    assert_not_reached(&cluster, &settings[..1], "").await;
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    // Goal: the server does not start, and says which key is wrong; `--check` says the same.
    let files = Files::new();
    let path = |name: &str| files.path(name).display().to_string();
    std::fs::write(files.path("other.pem"), Authority::new().sign(&["x"], None).key).expect("it is written");
    let (ca, cert, key) = ("TIDINGS__CLUSTER__TLS_CA", "TIDINGS__CLUSTER__TLS_CERT", "TIDINGS__CLUSTER__TLS_KEY");
    for (settings, expected) in [
        (vec![(ca, path("missing.pem"))], "cluster.tls_ca: cannot read"),
        (vec![(ca, path("key.pem"))], "has no certificate in the format PEM"),
        (vec![(cert, path("cert.pem"))], "only together with cluster.tls_key"),
        (vec![(key, path("key.pem"))], "only together with cluster.tls_cert"),
        (vec![(cert, path("cert.pem")), (key, path("cert.pem"))], "cluster.tls_key: "),
        (vec![(cert, path("cert.pem")), (key, path("other.pem"))], "cluster.tls_key: "),
    ] {
        for arguments in [&["--check"][..], &["--listen", "127.0.0.1:0"]] {
            let mut command = program();
            command.args(arguments).env("TIDINGS__LOG__ENGINE", "cluster").envs(settings.clone());
            // Nothing listens there. It does not matter, because the files come first.
            let (code, _, said) = run(command.env("TIDINGS__CLUSTER__SERVERS", "nats://127.0.0.1:1")).await;
            assert_eq!(code, 78, "{settings:?}: {said}");
            assert!(said.contains(expected), "{settings:?}: {said}");
        }
    }
    let mut command = program();
    command.arg("--check").env("TIDINGS__LOG__ENGINE", "cluster").env(ca, path("ca.pem"));
    assert_eq!(run(command.env(cert, path("cert.pem")).env(key, path("key.pem"))).await.0, 0, "the control");
}
