//! Limits on what clients may use: permits for connections, bytes and topics, rates, and a reserve of descriptors.

// Each file uses only files below it.
mod rates;
mod own_streams;
mod permits;
mod network;
mod descriptors;

pub use descriptors::DescriptorReserve;
pub use network::network;
pub use own_streams::{OwnStreamPermit, OwnStreams};
pub use permits::{BytesPermit, LimitReached, Permit, Quota, UNCOUNTED_MAX};
pub use rates::{Attempt, Rate, RateError, Rates, Used};
