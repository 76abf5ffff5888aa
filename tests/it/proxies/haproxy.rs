//! The recipe for `HAProxy` in `docs/operating.md`, as it is printed, with a real `HAProxy` in front of the server.
//!
//! Without `HAProxy` this test is left out and says so; `tests/run` installs it and makes leaving out a failure.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use tokio::{io::AsyncWriteExt as _, net::TcpSocket};

use super::{KEY, with_key};
use crate::harness::{
    Stream, TestServer,
    blocking::Directory,
    tools::{installed, left_out},
    until,
};

/// A process; killed with the value.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Fails when it has ended already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Subscribes from `address`, with a made-up address of a client.
async fn subscribe(proxy: SocketAddr, address: &str) -> Stream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(address.parse().expect("an address"), 0)).expect("a local address");
    let mut socket = socket.connect(proxy).await.expect("a connection");
    let head = "GET /subscribe?topic=a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    let request = format!("{head}{KEY}X-Forwarded-For: {address}9\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("the request is sent");
    Stream::receive(socket).await
}

#[tokio::test]
async fn clients_count_by_their_own_addresses_behind_the_recipe() {
    // Goal: with one subscriber allowed from each address, clients behind HAProxy do not share the limit of its address.
    let Some(program) = installed("haproxy") else { return left_out("no haproxy (tests/run installs it)") };
    let server = TestServer::with(|config| {
        with_key(config);
        config.limits.connections_per_ip_max = 1;
        config.server.trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
    });
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operating.md")).expect("a page");
    let recipe = page.split("```haproxy\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a recipe");
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("an address");
    drop(free);
    assert!(recipe.contains("bind :80\n") && recipe.contains("127.0.0.1:8080"), "{recipe}");
    let text = recipe.replace("bind :80\n", &format!("bind {address}\n"));
    let text = text.replace("127.0.0.1:8080", &server.address.to_string());
    let directory = Directory::new();
    let file = directory.0.join("haproxy.cfg");
    std::fs::write(&file, text).expect("a file");
    let mut command = Command::new(program);
    command.arg("-f").arg(&file).stdin(Stdio::null()).stdout(Stdio::null());
    let _haproxy = Killed(command.spawn().expect("HAProxy starts"));
    until("HAProxy to listen", async || TcpStream::connect(address).is_ok()).await;
    let first = subscribe(address, "127.0.0.2").await;
    assert_eq!(first.status, 200);
    assert_eq!(subscribe(address, "127.0.0.2").await.status, 429, "it is the same client");
    assert_eq!(subscribe(address, "127.0.0.3").await.status, 200, "it is another client");
    drop(first);
    server.until_subscribers("a", 0).await;
}
