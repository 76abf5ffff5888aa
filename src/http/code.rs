//! The codes of problems: one table with the name, the status and the meaning of each.

use actix_http::StatusCode;

/// Why a request is refused. Clients depend on its name and its status, so these must not change.
///
/// [`Code::meaning`] explains each code. The table of errors in docs/api.md is generated from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the table below has the meaning of each")]
pub enum Code {
    TopicMissing,
    ContentMissing,
    BadTopic,
    BadEvent,
    BadEncoding,
    BadUtf8,
    BadJson,
    BadBody,
    UnknownParameter,
    BadRequest,
    BadParameter,
    Repeated,
    BadIdempotencyKey,
    TooManyTopicsNamed,
    Unauthorized,
    Forbidden,
    CrossSite,
    NotFound,
    TopicUnknown,
    SubscriberUnknown,
    MethodNotAllowed,
    HeadTimeout,
    BodyTimeout,
    IdempotencyKeyReused,
    Gap,
    TooLarge,
    UriTooLong,
    UnsupportedMediaType,
    Misdirected,
    RateLimited,
    TooManyConnectionsPerIp,
    TooManySubscribersOfToken,
    TooManyRequestBytesPerIp,
    TooManyPendingConnectionsPerIp,
    TooManyTopicsPerIp,
    TooManyTicketsPerKey,
    HeadersTooLarge,
    TooManyConnections,
    TooManyRequestBytes,
    TooManyPendingConnections,
    TooManyOpenFiles,
    TooManySubscribers,
    TooManyTopics,
    TooManyTickets,
    Draining,
    Unavailable,
    QueueFull,
    OutcomeUnknown,
    DiskFull,
}

