//! Why the log cannot be opened.

use std::{io, path::PathBuf};

use crate::transport::TlsError;

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The server of NATS is too old.
    #[error("NATS {0} is too old: the metadata of streams, which hold the epoch, came with 2.10")]
    Version(String),
    /// NATS does not accept the credentials.
    #[error("NATS refuses the connection: {0}; see cluster.credentials_file")]
    Denied(String),
    /// The stream is another one than this configuration needs.
    #[error("the stream {name} cannot be used: {differences}")]
    Stream {
        /// The name of the stream.
        name: String,
        /// What is different.
        differences: String,
    },
    /// The file with the credentials cannot be read.
    #[error("{path}: {source}")]
    Credentials {
        /// The configured file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The files of TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The system cannot create the thread of the engine, or what the thread needs.
    #[error("the thread of the log cannot be started: {0}")]
    Thread(#[source] io::Error),
}
