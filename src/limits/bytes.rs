//! The bytes of requests that are being received and read: one budget for all of them.
//!
//! Bytes are taken before the memory for them is: what a request holds is never more than its permit says, but for
//! [`UNCOUNTED_MAX`].

use std::{net::IpAddr, sync::Arc};

use super::quota::{Excess, Quota, network};
use crate::config::LimitsConfig;

/// Up to so many bytes of a request are not counted: the limits on connections bound them, and whoever uses up the
/// budget must not stop small requests, above all those that ask for the server's health.
pub const UNCOUNTED_MAX: usize = 4 << 10;

/// Counts the bytes.
#[derive(Debug)]
pub struct RequestBytes(Quota);

/// So many bytes of one request; given back on drop.
#[derive(Debug)]
pub struct BytesPermit {
    of: Arc<RequestBytes>,
    ip: Option<IpAddr>,
    held: usize,
}

/// Which limit a request would pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooManyBytes {
    /// `limits.request_bytes_in_flight_max`.
    #[error("the server receives as many bytes at once as it may ({max})")]
    Overall {
        /// The limit.
        max: usize,
    },
    /// `limits.request_bytes_in_flight_per_ip_max`.
    #[error("your address sends as many bytes at once as it may ({max})")]
    PerIp {
        /// The limit.
        max: usize,
    },
}

impl RequestBytes {
    /// None yet.
    #[must_use]
    pub fn new(limits: &LimitsConfig) -> Arc<Self> {
        let (all, per_ip) = (limits.request_bytes_in_flight_max, limits.request_bytes_in_flight_per_ip_max);
        Arc::new(Self(Quota::new(all.to_usize(), per_ip.to_usize())))
    }

    /// Bytes that permits hold.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.0.taken()
    }

    /// A permit for no bytes yet, for a request from `ip`.
    #[must_use]
    pub fn permit(self: &Arc<Self>, ip: Option<IpAddr>) -> BytesPermit {
        BytesPermit { of: Arc::clone(self), ip: ip.map(network), held: 0 }
    }
}

impl BytesPermit {
    /// Has the permit cover `bytes`, whether more than before or fewer.
    ///
    /// # Errors
    /// When more would pass a limit; it covers what it did.
    pub fn cover(&mut self, bytes: usize) -> Result<(), TooManyBytes> {
        let bytes = if bytes <= UNCOUNTED_MAX { 0 } else { bytes };
        let quota = &self.of.0;
        if bytes <= self.held {
            quota.give(self.ip, self.held - bytes);
        } else {
            quota.take(self.ip, bytes - self.held).map_err(|excess| match excess {
                Excess::Overall => TooManyBytes::Overall { max: quota.all_max },
                Excess::PerIp => TooManyBytes::PerIp { max: quota.per_ip_max },
            })?;
        }
        self.held = bytes;
        Ok(())
    }
}

impl Drop for BytesPermit {
    fn drop(&mut self) {
        self.of.0.give(self.ip, self.held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Size;

    #[test]
    fn a_permit_grows_and_shrinks_and_gives_back_what_it_holds() {
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
        assert_eq!(bytes.taken(), 70_000);
        assert_eq!((permit.cover(UNCOUNTED_MAX), bytes.taken()), (Ok(()), 60_000));
        drop((permit, other));
        assert_eq!(bytes.taken(), 0);
    }
}
