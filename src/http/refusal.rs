//! Maps the errors of the registry, of topics and of the log to problems. All routes use this mapping.

use std::{fmt, time::Duration};

use super::problem::{Code, Problem};
use crate::{
    log::{AppendError, ReadError},
    registry::RegistryError,
    topic::{DeleteError, JoinError},
};

/// An error of a topic or the log.
pub(super) trait Refused: fmt::Display {
    /// The problem for this error. The client may retry after `retry_after`.
    fn problem(&self, retry_after: Duration) -> Problem;
}

/// The problem for `error`. The client may retry after `retry_after`.
pub(super) fn refusal<E: Refused>(error: &RegistryError<E>, retry_after: Duration) -> Problem {
    match error {
        RegistryError::TooManyTopics(error) => {
            Problem::new(Code::TooManyTopics, error.to_string()).retry_after(retry_after)
        }
        RegistryError::Topic(error) => error.problem(retry_after),
    }
}

impl Refused for AppendError {
    fn problem(&self, retry_after: Duration) -> Problem {
        let hint = "the event may have been published; to be sure, retry with the same Idempotency-Key";
        log_problem(*self, hint, retry_after)
    }
}

impl Refused for DeleteError {
    fn problem(&self, retry_after: Duration) -> Problem {
        let hint = "the topic may have been deleted; to be sure, retry";
        match self {
            Self::Unknown => outcome_unknown(self, hint, retry_after),
            Self::Log(error) => log_problem(*error, hint, retry_after),
        }
    }
}

impl Refused for JoinError {
    fn problem(&self, retry_after: Duration) -> Problem {
        match self {
            Self::ActorDied => Problem::new(Code::Unavailable, self.to_string()).retry_after(retry_after),
            Self::Full => Problem::new(Code::TooManySubscribers, self.to_string()).retry_after(retry_after),
            // A subscriber gets a 204 instead, which is not a problem.
            Self::Deleted => Problem::new(Code::TopicUnknown, self.to_string()),
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        Self::new(Code::Unavailable, error.to_string()).retry_after(Duration::from_secs(1))
    }
}

/// The problem for an error of the log. `hint` says what the client can do if the outcome is unknown.
fn log_problem(error: AppendError, hint: &str, retry_after: Duration) -> Problem {
    let detail = error.to_string();
    match error {
        AppendError::Unavailable => Problem::new(Code::Unavailable, detail).retry_after(retry_after),
        AppendError::QueueFull => Problem::new(Code::QueueFull, detail).retry_after(retry_after),
        AppendError::DiskFull => Problem::new(Code::DiskFull, detail).retry_after(retry_after),
        AppendError::KeyReused => Problem::new(Code::IdempotencyKeyReused, detail),
        AppendError::Unknown => outcome_unknown(&error, hint, retry_after),
    }
}

fn outcome_unknown(error: &dyn fmt::Display, hint: &str, retry_after: Duration) -> Problem {
    Problem::new(Code::OutcomeUnknown, format!("{error}; {hint}")).retry_after(retry_after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::TooManyTopics;

    fn code<E: Refused>(error: E) -> (u16, &'static str) {
        let problem = refusal(&RegistryError::Topic(error), Duration::from_secs(1));
        (problem.code().status().as_u16(), problem.code().as_str())
    }

    #[test]
    fn each_error_has_the_same_code_on_every_route() {
        // Goal: an error of the log has the same code for a publish and for a deletion, and different errors have
        // different codes.
        let log = [
            (AppendError::Unavailable, (503, "unavailable")),
            (AppendError::QueueFull, (503, "queue_full")),
            (AppendError::DiskFull, (507, "disk_full")),
            (AppendError::KeyReused, (409, "idempotency_key_reused")),
            (AppendError::Unknown, (503, "outcome_unknown")),
        ];
        for (error, expected) in log {
            assert_eq!([code(error), code(DeleteError::Log(error))], [expected; 2]);
        }
        assert_eq!(code(JoinError::ActorDied), (503, "unavailable"));
        assert_eq!(code(DeleteError::Unknown), (503, "outcome_unknown"));
        assert_eq!(code(JoinError::Full), (503, "too_many_subscribers"));
        let full = RegistryError::<JoinError>::TooManyTopics(TooManyTopics { topics_max: 1 });
        assert_eq!(refusal(&full, Duration::ZERO).code(), Code::TooManyTopics);
    }
}
