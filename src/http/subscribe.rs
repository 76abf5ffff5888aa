//! `GET /subscribe`: reads the request, makes the beginning of the response, and makes the subscription for the hub.

use std::time::{Duration, Instant};

use super::{
    accept::Accept,
    answer::Answer,
    app_state::AppState,
    credentials,
    fields::Fields,
    head::Head,
    problem::Problem,
    reply::{Reply, Served, reply_later, reply_now},
};
use crate::{
    auth::{Refused, TicketUse},
    event::EventId,
    frame::Format,
    hub::jitter,
    limits::Attempt,
    log::Start,
    peers::{Node, TicketHash},
};

// Each file uses only files below it.
mod open;
mod request;
mod time;
mod response;

use open::open;
use request::{Asked, CURSORS, CheckedCaller, Cursor, PARAMETERS, SubscribeRequest, is_event_source};
use response::{refused_stream, stop, stream_head, unauthorized_stream};

/// A refused subscriber must wait this many times `stream.retry`, with jitter, before it retries.
const REFUSED_RETRY_FACTOR: u32 = 4;

/// Serves `GET /subscribe`.
pub(super) fn serve<'a>(app: &'a AppState, head: &impl Head) -> Result<Served<'a>, Problem> {
    Ok(match Received::read(app, head, TicketUse::Spend) {
        Ok(Received::Known(Outcome::Stream(request))) => reply_later(request.admit(app)),
        Ok(Received::Known(Outcome::Answer(answer))) => reply_now(answer),
        Ok(Received::Elsewhere(elsewhere)) => reply_later(elsewhere.admit(app)),
        Err(problem) => reply_now(refuse(app, head, problem)?),
    })
}

/// Refuses a request that [`Received::read`] has not read to its end. If the reason may pass, an `EventSource` gets a
/// stream that tells it to come back. With another status than 200, it would stop for good.
fn refuse(app: &AppState, head: &impl Head, problem: Problem) -> Result<Answer, Problem> {
    let Some(wait) = problem.retry_time().filter(|_| is_event_source(Accept::read(head))) else {
        return Err(problem);
    };
    let query = Fields::query(head.query(), &PARAMETERS, &CURSORS)?;
    let cursor = Cursor::read(head, &query).and_then(|cursor| cursor.id());
    let retry = refused_retry(app);
    Ok(refused_stream(Format::Plain, retry.max(wait), cursor, &problem))
}

/// Serves `HEAD /subscribe`: the head of a stream, without a subscriber. It does not use up a ticket.
pub(super) fn head<'a>(app: &'a AppState, head: &impl Head) -> Result<Served<'a>, Problem> {
    Ok(match Received::read(app, head, TicketUse::Look)? {
        Received::Known(outcome) => reply_now(outcome.head()),
        Received::Elsewhere(elsewhere) => reply_later(async move { elsewhere.redeem(app).await.map(Outcome::head) }),
    })
}

/// How long a refused subscriber must wait before it retries.
fn refused_retry(app: &AppState) -> Duration {
    jitter(app.config.stream.retry * REFUSED_RETRY_FACTOR)
}

/// What a request to subscribe gets, if it is not refused.
enum Outcome {
    Stream(Box<SubscribeRequest>),
    Answer(Answer),
}

/// A request that was read.
enum Received {
    Known(Outcome),
    /// Another server must say what the ticket stands for.
    Elsewhere(Box<Elsewhere>),
}

/// A request with a ticket that another server of the cluster has given.
struct Elsewhere {
    node: Node,
    hash: TicketHash,
    ticket_use: TicketUse,
    asked: Asked,
    cursor: Option<EventId>,
    checked_at: Instant,
    /// A failed one costs a question to another server.
    attempt: Attempt,
}

impl Outcome {
    /// The same for `HEAD`.
    fn head(self) -> Answer {
        match self {
            Self::Stream(request) => stream_head(request.options.encoding.format, None),
            Self::Answer(answer) => answer,
        }
    }
}

