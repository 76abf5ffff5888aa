//! Reads the files of TLS: the server's certificate and key, and the authorities of client certificates.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rustls::{
    InconsistentKeys, RootCertStore, ServerConfig,
    crypto::aws_lc_rs::{Ticketer, default_provider},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use zeroize::Zeroizing;

/// The only protocol that is spoken inside TLS. A client that offers others, but not this one, is refused.
const ALPN: &[u8] = b"http/1.1";
/// How many bytes of a file are read at most: a wrong path must not fill the memory.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Where the files are.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
    pub(super) client_ca: Option<PathBuf>,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{key}: cannot read {}: {source}", path.display())]
    Unreadable {
        /// The key of the configuration that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A file does not have what it should have.
    #[error("{key}: {} has no {expected} in the format PEM", path.display())]
    NotPem {
        /// The key of the configuration that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What it should have.
        expected: &'static str,
    },
    /// The key belongs to another certificate.
    #[error(
        "server.tls_key: the key in {} does not belong to the first certificate in {} (server.tls_cert)",
        key.display(), cert.display()
    )]
    Mismatch {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// A certificate or the key cannot be used.
    #[error("{key}: {} cannot be used: {reason}", path.display())]
    Unusable {
        /// The key of the configuration that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// The state of a file: its time of change, its size and its inode; `None` for a file that is missing. A file whose
/// state is the same has not changed.
pub(super) type Stamp = Option<(SystemTime, u64, u64)>;

impl Files {
    /// The state of all files.
    pub(super) fn stamps(&self) -> Vec<Stamp> {
        let paths = [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()];
        let stamp = |path: &PathBuf| {
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
        };
        paths.into_iter().flatten().map(stamp).collect()
    }

    /// Reads the files.
    pub(super) fn load(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(default_provider());
        let chain = certificates("server.tls_cert", &self.cert)?;
        let key = private_key("server.tls_key", &self.key)?;
        let verifier = match &self.client_ca {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(path) => {
                let roots = authorities(CLIENT_CA, path)?.into();
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
                verifier.allow_unauthenticated().build().map_err(|error| unusable(CLIENT_CA, path, &error))?
            }
        };
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| unusable("server.tls_cert", &self.cert, &error))?;
        let mut config = builder.with_client_cert_verifier(verifier).with_single_cert(chain, key).map_err(|error| {
            if error == rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) {
                return TlsError::Mismatch { cert: self.cert.clone(), key: self.key.clone() };
            }
            unusable("server.tls_key", &self.key, &error)
        })?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A client that reconnects shows a ticket, and both sides save the expensive part of the handshake. The server
        // stores nothing for a ticket. Each load makes a new key for tickets, so an old ticket cannot replace a client
        // certificate that the new files would refuse.
        config.ticketer = Ticketer::new().map_err(|error| unusable("server.tls_key", &self.key, &error))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(config))
    }
}

/// Reads a private key. `key` is the key of the configuration that names the file.
pub(super) fn private_key(key: &'static str, path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = read(key, path)?;
    let mode = fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o077 != 0 {
        let path = path.display();
        tracing::warn!(%path, "other users of this machine may read the private key ({key}): chmod 600");
    }
    let expected = "private key without a password";
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| TlsError::NotPem { key, path: path.to_owned(), expected })
}

const CLIENT_CA: &str = "server.tls_client_ca";

/// Reads the certificates of authorities.
pub(super) fn authorities(key: &'static str, path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(key, path)? {
        roots.add(certificate).map_err(|error| unusable(key, path, &error))?;
    }
    Ok(roots)
}

pub(super) fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(key, path)?;
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.ok().filter(|certificates| !certificates.is_empty());
    certificates.ok_or_else(|| TlsError::NotPem { key, path: path.to_owned(), expected: "certificate" })
}

/// Reads a file. Its bytes are overwritten in memory when they are dropped.
fn read(key: &'static str, path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let read = || {
        let mut bytes = Zeroizing::new(Vec::new());
        fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source| TlsError::Unreadable { key, path: path.to_owned(), source })
}

pub(super) fn unusable(key: &'static str, path: &Path, error: &dyn std::error::Error) -> TlsError {
    TlsError::Unusable { key, path: path.to_owned(), reason: error.to_string() }
}
