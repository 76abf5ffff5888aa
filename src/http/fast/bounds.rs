//! The limits of a request that the fast path reads. The fallback has the same limits for a head.

/// The longest request with a body that the fast path serves itself, head and body. Longer ones are rare, and go to the
/// fallback.
pub(super) const BYTES_MAX: usize = 32 << 10;
/// The longest head.
pub(super) const HEAD_BYTES_MAX: usize = 128 << 10;
/// The longest target, percent-encoded: that of the `http` crate, which the fallback uses.
pub(super) const TARGET_BYTES_MAX: usize = 65_534;
/// The most headers of a request. A browser sends about fifteen.
pub(super) const HEADERS_MAX: usize = 96;
/// The longest name of a header: that of the `http` crate. The fallback panics at a longer one.
pub(super) const NAME_BYTES_MAX: usize = 65_535;
