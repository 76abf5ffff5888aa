//! The problems for the errors of the registry, of topics and of the log. An error has the same code on all routes
//! except `/readyz`.

use std::fmt;

use super::problem::{Code, Problem, RETRY_AFTER};
use crate::{
    log::{AppendError, ReadError},
    peers::PeerError,
    registry::RegistryError,
    topic::{DeleteError, JoinError},
};

impl From<AppendError> for Problem {
    fn from(error: AppendError) -> Self {
        of_log(error, "the event may have been published; to be sure, retry with the same Idempotency-Key")
    }
}

impl From<DeleteError> for Problem {
    fn from(error: DeleteError) -> Self {
        let hint = "the topic may have been deleted; to be sure, retry";
        match error {
            DeleteError::ActorDied => outcome_unknown(&error, hint),
            DeleteError::Log(error) => of_log(error, hint),
        }
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        let code = match error {
            RegistryError::TooManyTopics(_) => Code::TooManyTopics,
            RegistryError::TooManyTopicsPerIp(error) => return error.into(),
            RegistryError::Topic(JoinError::ActorDied) => Code::Unavailable,
            RegistryError::Topic(JoinError::Full) => Code::TooManySubscribers,
            // No client gets this problem: only `subscribe` joins a topic, and it answers 204 for this error.
            RegistryError::Topic(JoinError::Deleted) => return Self::new(Code::TopicUnknown, error.to_string()),
        };
        Self::new(code, error.to_string()).retry_after(RETRY_AFTER)
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        Self::new(Code::Unavailable, error.to_string()).retry_after(RETRY_AFTER)
    }
}

impl From<PeerError> for Problem {
    fn from(error: PeerError) -> Self {
        match error {
            PeerError::Unavailable => Self::new(Code::Unavailable, error.to_string()).retry_after(RETRY_AFTER),
            PeerError::Unknown => outcome_unknown(&error, "to be sure, retry"),
        }
    }
}

/// The problem for an error of the log. `hint` says what the client can do if the outcome is unknown.
fn of_log(error: AppendError, hint: &str) -> Problem {
    let code = match error {
        AppendError::Unavailable => Code::Unavailable,
        AppendError::QueueFull => Code::QueueFull,
        AppendError::DiskFull => Code::DiskFull,
        AppendError::TooLarge { bytes_max } => {
            return Problem::too_large("the content", u64::try_from(bytes_max).unwrap_or(u64::MAX));
        }
        AppendError::KeyReused => return Problem::new(Code::IdempotencyKeyReused, error.to_string()),
        AppendError::Unknown => return outcome_unknown(&error, hint),
    };
    Problem::new(code, error.to_string()).retry_after(RETRY_AFTER)
}

fn outcome_unknown(error: &dyn fmt::Display, hint: &str) -> Problem {
    Problem::new(Code::OutcomeUnknown, format!("{error}; {hint}")).retry_after(RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::TooManyTopics;

    fn code(error: impl Into<Problem>) -> (u16, &'static str) {
        let problem = error.into();
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
            (AppendError::TooLarge { bytes_max: 1 }, (413, "too_large")),
            (AppendError::KeyReused, (409, "idempotency_key_reused")),
            (AppendError::Unknown, (503, "outcome_unknown")),
        ];
        for (error, expected) in log {
            assert_eq!([code(error), code(DeleteError::Log(error))], [expected; 2]);
        }
        assert_eq!(code(RegistryError::Topic(JoinError::ActorDied)), (503, "unavailable"));
        assert_eq!(code(DeleteError::ActorDied), (503, "outcome_unknown"));
        assert_eq!(code(RegistryError::Topic(JoinError::Full)), (503, "too_many_subscribers"));
        assert_eq!(code(RegistryError::TooManyTopics(TooManyTopics { topics_max: 1 })), (503, "too_many_topics"));
    }
}
