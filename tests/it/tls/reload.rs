//! Certificates that change while the server runs.

use tokio::net::TcpStream;
use tokio_rustls::{
    client::TlsStream,
    rustls::pki_types::{CertificateDer, pem::PemObject as _},
};

use super::{
    VERSIONS,
    client::{Files, Pair, bridge, dial},
};
use crate::harness::{Process, TestServer, until};

/// Whether a server shows a new connection the certificate of `pair`.
fn shows(tls: &TlsStream<TcpStream>, pair: &Pair) -> bool {
    let expected = CertificateDer::from_pem_slice(pair.cert.as_bytes()).expect("PEM");
    tls.get_ref().1.peer_certificates().is_some_and(|chain| chain[0] == expected)
}

/// Goal: when the files have changed, new connections get the new certificate, and a stream goes on.
#[tokio::test]
async fn a_new_certificate_is_used_without_a_restart() {
    let files = Files::new();
    let mut server = TestServer::with(|config| files.configure(config));
    let direct = server.address;
    server.address = bridge(direct, files.authority.client(&VERSIONS, None)).await;
    let mut stream = server.subscribe("topic=t").await;
    let new = files.authority.sign(&["127.0.0.1"], None);
    let client = || files.authority.client(&VERSIONS, None);
    assert!(!shows(&dial(direct, client()).await.expect("a handshake"), &new));
    files.write(&new);
    until("the new certificate", async || shows(&dial(direct, client()).await.expect("a handshake"), &new)).await;
    let id = server.publish("t", "still here").await;
    assert_eq!(stream.next().await.expect("an event").id, id);
}

/// Goal: SIGHUP reads the files at once. If they cannot be used, the old certificate stays, and the log says so.
#[tokio::test]
async fn files_that_cannot_be_used_leave_the_old_certificate() {
    let files = Files::new();
    let settings = files.settings();
    let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (*key, &**value)).collect();
    let mut server = Process::start(&settings).await;
    let client = || files.authority.client(&VERSIONS, None);
    let (first, second) = (files.authority.sign(&["127.0.0.1"], None), files.authority.sign(&["127.0.0.1"], None));
    files.write(&first);
    server.signal("HUP").await;
    let address = server.address;
    until("the first certificate", async || shows(&dial(address, client()).await.expect("a handshake"), &first)).await;
    // The key does not belong to the certificate.
    files.write(&Pair { cert: second.cert.clone(), key: first.key.clone() });
    server.signal("HUP").await;
    let report = server.until_reported("TLS goes on with the old files").await;
    assert!(report.contains("does not belong to the first certificate"), "{report}");
    assert!(shows(&dial(address, client()).await.expect("a handshake"), &first));
    files.write(&second);
    server.signal("HUP").await;
    until("the second certificate", async || shows(&dial(address, client()).await.expect("a handshake"), &second))
        .await;
}
