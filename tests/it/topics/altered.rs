//! A log in memory, of which a test alters something.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tidings::{
    config::LogConfig,
    event::{Epoch, TopicName},
    log::{
        Append, AppendError, Draft, Durability, Feed, Held, KeptReceipt, Log, Page, Placement, Start, memory::MemoryLog,
    },
};

/// It appends in a way of its own, and may have receipts from before.
pub struct Altered<A> {
    log: MemoryLog,
    append: A,
    receipts: Mutex<Vec<(TopicName, KeptReceipt)>>,
}

impl<A: Fn(&MemoryLog, Draft) -> Append + Send + Sync> Altered<A> {
    pub fn new(append: A, receipts: Vec<(TopicName, KeptReceipt)>) -> Arc<Self> {
        Arc::new(Self { log: MemoryLog::new(LogConfig::default()), append, receipts: Mutex::new(receipts) })
    }
}

impl<A: Fn(&MemoryLog, Draft) -> Append + Send + Sync> Log for Altered<A> {
    fn append(&self, draft: Draft) -> Append {
        (self.append)(&self.log, draft)
    }

    fn receipts(&self) -> Vec<(TopicName, KeptReceipt)> {
        std::mem::take(&mut *self.receipts.lock().expect("no panic"))
    }

    fn epoch(&self) -> Epoch {
        self.log.epoch()
    }

    fn durability(&self) -> Durability {
        self.log.durability()
    }

    fn watermark(&self) -> u64 {
        self.log.watermark()
    }

    fn forget(&self, topic: &TopicName) -> BoxFuture<'static, Result<u64, AppendError>> {
        self.log.forget(topic)
    }

    fn read(&self, topics: &[TopicName], after: u64, told_to: u64, bytes_max: usize) -> Page {
        self.log.read(topics, after, told_to, bytes_max)
    }

    fn place(&self, topics: &[TopicName], start: &Start, deleted: &[TopicName]) -> Placement {
        self.log.place(topics, start, deleted)
    }

    fn held(&self, topic: &TopicName) -> Option<Held> {
        self.log.held(topic)
    }

    fn deletion(&self, topic: &TopicName) -> Option<(u64, Duration)> {
        self.log.deletion(topic)
    }

    fn feed(&self) -> Arc<Feed> {
        self.log.feed()
    }

    fn tend(&self) {
        self.log.tend();
    }
}
