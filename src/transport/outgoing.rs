//! TLS of connections that the server itself opens: whether the files can be used. The client library reads them again
//! for each connection.

use std::{path::Path, sync::Arc};

use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs::default_provider};

use super::certificates::{TlsError, authorities, certificates, private_key, unusable};
use crate::config::ClusterConfig;

/// Checks the files of TLS in `[cluster]`.
///
/// # Errors
/// When a file cannot be read, or does not have what it should have.
pub fn check_outgoing(config: &ClusterConfig) -> Result<(), TlsError> {
    let roots = match &config.tls_ca {
        Some(path) => authorities("cluster.tls_ca", path)?,
        None => RootCertStore::empty(),
    };
    if let Some((cert, key)) = config.tls_cert.as_ref().zip(config.tls_key.as_ref()) {
        check_pair(roots, cert, key)?;
    }
    Ok(())
}

/// Checks a client certificate and its key.
fn check_pair(roots: RootCertStore, cert: &Path, key: &Path) -> Result<(), TlsError> {
    let (chain, private_key) = (certificates("cluster.tls_cert", cert)?, private_key("cluster.tls_key", key)?);
    let builder =
        ClientConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| unusable("cluster.tls_cert", cert, &error))?.with_root_certificates(roots);
    let pair = builder.with_client_auth_cert(chain, private_key);
    pair.map(drop).map_err(|error| unusable("cluster.tls_key", key, &error))
}
