//! The request to subscribe: its parameters and its cursor.

use std::{
    borrow::Cow,
    net::IpAddr,
    num::NonZeroU32,
    time::{Duration, Instant, SystemTime},
};

use smallvec::SmallVec;

use super::time;
use crate::{
    auth::{Caller, Grant, Subscribe},
    event::{EventId, StopId, TopicName},
    frame::{Encoding, Format, Framing, Marks},
    http::{
        accept::Accept,
        app_state::AppState,
        fields::Fields,
        head::Head,
        problem::{Code, Problem},
    },
    hub::CheckedRight,
    log::{Start, wall_ms},
};

/// The names of the cursor parameter. Browsers cannot set a header on the first request, so clients send the cursor in
/// the query. `event-source-polyfill`, Mercure and Symfony each use a different name.
pub(super) const CURSORS: [&str; 4] = ["lastEventId", "last_event_id", "lastEventID", "Last-Event-ID"];
/// The parameters of a subscription.
pub(super) const PARAMETERS: [&str; 11] =
    ["topic", "ticket", "since", "last", "envelope", "on_gap", "marks", CURSORS[0], CURSORS[1], CURSORS[2], CURSORS[3]];
/// `broker.gap` contains at most this much of what the client requested.
const REQUESTED_BYTES_MAX: usize = 128;
/// The maximum of `last=`. It is limited because the search locks the log.
const LAST_MAX: usize = 10_000;

/// Who asks for the stream.
pub(super) struct CheckedCaller {
    pub(super) caller: Caller,
    /// A moment before the credential of `caller` was checked.
    pub(super) checked_at: Instant,
}

/// A request to subscribe, of a caller who may do so.
pub(super) struct SubscribeRequest {
    pub(super) grants: SmallVec<[Grant<Subscribe>; 1]>,
    /// The right to subscribe, if the caller has a credential.
    pub(super) right: Option<CheckedRight>,
    /// How many streams the credential allows at one time, if it has a limit of its own.
    pub(super) own_max: Option<NonZeroU32>,
    /// The caller has a ticket. Taking it has counted as this subscription.
    pub(super) has_ticket: bool,
    pub(super) options: Options,
}

/// What a request asks for, before it is known who the caller is.
pub(super) struct Asked {
    topics: SmallVec<[TopicName; 1]>,
    pub(super) options: Options,
}

/// How the client wants its stream.
pub(super) struct Options {
    pub(super) encoding: Encoding,
    pub(super) marks: Marks,
    pub(super) start: Start,
    /// The cursor, or `since`, as the client sent it, for `broker.gap`. It is cut to [`REQUESTED_BYTES_MAX`].
    pub(super) requested: String,
    /// `on_gap=fail`: refuse the request if there is a gap.
    pub(super) fails_on_gap: bool,
    pub(super) is_event_source: bool,
    pub(super) remote: Option<IpAddr>,
}

impl Asked {
    pub(super) fn read(
        app: &AppState,
        request: &impl Head,
        query: &Fields<'_>,
        cursor: Option<Cursor>,
    ) -> Result<Self, Problem> {
        let topics = app.topics(query.all("topic"), query.topics_dropped())?.topics;
        Ok(Self { topics, options: Options::read(request, query, cursor)? })
    }

    /// The request, if `caller` may make it.
    pub(super) fn of(self, CheckedCaller { caller, checked_at }: CheckedCaller) -> Result<SubscribeRequest, Problem> {
        let grants = self.topics.into_iter().map(|topic| caller.grant(topic)).collect::<Result<_, _>>()?;
        let ends_at = caller.valid_for(SystemTime::now()).map(|valid_for| Instant::now() + valid_for);
        let right = caller.shared_identity().map(|identity| CheckedRight { identity, checked_at, ends_at });
        let (own_max, has_ticket) = (caller.limits().subscribers_max, caller.has_ticket());
        Ok(SubscribeRequest { grants, right, own_max, has_ticket, options: self.options })
    }
}

