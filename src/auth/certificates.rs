//! Client certificates that give rights. TLS has verified a certificate before its subject is looked up here.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use super::{
    caller::{Caller, Verified},
    error::AuthConfigError,
    rights::Rights,
};
use crate::{
    config::{CERTIFICATE_KEY, CertificateConfig},
    identity::Identity,
    transport::ClientCertificate,
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
            let verified = Verified { identity, rights, limits, starts_at: None, expires_at: None };
            Ok((subject, Arc::new(verified)))
        };
        rows.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// The caller with this certificate; `None` if its subject has no row, or if the certificate has expired since TLS
    /// has verified it.
    pub(super) fn caller(&self, certificate: &ClientCertificate, now: SystemTime) -> Option<Caller> {
        let verified = self.0.get(&certificate.subject).filter(|_| now < certificate.expires_at)?;
        Some(Caller::certified(Arc::clone(verified), certificate.expires_at))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use serde_json::json;

    use super::*;
    use crate::auth::{Manage, Publish};

    #[test]
    fn a_certificate_counts_until_it_expires() {
        // Goal: the rights are those of the row until the very end of the validity, and none from then on.
        let row = json!({"subject": "app", "publish": ["users/{sub}"]});
        let row = serde_json::from_value::<CertificateConfig>(row).expect("a row");
        let certificates = Certificates::load(&[row]).expect("it can be read");
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        let of = |subject: &str| ClientCertificate { subject: subject.into(), expires_at: at(100) };
        let caller = certificates.caller(&of("app"), at(99)).expect("a caller");
        assert!(caller.may::<Publish>("users/app") && !caller.may::<Publish>("users/other"));
        assert!(caller.grant_all::<Manage>().is_err());
        assert_eq!(caller.valid_for(at(99)), Some(Duration::from_secs(1)));
        for (subject, seconds) in [("app", 100), ("app", 101), ("App", 99), ("app ", 99), ("", 99)] {
            assert!(certificates.caller(&of(subject), at(seconds)).is_none(), "{subject:?} {seconds}");
        }
    }
}