impl Received {
    fn read(app: &AppState, head: &impl Head, ticket_use: TicketUse) -> Result<Self, Problem> {
        let query = Fields::query(head.query(), &PARAMETERS, &CURSORS)?;
        let cursor = Cursor::read(head, &query);
        // An `EventSource` whose stream an operator has ended comes back with a used-up ticket. The answer must be the
        // one that makes it stay away, not the refusal of the ticket. So the cursor is looked at before the credential.
        if cursor.as_ref().is_some_and(|cursor| cursor.must_stay_away(app.config.stream.gone)) {
            return Ok(Self::Known(Outcome::Answer(stop())));
        }
        let (checked_at, id) = (Instant::now(), cursor.as_ref().and_then(Cursor::id));
        // A ticket counts before the other credentials. A browser sends a cookie by itself.
        let caller = match query.only("ticket")? {
            None => credentials::caller(app, head)?,
            Some(ticket) => {
                if let Some((node, hash)) = app.auth.ticket_elsewhere(ticket) {
                    let asked = Asked::read(app, head, &query, cursor)?;
                    let attempt = app.rates.authenticate(head.remote())?;
                    let elsewhere = Elsewhere { node, hash, ticket_use, asked, cursor: id, checked_at, attempt };
                    return Ok(Self::Elsewhere(Box::new(elsewhere)));
                }
                match app.auth.redeem_ticket(ticket, ticket_use) {
                    Ok(caller) => caller,
                    Err(refused) => {
                        let answer = refuse_ticket(app, refused, is_event_source(Accept::read(head)), id)?;
                        return Ok(Self::Known(Outcome::Answer(answer)));
                    }
                }
            }
        };
        let request = Asked::read(app, head, &query, cursor)?.of(CheckedCaller { caller, checked_at })?;
        Ok(Self::Known(Outcome::Stream(Box::new(request))))
    }
}

/// The answer to a ticket that is not valid. An `EventSource` reconnects to the same URL, with a used-up ticket. With
/// another status than 200, it would stop, and could not tell its page why.
fn refuse_ticket(
    app: &AppState,
    refused: Refused,
    is_event_source: bool,
    cursor: Option<EventId>,
) -> Result<Answer, Problem> {
    if is_event_source {
        Ok(unauthorized_stream(refused_retry(app), cursor, &refused.to_string()))
    } else {
        Err(refused.into())
    }
}

impl Elsewhere {
    /// Asks the other server.
    async fn redeem(self: Box<Self>, app: &AppState) -> Result<Outcome, Problem> {
        let Self { node, hash, ticket_use, asked, cursor, checked_at, attempt } = *self;
        let exported = app.gate.ticket(node, hash, ticket_use).await?;
        match app.auth.import_ticket(exported.as_deref()) {
            Ok(caller) => {
                app.rates.succeed(attempt);
                Ok(Outcome::Stream(Box::new(asked.of(CheckedCaller { caller, checked_at })?)))
            }
            Err(refused) => refuse_ticket(app, refused, asked.options.is_event_source, cursor).map(Outcome::Answer),
        }
    }

    /// Opens the stream, or refuses the subscriber.
    async fn admit(self: Box<Self>, app: &AppState) -> Reply {
        let (format, is_event_source, cursor) =
            (self.asked.options.encoding.format, self.asked.options.is_event_source, self.cursor);
        match self.redeem(app).await {
            Ok(Outcome::Stream(request)) => request.admit(app).await,
            Ok(Outcome::Answer(answer)) => answer.into(),
            Err(problem) if is_event_source && let Some(wait) = problem.retry_time() => {
                refused_stream(format, refused_retry(app).max(wait), cursor, &problem).into()
            }
            Err(problem) => problem.answer().into(),
        }
    }
}

impl SubscribeRequest {
    /// Opens the stream, or refuses the subscriber.
    async fn admit(self: Box<Self>, app: &AppState) -> Reply {
        let (format, is_event_source) = (self.options.encoding.format, self.options.is_event_source);
        let cursor = if let Start::After(id) = self.options.start { Some(id) } else { None };
        let retry = refused_retry(app);
        match open(app, self, retry).await {
            Err(problem) if is_event_source && let Some(wait) = problem.retry_time() => {
                refused_stream(format, retry.max(wait), cursor, &problem).into()
            }
            reply => reply.into(),
        }
    }
}
