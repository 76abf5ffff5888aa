//! A line between a browser and the server that a test can cut and restore.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Works while the test awaits; ends with the test.
pub struct Proxy {
    address: SocketAddr,
    up: watch::Sender<bool>,
    sent: Arc<Mutex<Vec<u8>>>,
}

impl Proxy {
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (up, line) = watch::channel(true);
        let sent = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&sent);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (mut line, record) = (line.clone(), Arc::clone(&record));
                tokio::spawn(async move {
                    // Both sockets are dropped with the future that loses: the line is cut in the middle of anything.
                    tokio::select! {
                        _ = line.wait_for(|up| !up) => {}
                        _ = carry(socket, server, &record) => {}
                    }
                });
            }
        });
        Self { address, up, sent }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Ends every connection, and each new one at once.
    pub fn cut(&self) {
        self.up.send_replace(false);
    }

    pub fn restore(&self) {
        self.up.send_replace(true);
    }

    /// All that was sent to the server so far.
    pub fn sent(&self) -> String {
        String::from_utf8_lossy(&self.sent.lock().expect("a whole record")).into_owned()
    }
}

async fn carry(mut browser: TcpStream, server: SocketAddr, record: &Mutex<Vec<u8>>) -> std::io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    let (mut from_browser, mut to_browser) = browser.split();
    let (mut from_server, mut to_server) = server.split();
    let requests = async {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let n = from_browser.read(&mut buffer).await?;
            if n == 0 {
                return to_server.shutdown().await;
            }
            record.lock().expect("a whole record").extend_from_slice(&buffer[..n]);
            to_server.write_all(&buffer[..n]).await?;
        }
    };
    let answers = async {
        copy(&mut from_server, &mut to_browser).await?;
        to_browser.shutdown().await
    };
    // A stream ends with the server's side of the connection, whatever the browser's side still could say.
    tokio::select! {
        result = answers => result,
        Err(error) = requests => Err(error),
    }
}
