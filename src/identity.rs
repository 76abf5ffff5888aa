//! Who a request or a stream belongs to.

/// The identity that a verified credential gives. An anonymous caller has none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The `id` of the key that has signed the token, or the `name` of the API key. All client certificates have the
    /// same value here, which no key may have as its `id` or `name`.
    pub key: Box<str>,
    /// The subject of the token (`sub`, RFC 7519, section 4.1.2) or of the certificate.
    pub subject: Option<Box<str>>,
}
