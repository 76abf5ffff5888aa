//! Locks a mutex in spite of a panic, and unlocks it so that other threads get it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    thread::yield_now,
};

/// Locks `mutex`, also when a thread panicked while it held the lock. That panic is a bug. If this function panicked,
/// too, one bug would end every stream.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Unlocks a mutex that this thread will soon lock again. A mutex is not fair: without the yield, this thread would
/// probably get the lock before a publisher that waits for it.
pub(super) fn unlock_fair<T>(guard: MutexGuard<'_, T>) {
    drop(guard);
    yield_now();
}
