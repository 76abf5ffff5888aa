//! Why the log cannot be opened, or filled by an import.

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

/// Why a log cannot be imported into the stream.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The stream cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// NATS does not answer, or stores nothing.
    #[error("NATS stores nothing: {0}; run the same command again when it does, and the import goes on where it was")]
    Unreachable(String),
    /// NATS has no space.
    #[error("NATS has no space: {0}; give it more, run the same command again, and the import goes on where it was")]
    Full(String),
    /// The stream has events that are not of the imported log.
    #[error(
        "the stream {name} is in use: its last of {messages} messages is not of this log; choose another \
         cluster.namespace, or remove the stream with all its events (nats stream rm {name})"
    )]
    InUse {
        /// The name of the stream.
        name: String,
        /// How many messages it has.
        messages: u64,
    },
    /// Another program writes to the stream.
    #[error(
        "another program writes to the stream {name}, at position {position}; stop all Tidings servers of the cluster, \
         remove the stream (nats stream rm {name}), and import again"
    )]
    Foreign {
        /// The name of the stream.
        name: String,
        /// The position of the message that this import has not sent.
        position: u64,
    },
    /// The stream is not the one that the import began with.
    #[error("the stream {0} was removed or made anew during the import; run the same command again")]
    Replaced(String),
}
