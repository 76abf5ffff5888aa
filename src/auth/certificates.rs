//! Client certificates that give rights. TLS has verified a certificate before its subject is looked up here.

use std::{collections::HashMap, sync::Arc};

use super::{
    caller::{Caller, Verified},
    error::AuthConfigError,
    rights::Rights,
};
use crate::{
    config::{CERTIFICATE_KEY, CertificateConfig},
    identity::Identity,
};

/// What the certificate of each subject gives.
#[derive(Default)]
pub(super) struct Certificates(HashMap<Box<str>, Arc<Verified>>);

impl Certificates {
    /// Reads the rows of `auth.certificates`.
    pub(super) fn load(rows: &[CertificateConfig]) -> Result<Self, AuthConfigError> {
        let read = |row: &CertificateConfig| {
            let subject: Box<str> = row.subject.as_str().into();
            let rights = Rights::parse([&row.publish, &row.subscribe, &row.manage], Some(&subject));
            let rights =
                rights.map_err(|error| AuthConfigError::Certificate { subject: row.subject.clone(), error })?;
            let identity = Arc::new(Identity { key: CERTIFICATE_KEY.into(), subject: Some(subject.clone()) });
            let limits = row.limits();
            // The connection has a time limit of its own, if any, not the certificate.
            let verified = Verified { identity, rights, limits, starts_at: None, expires_at: None };
            Ok((subject, Arc::new(verified)))
        };
        rows.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// The caller with a certificate of `subject`; `None` if the subject has no row.
    pub(super) fn caller(&self, subject: &str) -> Option<Caller> {
        self.0.get(subject).map(|verified| Caller::verified(Arc::clone(verified)))
    }
}
