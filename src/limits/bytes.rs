//! The budget for the bytes of all requests that are being received or processed.
//!
//! A request reserves bytes before it allocates memory for them. So it never uses more memory than its permit covers,
//! except for [`UNCOUNTED_MAX`].

use std::{net::IpAddr, sync::Arc};

use super::quota::{Excess, Quota, network};
use crate::config::LimitsConfig;

/// A request up to this size does not count. The limits on connections bound such requests. And a client that uses up
/// the budget must not block small requests, such as health checks.
pub const UNCOUNTED_MAX: usize = 4 << 10;

/// Counts the bytes of requests.
#[derive(Debug)]
pub struct RequestBytes(Quota);

/// The bytes that one request has reserved. Dropping the permit releases them.
#[derive(Debug)]
pub struct BytesPermit {
    budget: Arc<RequestBytes>,
    ip: Option<IpAddr>,
    reserved: usize,
}

/// The limit that a request would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooManyBytes {
    /// `limits.request_bytes_in_flight_max`.
    #[error("the requests in progress have reached the server's limit of {max} bytes")]
    Overall {
        /// The limit.
        max: usize,
    },
    /// `limits.request_bytes_in_flight_per_ip_max`.
    #[error("the requests in progress from your address have reached its limit of {max} bytes")]
    PerIp {
        /// The limit.
        max: usize,
    },
}

impl RequestBytes {
    /// The budget, with nothing reserved.
    #[must_use]
    pub fn new(limits: &LimitsConfig) -> Arc<Self> {
        let (all, per_ip) = (limits.request_bytes_in_flight_max, limits.request_bytes_in_flight_per_ip_max);
        Arc::new(Self(Quota::new(all.to_usize(), per_ip.to_usize())))
    }

    /// How many bytes are reserved.
    #[must_use]
    pub fn reserved(&self) -> usize {
        self.0.reserved()
    }

    /// Returns a permit for a request from `ip`, which covers no bytes yet.
    #[must_use]
    pub fn permit(self: &Arc<Self>, ip: Option<IpAddr>) -> BytesPermit {
        BytesPermit { budget: Arc::clone(self), ip: ip.map(network), reserved: 0 }
    }
}

impl BytesPermit {
    /// Makes the permit cover `bytes`. That may be more or fewer than before.
    ///
    /// # Errors
    /// When that would exceed a limit. Then the permit covers as many as before.
    pub fn cover(&mut self, bytes: usize) -> Result<(), TooManyBytes> {
        let bytes = if bytes <= UNCOUNTED_MAX { 0 } else { bytes };
        let quota = &self.budget.0;
        if bytes <= self.reserved {
            quota.release(self.ip, self.reserved - bytes);
        } else {
            quota.reserve(self.ip, bytes - self.reserved).map_err(|excess| match excess {
                Excess::Overall => TooManyBytes::Overall { max: quota.all_max },
                Excess::PerIp => TooManyBytes::PerIp { max: quota.per_ip_max },
            })?;
        }
        self.reserved = bytes;
        Ok(())
    }
}

impl Drop for BytesPermit {
    fn drop(&mut self) {
        self.budget.0.release(self.ip, self.reserved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Size;

    #[test]
    fn a_permit_grows_and_shrinks_and_releases_its_bytes_when_dropped() {
        let limits = LimitsConfig {
            request_bytes_in_flight_max: Size::new(100_000),
            request_bytes_in_flight_per_ip_max: Size::new(60_000),
            ..LimitsConfig::default()
        };
        let bytes = RequestBytes::new(&limits);
        let mut permit = bytes.permit(Some(IpAddr::from([10, 0, 0, 1])));
        assert_eq!(permit.cover(60_000), Ok(()));
        assert_eq!(permit.cover(60_001), Err(TooManyBytes::PerIp { max: 60_000 }));
        let mut other = bytes.permit(Some(IpAddr::from([10, 0, 0, 2])));
        assert_eq!(other.cover(40_000), Ok(()));
        assert_eq!(other.cover(40_001), Err(TooManyBytes::Overall { max: 100_000 }));
        let mut small = bytes.permit(Some(IpAddr::from([10, 0, 0, 3])));
        assert_eq!(small.cover(UNCOUNTED_MAX), Ok(()));
        assert_eq!(small.cover(UNCOUNTED_MAX + 1), Err(TooManyBytes::Overall { max: 100_000 }));
        assert_eq!((permit.cover(10_000), other.cover(60_000)), (Ok(()), Ok(())));
        assert_eq!(bytes.reserved(), 70_000);
        assert_eq!((permit.cover(UNCOUNTED_MAX), bytes.reserved()), (Ok(()), 60_000));
        drop((permit, other));
        assert_eq!(bytes.reserved(), 0);
    }
}
