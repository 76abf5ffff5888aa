//! A result that is already known, or a future of it.
//!
//! Most results are already known. For these, no future is allocated on the heap, and the caller can continue at once,
//! without a task.

use futures_util::future::{BoxFuture, Either, LocalBoxFuture, Ready, ready};

pub use futures_util::future::Either::{Left as Known, Right as NotYet};

/// A result that is [`Known`], or a future of a result that is [`NotYet`] known. Both are futures, so a caller can
/// await either. A known result can also be taken at once with [`Ready::into_inner`].
pub type Later<T, F = BoxFuture<'static, T>> = Either<Ready<T>, F>;

/// A [`Later`] that stays on one thread.
pub type LocalLater<'a, T> = Later<T, LocalBoxFuture<'a, T>>;

/// A result that is already known.
pub fn known<T, F>(result: T) -> Later<T, F> {
    Known(ready(result))
}
