//! The body of a subscribe response in the fallback: the first bytes, and then the hand-over of the socket to the hub.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;

use crate::hub::{Carrier, HubHandle, Subscription};

/// The body of a subscribe response. If the client disconnects before the hand-over, dropping the body ends the
/// subscription.
pub(super) struct HandOver {
    carrier: Carrier,
    hub: HubHandle,
    /// `None` once actix-web has got them.
    first: Option<Bytes>,
    /// `None` once the hub has it.
    subscription: Option<Subscription>,
}

impl HandOver {
    pub(super) fn new(carrier: Carrier, hub: HubHandle, first: Bytes, subscription: Subscription) -> Self {
        Self { carrier, hub, first: Some(first), subscription: Some(subscription) }
    }
}

impl MessageBody for HandOver {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if let Some(first) = self.first.take() {
            self.carrier.begin_stream();
            return Poll::Ready(Some(Ok(first)));
        }
        let socket = ready!(self.carrier.poll_take(cx));
        if let Some((socket, subscription)) = socket.zip(self.subscription.take()) {
            match socket.into_std() {
                Ok(socket) => self.hub.adopt(socket, subscription),
                Err(error) => tracing::warn!(%error, "cannot give a subscriber's socket to the hub"),
            }
        }
        Poll::Ready(None)
    }
}
