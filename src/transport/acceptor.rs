//! Begins TLS on new connections, with the files as they were when they were last read.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use rustls::ServerConfig as TlsConfig;

use super::{
    certificates::{Files, Stamp, TlsError},
    session::Session,
};
use crate::config::ServerConfig;

/// Begins TLS on new connections, if it is configured. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Acceptor(Option<Arc<Tls>>);

#[derive(Debug)]
struct Tls {
    files: Files,
    config: ArcSwap<TlsConfig>,
    changes: Mutex<Changes>,
}

/// Which states of the files are known.
#[derive(Debug)]
struct Changes {
    /// The state of the files when they were last read.
    loaded: Vec<Stamp>,
    /// The state of the files at the last check.
    seen: Vec<Stamp>,
}

impl Acceptor {
    /// Reads the files of TLS. Without `server.tls_cert`, connections are not encrypted.
    ///
    /// # Errors
    /// When a file cannot be read, or does not have what it should have.
    pub fn load(config: &ServerConfig) -> Result<Self, TlsError> {
        let Some((cert, key)) = config.tls_cert.clone().zip(config.tls_key.clone()) else { return Ok(Self(None)) };
        let files = Files { cert, key, client_ca: config.tls_client_ca.clone() };
        let stamps = files.stamps();
        let config = ArcSwap::new(files.load()?);
        let changes = Mutex::new(Changes { loaded: stamps.clone(), seen: stamps });
        Ok(Self(Some(Arc::new(Tls { files, config, changes }))))
    }

    /// Whether connections are encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.0.is_some()
    }

    /// The session of a new connection; `None` if connections are not encrypted.
    pub(super) fn session(&self) -> io::Result<Option<Box<Session>>> {
        let Some(tls) = &self.0 else { return Ok(None) };
        Session::new(tls.config.load_full()).map(Box::new).map(Some)
    }

    /// Reads the files again. If they cannot be used, the old ones stay. Connections that are open stay as they are.
    pub fn reload(&self) {
        let Some(tls) = &self.0 else { return };
        let stamps = tls.files.stamps();
        match tls.files.load() {
            Ok(config) => {
                tls.config.store(config);
                tracing::info!("the files of TLS have been read again: new connections use them");
            }
            Err(error) => tracing::error!(%error, "TLS goes on with the old files"),
        }
        *tls.changes() = Changes { loaded: stamps.clone(), seen: stamps };
    }

    /// Reads the files again if they have changed. This is called regularly.
    pub fn reload_if_changed(&self) {
        let Some(tls) = &self.0 else { return };
        let stamps = tls.files.stamps();
        let mut changes = tls.changes();
        // A certificate and its key are two files, and do not match while a tool still writes one of them. So the files
        // are read only if they have not changed since the last check.
        let is_settled = stamps == changes.seen;
        let has_changed = stamps != changes.loaded;
        changes.seen = stamps;
        drop(changes);
        if has_changed && is_settled {
            self.reload();
        }
    }
}

impl Tls {
    fn changes(&self) -> std::sync::MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
