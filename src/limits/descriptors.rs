//! A reserve of file descriptors, with which new connections can be refused when the process has no other left.
//!
//! The reserve consists of descriptors that are really open, and is not a number below the limit of open files. So it
//! helps whatever has used up the descriptors, and also when the limit of the whole system is reached.

use std::{
    fs::File,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// The file that the reserve opens. It is there on each Unix system, and opening it waits for nothing.
const FILE: &str = "/dev/null";

/// Descriptors that are kept open for connections above the limit of open files.
///
/// To accept such a connection, a worker closes one of them. At this moment, another worker may accept a connection and
/// get the free descriptor. If that connection were served, the reserve would have one descriptor less. So each worker
/// completes the reserve ([`Self::refill`]) after it has accepted a connection, and serves the connection only if the
/// reserve is complete.
#[derive(Debug)]
pub struct DescriptorReserve {
    size: usize,
    open: Mutex<Vec<File>>,
    /// Whether `open` has `size` files. A connection that is accepted far below the limit takes no lock.
    is_complete: AtomicBool,
}

impl DescriptorReserve {
    /// Opens `size` descriptors. If the process may not open so many, it keeps half of those it could open, so that
    /// there are descriptors for connections, too.
    #[must_use]
    pub fn open(size: usize) -> Self {
        let mut open: Vec<File> = (0..size).map_while(|_| File::open(FILE).ok()).collect();
        if open.len() < size {
            open.truncate(open.len() / 2);
        }
        Self { size: open.len(), open: Mutex::new(open), is_complete: AtomicBool::new(true) }
    }

    /// Closes one descriptor of the reserve, so that a connection can be accepted. Returns false if none is left.
    pub fn release(&self) -> bool {
        let mut open = self.files();
        // Stored before the file is closed: a worker that gets the descriptor must not find the reserve complete.
        self.is_complete.store(false, Ordering::SeqCst);
        let released = open.pop();
        released.is_some()
    }

    /// Opens the missing descriptors again, as many as possible. Returns whether the reserve is complete.
    pub fn refill(&self) -> bool {
        if self.is_complete.load(Ordering::SeqCst) {
            return true;
        }
        let mut open = self.files();
        while open.len() < self.size {
            let Ok(file) = File::open(FILE) else { return false };
            open.push(file);
        }
        self.is_complete.store(true, Ordering::SeqCst);
        true
    }

    fn files(&self) -> std::sync::MutexGuard<'_, Vec<File>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_complete_again_when_what_was_released_is_open_again() {
        let reserve = DescriptorReserve::open(2);
        assert!(reserve.refill());
        assert_eq!([reserve.release(), reserve.release(), reserve.release()], [true, true, false]);
        assert!(!reserve.is_complete.load(Ordering::SeqCst));
        assert!(reserve.files().is_empty());
        assert!(reserve.refill());
        assert_eq!((reserve.files().len(), reserve.is_complete.load(Ordering::SeqCst)), (2, true));
    }

    #[test]
    fn a_reserve_of_nothing_is_always_complete() {
        let reserve = DescriptorReserve::open(0);
        assert!(reserve.refill());
        assert!(!reserve.release());
        assert!(reserve.refill());
    }
}
