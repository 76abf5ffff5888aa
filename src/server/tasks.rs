//! The tasks that serve the connections of one worker.
//!
//! A task serves one connection after another. If each connection had a task of its own, the memory of the task would
//! be freed when the hub takes over the socket of a subscriber, and the allocator would not use that memory for the
//! next task. Measured: a subscriber takes 400 bytes with these tasks, and would take
//! up to 2 KiB with a task for each connection.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::{SocketAddr, TcpStream},
    rc::Rc,
};

use tokio::{sync::Notify, task::spawn_local};

use crate::{
    http::{FastPath, PendingSlot},
    transport::Transport,
};

/// How many tasks wait for a connection. Further ones end.
const IDLE_MAX: usize = 16;

/// A connection that was admitted.
pub(super) struct Admitted {
    pub(super) socket: Transport<TcpStream>,
    pub(super) remote: SocketAddr,
    pub(super) slot: PendingSlot,
}

/// The tasks that serve the connections of one worker.
pub(super) struct Tasks {
    fast: Rc<FastPath>,
    /// Connections that no task has taken up yet.
    admitted: RefCell<VecDeque<Admitted>>,
    /// How many tasks wait on `wake`.
    idle: Cell<usize>,
    wake: Notify,
}

impl Tasks {
    pub(super) fn new(fast: Rc<FastPath>) -> Rc<Self> {
        Rc::new(Self { fast, admitted: RefCell::default(), idle: Cell::new(0), wake: Notify::new() })
    }

    /// Lets a task serve a connection: one that is idle, otherwise a new one.
    pub(super) fn serve(self: &Rc<Self>, connection: Admitted) {
        self.admitted.borrow_mut().push_back(connection);
        match self.idle.get().checked_sub(1) {
            Some(idle) => {
                self.idle.set(idle);
                self.wake.notify_one();
            }
            None => drop(spawn_local(Rc::clone(self).run())),
        }
    }

    async fn run(self: Rc<Self>) {
        loop {
            while let Some(Admitted { socket, remote, slot }) = self.next() {
                self.fast.serve(socket, remote, slot).await;
            }
            if self.idle.get() >= IDLE_MAX {
                return;
            }
            self.idle.set(self.idle.get() + 1);
            self.wake.notified().await;
        }
    }

    fn next(&self) -> Option<Admitted> {
        self.admitted.borrow_mut().pop_front()
    }
}
