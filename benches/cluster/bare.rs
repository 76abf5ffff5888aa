//! The bare client of NATS: it publishes the same messages to the same stream as a node.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_nats::jetstream::{self, Context, message::PublishMessage, stream::Stream};
use bytes::Bytes;
use tokio::time::{sleep, timeout};

use crate::{
    TOPICS,
    http::Publisher,
    load::Publish,
    nats::{Nats, namespace},
    node::{Node, Settings},
    process::{DEADLINE, GLANCE},
};

/// A stream of Tidings, and one message of a node for each topic.
pub struct BareStream {
    pub name: String,
    pub context: Context,
    messages: Arc<[(String, Bytes)]>,
}

/// Publishes messages with the bare client.
pub struct BarePublisher {
    context: Context,
    name: String,
    messages: Arc<[(String, Bytes)]>,
    has_ids: bool,
}

/// A client of server `server`.
pub async fn client(nats: &Nats, server: usize) -> io::Result<async_nats::Client> {
    let connect = async {
        loop {
            if let Ok(client) = async_nats::connect(nats.url(server)).await {
                return client;
            }
            sleep(GLANCE).await;
        }
    };
    timeout(DEADLINE, connect).await.map_err(|_| io::Error::other("no connection to NATS"))
}

impl BareStream {
    /// Lets a node create a stream and publish an event to each topic. Then the node ends.
    pub async fn new(nats: &Nats, server: usize, settings: Settings<'_>) -> io::Result<Self> {
        let name = namespace();
        let node = Node::start(&nats.url(server), &name, settings).await?;
        let mut publisher = Publisher::connect(node.address).await?;
        for topic in 0..TOPICS {
            publisher.publish(topic).await?;
        }
        node.process.end().await?;
        let context = jetstream::new(client(nats, server).await?);
        let stream: Stream = context.get_stream(&name).await.map_err(io::Error::other)?;
        let mut messages = Vec::new();
        for position in 1..=TOPICS as u64 {
            let message = stream.get_raw_message(position).await.map_err(io::Error::other)?;
            messages.push((message.subject.to_string(), message.payload));
        }
        Ok(Self { name, context, messages: messages.into() })
    }

    /// A publisher; with ids, it sends the same headers as a node.
    pub fn publisher(&self, has_ids: bool) -> BarePublisher {
        let (context, name, messages) = (self.context.clone(), self.name.clone(), Arc::clone(&self.messages));
        BarePublisher { context, name, messages, has_ids }
    }

    /// A publisher with ids, and with a connection of its own.
    pub async fn publisher_alone(&self, nats: &Nats, server: usize) -> io::Result<BarePublisher> {
        let context = jetstream::new(client(nats, server).await?);
        Ok(BarePublisher { context, ..self.publisher(true) })
    }
}

impl Publish for BarePublisher {
    async fn publish(&mut self, topic: usize) -> io::Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (subject, payload) = self.messages.get(topic).ok_or_else(|| io::Error::other("there is no such topic"))?;
        let mut message = PublishMessage::build().payload(payload.clone());
        if self.has_ids {
            let id = format!("{:016x}-{:x}", u64::MAX, NEXT.fetch_add(1, Ordering::Relaxed));
            message = message.message_id(id).expected_stream(&self.name);
        }
        let answer = self.context.send_publish(subject.clone(), message).await.map_err(io::Error::other)?;
        answer.await.map(drop).map_err(io::Error::other)
    }
}
