//! The reply to a request: an answer or a stream, now or later.

use futures_util::FutureExt as _;

use super::{answer::Answer, problem::Problem};
use crate::{
    hub::Subscription,
    later::{self, LocalLater, NotYet},
};

/// The reply to a request.
pub(super) enum Reply {
    /// The whole response.
    Answer(Answer),
    /// The head and the first bytes of a stream. After they are written, the hub gets the socket and the subscription.
    Stream(Answer, Box<Subscription>),
}

/// A reply that is `Known` or `NotYet`. Both can be awaited; `into_inner` takes a known reply out of its ready future.
pub(super) type Served<'a> = LocalLater<'a, Reply>;

impl Reply {
    /// The answer, or the head of the stream.
    pub(super) fn answer(&self) -> &Answer {
        match self {
            Self::Answer(answer) | Self::Stream(answer, _) => answer,
        }
    }

    /// See [`Self::answer`].
    pub(super) fn answer_mut(&mut self) -> &mut Answer {
        match self {
            Self::Answer(answer) | Self::Stream(answer, _) => answer,
        }
    }
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

impl<T: Into<Self>> From<Result<T, Problem>> for Reply {
    fn from(result: Result<T, Problem>) -> Self {
        result.map_or_else(|problem| Self::Answer(problem.answer()), T::into)
    }
}

/// A reply that is already known.
pub(super) fn reply_now<'a>(reply: impl Into<Reply>) -> Served<'a> {
    later::known(reply.into())
}

/// A reply that is not known yet.
pub(super) fn reply_later<'a, T: Into<Reply> + 'a>(reply: impl Future<Output = T> + 'a) -> Served<'a> {
    NotYet(reply.map(T::into).boxed_local())
}