impl Code {
    /// All codes, in the order of docs/api.md.
    pub const ALL: &[Self] = &[
        Self::TopicMissing,
        Self::ContentMissing,
        Self::BadTopic,
        Self::BadEvent,
        Self::BadEncoding,
        Self::BadUtf8,
        Self::BadJson,
        Self::BadBody,
        Self::UnknownParameter,
        Self::BadRequest,
        Self::BadParameter,
        Self::Repeated,
        Self::BadIdempotencyKey,
        Self::TooManyTopicsNamed,
        Self::Unauthorized,
        Self::Forbidden,
        Self::CrossSite,
        Self::NotFound,
        Self::TopicUnknown,
        Self::SubscriberUnknown,
        Self::MethodNotAllowed,
        Self::HeadTimeout,
        Self::BodyTimeout,
        Self::IdempotencyKeyReused,
        Self::Gap,
        Self::TooLarge,
        Self::UriTooLong,
        Self::UnsupportedMediaType,
        Self::Misdirected,
        Self::RateLimited,
        Self::TooManyConnectionsPerIp,
        Self::TooManySubscribersOfToken,
        Self::TooManyRequestBytesPerIp,
        Self::TooManyPendingConnectionsPerIp,
        Self::TooManyTopicsPerIp,
        Self::TooManyTicketsPerKey,
        Self::HeadersTooLarge,
        Self::TooManyConnections,
        Self::TooManyRequestBytes,
        Self::TooManyPendingConnections,
        Self::TooManyOpenFiles,
        Self::TooManySubscribers,
        Self::TooManyTopics,
        Self::TooManyTickets,
        Self::Draining,
        Self::Unavailable,
        Self::QueueFull,
        Self::OutcomeUnknown,
        Self::DiskFull,
    ];

    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The status of a response with this code.
    #[must_use]
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.row().1).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// What it means, for docs/api.md.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        self.row().2
    }

    /// The name, the status and the meaning.
    #[rustfmt::skip]
    const fn row(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::TopicMissing => ("topic_missing", 400, "the request names no topic"),
            Self::ContentMissing => ("content_missing", 400, "the request has no content (an empty one is allowed)"),
            Self::BadTopic => ("bad_topic", 400, "the topic is empty, too long, or has control characters"),
            Self::BadEvent => ("bad_event", 400, "the event's name is too long, reserved, or has control characters"),
            Self::BadEncoding => ("bad_encoding", 400, "the percent-encoding cannot be read"),
            Self::BadUtf8 => ("bad_utf8", 400, "the address, a field or the body is not UTF-8"),
            Self::BadJson => ("bad_json", 400, "the JSON body cannot be read"),
            Self::BadBody => ("bad_body", 400, "the body broke off, or its chunks cannot be read"),
            Self::UnknownParameter => ("unknown_parameter", 400, "the parameter is unknown, and looks like a known one; see `detail`"),
            Self::BadRequest => ("bad_request", 400, "the request is not valid HTTP/1.1, or two servers could read it in different ways"),
            Self::BadParameter => ("bad_parameter", 400, "a value is not allowed, or two exclude each other"),
            Self::Repeated => ("repeated", 400, "a parameter is given more than once"),
            Self::BadIdempotencyKey => ("bad_idempotency_key", 400,
                "`Idempotency-Key` is empty, too long, or has other than printable ASCII characters"),
            Self::TooManyTopicsNamed => ("too_many_topics_named", 400,
                "the request names more topics than `limits.topics_per_request_max`, a rate, or the room for tickets allows"),
            Self::Unauthorized => ("unauthorized", 401,
                "there is no token and one is needed, or the token or ticket is not valid; see `WWW-Authenticate`"),
            Self::Forbidden => ("forbidden", 403, "the token or ticket does not give the `right` to the `topic`"),
            Self::CrossSite => ("cross_site", 403, "a page of another site, which is not in `cors.origins`, may not publish, delete or take a ticket"),
            Self::NotFound => ("not_found", 404, "there is nothing at this address"),
            Self::TopicUnknown => ("topic_unknown", 404, "the server does not know the topic"),
            Self::SubscriberUnknown => ("subscriber_unknown", 404,
                "there is no subscriber with this id; its stream may have ended"),
            Self::MethodNotAllowed => ("method_not_allowed", 405, "the address has other methods; see `Allow`"),
            Self::HeadTimeout => ("head_timeout", 408, "the head of a request took longer than `server.head_timeout`"),
            Self::BodyTimeout => ("body_timeout", 408, "the body took longer than `publish.body_timeout`"),
            Self::IdempotencyKeyReused => ("idempotency_key_reused", 409, "the key was used with another event"),
            Self::Gap => ("gap", 410, "`on_gap=fail` was asked for, and there is a gap; see `reason`"),
            Self::TooLarge => ("too_large", 413, "the content or the body has more than `limit` bytes"),
            Self::UriTooLong => ("uri_too_long", 414, "the percent-encoded path and query have more than 65,534 bytes"),
            Self::UnsupportedMediaType => ("unsupported_media_type", 415,
                "the body is multipart, compressed, in another charset than UTF-8, or not JSON where it must be"),
            Self::Misdirected => ("misdirected", 421, "the server does not answer to this host name; see `server.hosts`"),
            Self::RateLimited => ("rate_limited", 429, "a rate in `limits` is used up; see `limit` and `Retry-After`"),
            Self::TooManyConnectionsPerIp => ("too_many_connections_per_ip", 429,
                "`limits.connections_per_ip_max` is reached; see `Retry-After`"),
            Self::TooManySubscribersOfToken => ("too_many_subscribers_of_token", 429,
                "the token's own `subscribers_max` is reached; see `Retry-After`"),
            Self::TooManyRequestBytesPerIp => ("too_many_request_bytes_per_ip", 429,
                "`limits.request_bytes_in_flight_per_ip_max` is reached; see `Retry-After`"),
            Self::TooManyPendingConnectionsPerIp => ("too_many_pending_connections_per_ip", 429,
                "`limits.pending_connections_per_ip_max` is reached; see `Retry-After`"),
            Self::TooManyTopicsPerIp => ("too_many_topics_per_ip", 429, "`limits.topics_per_ip_max` is reached; see `Retry-After`"),
            Self::TooManyTicketsPerKey => ("too_many_tickets_per_key", 429, "`auth.tickets_per_key_max` is reached; see `Retry-After`"),
            Self::HeadersTooLarge => ("headers_too_large", 431,
                "the head of the request has more than 128 KiB or 96 headers"),
            Self::TooManyConnections => ("too_many_connections", 503,
                "`limits.connections_max` is reached; see `Retry-After`"),
            Self::TooManyRequestBytes => ("too_many_request_bytes", 503,
                "`limits.request_bytes_in_flight_max` is reached; see `Retry-After`"),
            Self::TooManyPendingConnections => ("too_many_pending_connections", 503,
                "`limits.pending_connections_max` is reached; see `Retry-After`"),
            Self::TooManyOpenFiles => ("too_many_open_files", 503, "the limit of open files is reached; see `Retry-After`"),
            Self::TooManySubscribers => ("too_many_subscribers", 503,
                "`limits.subscribers_per_topic_max` is reached; see `Retry-After`"),
            Self::TooManyTopics => ("too_many_topics", 503, "`limits.topics_max` is reached; see `Retry-After`"),
            Self::TooManyTickets => ("too_many_tickets", 503, "`auth.tickets_max` is reached; see `Retry-After`"),
            Self::Draining => ("draining", 503, "the server is shutting down; nothing is published or deleted"),
            Self::Unavailable => ("unavailable", 503,
                "the server cannot do it at the moment; nothing is published or deleted"),
            Self::QueueFull => ("queue_full", 503, "`log.queue_bytes_max` is reached; nothing is published or deleted"),
            Self::OutcomeUnknown => ("outcome_unknown", 503,
                "it may have been done; to be sure, retry (a publish with the same `Idempotency-Key`)"),
            Self::DiskFull => ("disk_full", 507, "the disk is full; nothing is published or deleted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_has_a_name_of_its_own_and_a_status_of_a_refusal() {
        let names: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        for code in Code::ALL {
            let status = code.status();
            assert_eq!(status.as_u16(), code.row().1, "{code:?} has a status that can be sent");
            assert!(status.is_client_error() || status.is_server_error(), "{code:?}");
            assert!(status.canonical_reason().is_some(), "{code:?} has a title");
        }
    }
}
