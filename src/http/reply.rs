//! What a request is replied: an answer, or a stream; now, or later.

use futures_util::{FutureExt as _, future::Either};

use super::{answer::Answer, problem::Problem};
use crate::{
    hub::Subscription,
    later::{self, LocalLater},
};

/// What comes of a request.
pub(super) enum Reply {
    /// The whole answer.
    Answer(Answer),
    /// The head and the first bytes of a stream. The hub gets the subscriber when they are written.
    Stream(Answer, Box<Subscription>),
}

/// A reply, now or later.
pub(super) type Served<'a> = LocalLater<'a, Reply>;

impl Reply {
    /// The answer, or the head of the stream.
    pub(super) fn answer_mut(&mut self) -> &mut Answer {
        match self {
            Self::Answer(answer) | Self::Stream(answer, _) => answer,
        }
    }
}

impl From<Result<Answer, Problem>> for Reply {
    fn from(answer: Result<Answer, Problem>) -> Self {
        Self::Answer(answer.unwrap_or_else(|problem| problem.answer()))
    }
}

/// A reply that is known already.
pub(super) fn now<'a>(answer: Result<Answer, Problem>) -> Served<'a> {
    later::now(answer.into())
}

/// A reply that has to be waited for.
pub(super) fn later<'a, T: Into<Reply> + 'a>(reply: impl Future<Output = T> + 'a) -> Served<'a> {
    Either::Right(reply.map(Into::into).boxed_local())
}
