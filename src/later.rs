//! An outcome that is at hand, or a future that has to be waited for.
//!
//! Most outcomes are at hand: who gives one makes no future for it on the heap, and who takes one goes on with it at
//! once, without a task.

use futures_util::future::{BoxFuture, Either, LocalBoxFuture, Ready, ready};

/// An outcome, now or later. Whoever does not care awaits it.
pub type Later<T, F = BoxFuture<'static, T>> = Either<Ready<T>, F>;

/// As [`Later`], for one thread.
pub type LocalLater<'a, T> = Later<T, LocalBoxFuture<'a, T>>;

/// An outcome that is at hand.
pub fn now<T, F>(outcome: T) -> Later<T, F> {
    Either::Left(ready(outcome))
}
