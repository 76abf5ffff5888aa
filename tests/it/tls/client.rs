//! Certificates for tests, and clients that speak TLS.

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tidings::config::Config;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, SupportedProtocolVersion,
        crypto::aws_lc_rs::default_provider,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    },
};

use crate::harness::{TestServer, blocking::Directory};

/// An authority that signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, as PEM.
pub struct Pair {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "the authority");
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Signs a certificate for `names`, whose subject has the common name `subject`, if any.
    pub fn sign(&self, names: &[&str], subject: Option<&str>) -> Pair {
        self.sign_until(names, subject, None)
    }

    /// As [`sign`](Self::sign). The certificate is valid until `expires_at`, in whole seconds.
    pub fn sign_until(&self, names: &[&str], subject: Option<&str>, expires_at: Option<SystemTime>) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(subject) = subject {
            params.distinguished_name.push(DnType::CommonName, subject);
        }
        if let Some(expires_at) = expires_at {
            params.not_after = expires_at.into();
        }
        let key = KeyPair::generate().expect("a key");
        Pair { cert: params.signed_by(&key, &self.issuer).expect("a certificate").pem(), key: key.serialize_pem() }
    }

    /// What a client of this authority's servers has.
    pub fn client(&self, versions: &[&'static SupportedProtocolVersion], own: Option<&Pair>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("PEM")).expect("a certificate");
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(versions).expect("versions").with_root_certificates(roots);
        let Some(own) = own else { return builder.with_no_client_auth() };
        let chain = CertificateDer::pem_slice_iter(own.cert.as_bytes()).map(|cert| cert.expect("PEM")).collect();
        let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("PEM");
        builder.with_client_auth_cert(chain, key).expect("a pair")
    }
}

/// The files of TLS in a directory.
pub struct Files {
    directory: Directory,
    pub authority: Authority,
}

impl Files {
    /// A certificate for `127.0.0.1` and `localhost`.
    pub fn new() -> Self {
        let files = Self { directory: Directory::new(), authority: Authority::new() };
        files.write(&files.authority.sign(&["127.0.0.1", "localhost"], None));
        std::fs::write(files.path("ca.pem"), &files.authority.pem).expect("it is written");
        files
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.0.join(name)
    }

    /// Replaces the certificate and the key.
    pub fn write(&self, pair: &Pair) {
        write_private(&self.path("key.pem"), &pair.key);
        std::fs::write(self.path("cert.pem"), &pair.cert).expect("it is written");
    }

    /// Makes a server use them.
    pub fn configure(&self, config: &mut Config) {
        config.server.tls_cert = Some(self.path("cert.pem"));
        config.server.tls_key = Some(self.path("key.pem"));
    }

    /// The same as environment variables.
    pub fn settings(&self) -> [(&'static str, String); 2] {
        let path = |name: &str| self.path(name).to_string_lossy().into_owned();
        [("TIDINGS__SERVER__TLS_CERT", path("cert.pem")), ("TIDINGS__SERVER__TLS_KEY", path("key.pem"))]
    }
}

fn write_private(path: &Path, text: &str) {
    std::fs::write(path, text).expect("it is written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("its mode is set");
}

/// Connects and makes the handshake.
pub async fn dial(server: SocketAddr, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(server).await?;
    socket.set_nodelay(true)?;
    let name = ServerName::from(server.ip());
    TlsConnector::from(Arc::new(config)).connect(name, socket).await
}

/// A port that speaks without TLS, for clients that know no TLS, and passes all bytes to `server` inside TLS.
pub async fn bridge(server: SocketAddr, config: ClientConfig) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let config = config.clone();
            tokio::spawn(async move {
                // An error is an end that was not clean: the client sees a reset, not an end.
                let passed = async {
                    let mut tls = dial(server, config).await?;
                    copy_bidirectional(&mut client, &mut tls).await
                };
                if passed.await.is_err() {
                    client.set_zero_linger().ok();
                }
            });
        }
    });
    address
}

/// A server that speaks TLS. Its address is that of a bridge, so that all clients of the harness can use it.
pub async fn server(
    files: &Files,
    version: &'static SupportedProtocolVersion,
    configure: impl FnOnce(&mut Config),
) -> TestServer {
    let mut server = TestServer::with(|config| {
        files.configure(config);
        configure(config);
    });
    server.address = bridge(server.address, files.authority.client(&[version], None)).await;
    server
}
