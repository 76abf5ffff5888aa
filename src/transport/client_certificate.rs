//! What a client's certificate says, once TLS has verified it.

use std::{sync::Arc, time::SystemTime};

use rustls::pki_types::CertificateDer;
use simple_asn1::{ASN1Block, from_der};
use webpki::EndEntityCert;

use super::subject::subject;

/// What a client's certificate says, once TLS has verified it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The common name of its subject, otherwise its first DNS name.
    pub subject: Box<str>,
    /// Until when it is valid (`notAfter`, RFC 5280, section 4.1.2.5).
    pub expires_at: SystemTime,
}

impl ClientCertificate {
    /// Reads a verified certificate. `None` if it names nobody, or if the end of its validity cannot be read: without
    /// an end, it would give its rights for ever.
    pub(super) fn read(der: &CertificateDer<'_>) -> Option<Arc<Self>> {
        let certificate = EndEntityCert::try_from(der).ok()?;
        let (subject, expires_at) = (subject(&certificate)?, expires_at(der, certificate.issuer())?);
        Some(Arc::new(Self { subject, expires_at }))
    }
}

/// The end of the validity. `issuer` is a part of `der`, and the validity follows it (RFC 5280, section 4.1).
fn expires_at(der: &[u8], issuer: &[u8]) -> Option<SystemTime> {
    let start = issuer.as_ptr().addr().checked_sub(der.as_ptr().addr())?.checked_add(issuer.len())?;
    let rest = der.get(start..)?;
    // The validity is a tag of one byte, a length, and two times. These have less than 128 bytes, so the length is one
    // byte, too.
    let validity = rest.get(..2 + usize::from(*rest.get(1)?))?;
    let blocks = from_der(validity).ok()?;
    let [ASN1Block::Sequence(_, times)] = blocks.as_slice() else { return None };
    match times.as_slice() {
        [_, ASN1Block::UTCTime(_, until) | ASN1Block::GeneralizedTime(_, until)] => Some(until.assume_utc().into()),
        _ => None,
    }
}