impl Options {
    fn read(request: &impl Head, query: &Fields<'_>, cursor: Option<Cursor>) -> Result<Self, Problem> {
        let start = match &cursor {
            Some(cursor) => cursor.id().map_or(Start::Unreadable, Start::After),
            None => start(query)?,
        };
        let fails_on_gap = match query.only("on_gap")? {
            None | Some("event") => false,
            Some("fail") => true,
            Some(other) => return Err(bad_parameter("on_gap", other, "`event` or `fail`")),
        };
        let since = query.only("since")?.map(str::to_owned);
        let mut requested = cursor.map(|cursor| cursor.text).or(since).unwrap_or_default();
        requested.truncate(requested.floor_char_boundary(REQUESTED_BYTES_MAX));
        let accept = Accept::read(request);
        let format = format(accept, query)?;
        let framing = if request.is_http_1_1() { Framing::Chunked } else { Framing::Close };
        let encoding = Encoding { format, framing };
        let marks = marks(query)?;
        let (is_event_source, remote) = (is_event_source(accept), request.remote());
        Ok(Self { encoding, marks, start, requested, fails_on_gap, is_event_source, remote })
    }
}

/// The cursor as the client has sent it.
pub(super) struct Cursor {
    text: String,
    /// The cursor as a stop id, if it is from a stream that an operator has ended.
    stop: Option<StopId>,
}

impl Cursor {
    /// Finds the cursor. The header has priority: when a browser reconnects, it sends the new cursor in the header, and
    /// the query of the first request again.
    pub(super) fn read(request: &impl Head, query: &Fields<'_>) -> Option<Self> {
        let header = request.values("last-event-id").map(String::from_utf8_lossy);
        let query = CURSORS.iter().flat_map(|name| query.all(name)).map(Cow::Borrowed);
        // An empty cursor counts as none. A client may send an empty one in one place, and its cursor in another.
        let text = header.chain(query).find(|cursor| !cursor.is_empty())?.into_owned();
        Some(Self { stop: StopId::parse(&text), text })
    }

    /// Whether an operator has ended the client's last stream, less than `gone` ago.
    pub(super) fn must_stay_away(&self, gone: Duration) -> bool {
        self.stop.is_some_and(|stop| stop.is_active(wall_ms(), gone))
    }

    /// The id; `None` if the cursor cannot be read.
    pub(super) fn id(&self) -> Option<EventId> {
        self.stop.map(|stop| stop.id).or_else(|| EventId::parse(&self.text))
    }
}

/// Whether the client may be an `EventSource`: it asks for an event stream by name, as every `EventSource` does.
pub(super) fn is_event_source(accept: Accept) -> bool {
    accept.names_events() && !accept.prefers_lines()
}

fn bad_parameter(name: &str, value: &str, allowed: &str) -> Problem {
    Problem::new(Code::BadParameter, format!("`{name}={value}` is not understood; allowed: {allowed}"))
}

fn format(accept: Accept, query: &Fields<'_>) -> Result<Format, Problem> {
    let envelope = match query.only("envelope")? {
        None | Some("none") => Format::Plain,
        Some("json") => Format::Envelope,
        Some(other) => return Err(bad_parameter("envelope", other, "`json` or `none`")),
    };
    Ok(if accept.prefers_lines() { Format::Lines } else { envelope })
}

fn marks(query: &Fields<'_>) -> Result<Marks, Problem> {
    match query.only("marks")? {
        None | Some("event") => Ok(Marks::Event),
        Some("id") => Ok(Marks::Id),
        Some("none") => Ok(Marks::None),
        Some(other) => Err(bad_parameter("marks", other, "`event`, `id` or `none`")),
    }
}

fn start(query: &Fields<'_>) -> Result<Start, Problem> {
    match (query.only("since")?, query.only("last")?) {
        (None, None) => Ok(Start::Live),
        (Some(_), Some(_)) => Err(Problem::new(Code::BadParameter, "`since` and `last` exclude each other")),
        (None, Some(n)) => match n.parse() {
            Ok(n) if n <= LAST_MAX => Ok(Start::Last(n)),
            _ => Err(bad_parameter("last", n, &format!("a number of events up to {LAST_MAX}"))),
        },
        (Some("all"), None) => Ok(Start::All),
        (Some(since), None) => {
            let allowed = "`all`, a duration such as `10m`, an RFC 3339 time, or seconds since 1970";
            time::since_ms(since).map(Start::Since).ok_or_else(|| bad_parameter("since", since, allowed))
        }
    }
}
