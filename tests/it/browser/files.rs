//! Another site: a tiny server of fixed files, so on an origin of its own.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Path and content; what ends in `.js` is a script, anything else a page.
pub type Files = Vec<(&'static str, String)>;

/// Works while the test awaits; ends with the test.
pub struct Site {
    address: SocketAddr,
}

impl Site {
    pub async fn serve(files: Files) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let files = Arc::new(files);
        tokio::spawn(async move {
            // Each in a task of its own: browsers open connections ahead of their need, and say nothing on them.
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(answer(socket, Arc::clone(&files)));
            }
        });
        Self { address }
    }

    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn answer(mut socket: TcpStream, files: Arc<Files>) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        let mut buffer = [0; 4096];
        match socket.read(&mut buffer).await? {
            0 => return Ok(()),
            n => request.extend_from_slice(&buffer[..n]),
        }
    }
    let request = String::from_utf8_lossy(&request);
    let target = request.split(' ').nth(1).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    let (status, content) = match files.iter().find(|(name, _)| *name == path) {
        Some((_, content)) => ("200 OK", content.as_str()),
        // The icon that browsers ask every site for.
        None => ("204 No Content", ""),
    };
    let media_type = if path.ends_with(".js") { "text/javascript" } else { "text/html" };
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: {media_type}; charset=utf-8\r\nConnection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).await?;
    socket.write_all(content.as_bytes()).await?;
    socket.shutdown().await
}
