//! Commands to all servers. They are messages of the stream, so that each server gets them, in one order, also a server
//! that cannot be reached now. They are rare, so each is sent by itself and not by the publisher.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{context::PublishErrorKind, message::PublishMessage};
use tokio::time::timeout;

use super::{
    connection::{Link, text_of},
    envelope::Envelope,
    shared::Shared,
    subject,
};
use crate::peers::PeerError;

/// How long NATS may take to store a command.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a command is sent, until NATS says that it has stored it. NATS stores only one of them.
const ATTEMPTS: u32 = 3;
/// How long this server may take to read the command from the stream.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// Ends the streams of a subject on all servers. Completes when this server has begun with it.
pub(super) async fn end_subject(shared: Arc<Shared>, subject: String) -> Result<(), PeerError> {
    let link = Arc::clone(&shared.open.get().ok_or(PeerError::Unavailable)?.link);
    let seq = store(&link, &Envelope::SubjectEnd(subject)).await?;
    let mut reached = shared.position.subscribe();
    let is_read = timeout(READ_TIMEOUT, reached.wait_for(|reached| *reached >= seq)).await;
    if matches!(is_read, Ok(Ok(_))) { Ok(()) } else { Err(PeerError::Unknown) }
}

/// Stores the command, and returns its position.
pub(super) async fn store(link: &Link, command: &Envelope) -> Result<u64, PeerError> {
    let (id, subject) = (format!("c-{:016x}", fastrand::u64(..)), subject::of_commands(&link.name));
    // Once an attempt got no answer, the command may be stored.
    let mut otherwise = PeerError::Unavailable;
    for _ in 0..ATTEMPTS {
        let publish = PublishMessage::build().payload(command.encode()).message_id(&id).expected_stream(&link.name);
        let stored = async { link.context.send_publish(subject.clone(), publish).await?.await };
        match timeout(STORE_TIMEOUT, stored).await {
            Ok(Ok(ack)) => return Ok(ack.sequence),
            Ok(Err(error)) => {
                tracing::warn!(error = text_of(&error), "NATS has not stored a command");
                if !matches!(error.kind(), PublishErrorKind::StreamNotFound) {
                    otherwise = PeerError::Unknown;
                }
            }
            Err(_) => otherwise = PeerError::Unknown,
        }
    }
    Err(otherwise)
}
