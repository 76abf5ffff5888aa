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
use crate::{auth::TicketUse, frame::Format, hub::jitter, log::Start};

// Each file uses only files below it.
mod open;
mod request;
mod time;
mod response;

use open::open;
use request::{CURSORS, CheckedCaller, Cursor, PARAMETERS, SubscribeRequest, is_event_source};
use response::{refused_stream, stop, stream_head, unauthorized_stream};

/// A refused subscriber must wait this many times `stream.retry`, with jitter, before it retries.
const REFUSED_RETRY_FACTOR: u32 = 4;

/// Serves `GET /subscribe`.
pub(super) fn serve<'a>(app: &'a AppState, head: &impl Head) -> Result<Served<'a>, Problem> {
    Ok(match Outcome::read(app, head, TicketUse::Spend) {
        Ok(Outcome::Stream(request)) => reply_later(request.admit(app)),
        Ok(Outcome::Answer(answer)) => reply_now(answer),
        Err(problem) => reply_now(refuse(app, head, problem)?),
    })
}

/// Refuses a request that [`Outcome::read`] has not read to its end. If the reason may pass, an `EventSource` gets a
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
pub(super) fn head(app: &AppState, head: &impl Head) -> Result<Answer, Problem> {
    Ok(match Outcome::read(app, head, TicketUse::Look)? {
        Outcome::Stream(request) => stream_head(request.encoding.format, None),
        Outcome::Answer(answer) => answer,
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

impl Outcome {
    fn read(app: &AppState, head: &impl Head, ticket_use: TicketUse) -> Result<Self, Problem> {
        let query = Fields::query(head.query(), &PARAMETERS, &CURSORS)?;
        let cursor = Cursor::read(head, &query);
        // An `EventSource` whose stream an operator has ended comes back with a used-up ticket. The answer must be the
        // one that makes it stay away, not the refusal of the ticket. So the cursor is looked at before the credential.
        if cursor.as_ref().is_some_and(|cursor| cursor.must_stay_away(app.config.stream.gone)) {
            return Ok(Self::Answer(stop()));
        }
        let checked_at = Instant::now();
        // A ticket counts before the other credentials. A browser sends a cookie by itself.
        let caller = match query.only("ticket")? {
            None => credentials::caller(app, head)?,
            Some(ticket) => match app.auth.redeem_ticket(ticket, ticket_use) {
                Ok(caller) => caller,
                // An `EventSource` reconnects to the same URL, with a used-up ticket. With another status than 200, it
                // would stop, and could not tell its page why.
                Err(refused) if is_event_source(Accept::read(head)) => {
                    let retry = refused_retry(app);
                    let id = cursor.and_then(|cursor| cursor.id());
                    return Ok(Self::Answer(unauthorized_stream(retry, id, &refused.to_string())));
                }
                Err(refused) => return Err(refused.into()),
            },
        };
        let request = SubscribeRequest::read(app, head, &query, cursor, CheckedCaller { caller, checked_at })?;
        Ok(Self::Stream(Box::new(request)))
    }
}

impl SubscribeRequest {
    /// Opens the stream, or refuses the subscriber.
    async fn admit(self: Box<Self>, app: &AppState) -> Reply {
        let (format, is_event_source) = (self.encoding.format, self.is_event_source);
        let cursor = if let Start::After(id) = self.start { Some(id) } else { None };
        let retry = refused_retry(app);
        match open(app, self, retry).await {
            Err(problem) if is_event_source && let Some(wait) = problem.retry_time() => {
                refused_stream(format, retry.max(wait), cursor, &problem).into()
            }
            reply => reply.into(),
        }
    }
}
