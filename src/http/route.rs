//! The addresses of the server.

use super::{fields, page};

/// What the path of a request names.
#[derive(Clone, Copy)]
pub(super) enum Route<'a> {
    Publish,
    Subscribe,
    Tickets,
    /// `/topics/{topic}`. Here and below, the name is as in the path, percent-encoded.
    Topic(&'a str),
    /// `/topics/{topic}/subscribers`
    TopicSubscribers(&'a str),
    /// `/subscribers/{id}`
    Subscriber(&'a str),
    /// `/subjects/{name}`
    Subject(&'a str),
    Health,
    Ready,
    Metrics,
    Page(&'static page::File),
    Unknown,
}

impl<'a> Route<'a> {
    /// The names of all routes, for metrics, in the order of [`Self::index`].
    pub(super) const NAMES: [&'static str; 12] = [
        "/publish",
        "/subscribe",
        "/tickets",
        "/topics/{topic}",
        "/topics/{topic}/subscribers",
        "/subscribers/{id}",
        "/subjects/{name}",
        "/healthz",
        "/readyz",
        "/metrics",
        "/",
        "other",
    ];

    pub(super) fn find(path: &'a str) -> Self {
        if let Some(topic) = path.strip_prefix("/topics/").filter(|topic| !topic.is_empty()) {
            // The path is divided before it is decoded. So the slash of a topic `a/subscribers` must be encoded.
            let listed = topic.strip_suffix("/subscribers").filter(|topic| !topic.is_empty());
            return listed.map_or(Self::Topic(topic), Self::TopicSubscribers);
        }
        if let Some(id) = path.strip_prefix("/subscribers/").filter(|id| !id.is_empty()) {
            return Self::Subscriber(id);
        }
        if let Some(subject) = path.strip_prefix("/subjects/").filter(|subject| !subject.is_empty()) {
            return Self::Subject(subject);
        }
        // `/%70ublish` is another spelling of the same address (RFC 3986, section 6.2.2.2). The text needs no name
        // (`b""`), because nobody sees the decoder's error, which would contain the name.
        let Ok(path) = fields::decode_path(path, b"") else { return Self::Unknown };
        match &*path {
            "/publish" => Self::Publish,
            "/subscribe" => Self::Subscribe,
            "/tickets" => Self::Tickets,
            "/healthz" => Self::Health,
            "/readyz" => Self::Ready,
            "/metrics" => Self::Metrics,
            path => page::find(path).map_or(Self::Unknown, Self::Page),
        }
    }

    /// Its place in [`Self::NAMES`].
    pub(super) const fn index(self) -> usize {
        match self {
            Self::Publish => 0,
            Self::Subscribe => 1,
            Self::Tickets => 2,
            Self::Topic(_) => 3,
            Self::TopicSubscribers(_) => 4,
            Self::Subscriber(_) => 5,
            Self::Subject(_) => 6,
            Self::Health => 7,
            Self::Ready => 8,
            Self::Metrics => 9,
            Self::Page(_) => 10,
            Self::Unknown => 11,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_has_the_name_of_its_route() {
        let cases = [
            ("/publish", "/publish"),
            ("/%70ublish", "/publish"),
            ("/subscribe", "/subscribe"),
            ("/tickets", "/tickets"),
            ("/topics/a", "/topics/{topic}"),
            ("/topics/a/b", "/topics/{topic}"),
            ("/topics//subscribers", "/topics/{topic}"),
            ("/topics/a/subscribers", "/topics/{topic}/subscribers"),
            ("/topics/subscribers", "/topics/{topic}"),
            ("/subscribers/1", "/subscribers/{id}"),
            ("/subjects/ann", "/subjects/{name}"),
            ("/healthz", "/healthz"),
            ("/readyz", "/readyz"),
            ("/metrics", "/metrics"),
            ("/", "/"),
            ("/app.js", "/"),
            ("/topics/", "other"),
            ("/%ff", "other"),
            ("", "other"),
        ];
        for (path, name) in cases {
            assert_eq!(Route::NAMES[Route::find(path).index()], name, "{path}");
        }
    }
}
