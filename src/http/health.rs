//! `GET /healthz` and `GET /readyz`.

use actix_http::StatusCode;

use super::{
    answer::Answer,
    app_state::AppState,
    problem::{Code, Problem, RETRY_AFTER},
};

/// The answer to `GET /healthz`: the process serves requests.
pub(super) fn alive() -> Answer {
    text(b"ok\n")
}

/// The answer to `GET /readyz`: 200 when the server accepts events, as far as it knows.
pub(super) fn ready(app: &AppState) -> Result<Answer, Problem> {
    app.check_open()?;
    // Always 503, even if the disk is full: load balancers expect it. The status 507 is for publishers.
    app.gate
        .check_log()
        .map_err(|error| Problem::new(Code::Unavailable, error.to_string()).retry_after(RETRY_AFTER))?;
    Ok(text(b"ready\n"))
}

fn text(body: &'static [u8]) -> Answer {
    Answer::new(StatusCode::OK).with("content-type", "text/plain; charset=utf-8").body(body)
}
