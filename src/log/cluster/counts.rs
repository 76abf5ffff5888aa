//! How many subscribers the other servers have, and the messages that say it.
//!
//! Each server numbers its messages. The first one says `begin`, and the next ones have the counts of all its topics and
//! then each change. When a message is missing, the receiver asks the server to begin again. A server that has said
//! nothing for a while has no subscribers any more.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{event::TopicName, peers::Node};

/// How often a server says something, even if nothing has changed.
pub(super) const INTERVAL: Duration = Duration::from_millis(500);
/// A server that has said nothing for this time counts as gone.
const GONE_AFTER: Duration = Duration::from_secs(5);
/// How many other servers are known at one time. The messages of more are ignored.
const NODES_MAX: usize = 1000;
/// A server with more topics than this is wrong. Its further topics are ignored.
const TOPICS_MAX: usize = 1 << 20;
/// How many changes this server remembers. As long as NATS is not reached, clients could name ever more topics.
const CHANGES_MAX: usize = 1 << 16;
/// No server has more subscribers. With such counts, no sum overflows.
const COUNT_MAX: usize = 1 << 31;
/// A message has at most about so many bytes of topics.
const MESSAGE_BYTES: usize = 32 << 10;

/// What one server says.
#[derive(Serialize, Deserialize)]
pub(super) struct Message {
    node: String,
    /// It counts the messages of the server.
    number: u64,
    /// All that the server has said before is void.
    #[serde(default)]
    begin: bool,
    /// The server has stopped. Then `number` says nothing.
    #[serde(default)]
    leaves: bool,
    /// Topics, each with its number of subscribers.
    #[serde(default)]
    counts: Vec<(String, usize)>,
}

/// What the other servers have said.
#[derive(Default)]
pub(super) struct Counts {
    nodes: HashMap<Node, NodeCounts>,
    /// The sums over all nodes.
    totals: HashMap<TopicName, usize>,
}

struct NodeCounts {
    next_number: u64,
    heard_at: Instant,
    topics: HashMap<TopicName, usize>,
}

/// Makes the messages of this server.
pub(super) struct Speaker {
    node: Node,
    next_number: u64,
}

impl Speaker {
    pub(super) fn new(node: Node) -> Self {
        Self { node, next_number: 0 }
    }

    /// The messages that say these counts; at least one, so that the others hear that this server is there. With
    /// `begin`, these are all counts that there are.
    pub(super) fn say(&mut self, counts: Vec<(TopicName, usize)>, begin: bool) -> Vec<Vec<u8>> {
        let mut messages = vec![self.message(begin)];
        let mut bytes = 0;
        for (topic, count) in counts {
            if bytes > MESSAGE_BYTES {
                messages.push(self.message(false));
                bytes = 0;
            }
            bytes += topic.as_str().len();
            if let Some(message) = messages.last_mut() {
                message.counts.push((topic.as_str().to_owned(), count));
            }
        }
        // Text and numbers can always be written.
        messages.iter().filter_map(|message| serde_json::to_vec(message).ok()).collect()
    }

    fn message(&mut self, begin: bool) -> Message {
        self.next_number += 1;
        let node = self.node.to_string();
        Message { node, number: self.next_number - 1, begin, leaves: false, counts: Vec::new() }
    }
}

/// What a server says last.
pub(super) fn farewell(node: Node) -> Vec<u8> {
    let message = Message { node: node.to_string(), number: 0, begin: false, leaves: true, counts: Vec::new() };
    serde_json::to_vec(&message).unwrap_or_default()
}

/// Reads what another server says; `None` if it cannot be read.
pub(super) fn read(message: &[u8]) -> Option<Message> {
    let message = serde_json::from_slice(message);
    message.inspect_err(|error| tracing::warn!(%error, "another server says something that cannot be read")).ok()
}

impl Counts {
    /// How many subscribers of the topic the other servers have.
    pub(super) fn of(&self, topic: &str) -> usize {
        self.totals.get(topic).copied().unwrap_or_default()
    }

    /// Whether the server was heard lately.
    pub(super) fn knows(&self, node: Node) -> bool {
        self.nodes.contains_key(&node)
    }

    /// Takes a message. Returns whether its server must begin again, because a message of it is missing.
    pub(super) fn take(&mut self, message: Message, own: Node, now: Instant) -> bool {
        let Message { node, number, begin, leaves, counts } = message;
        let Some(node) = Node::parse(&node).filter(|node| *node != own) else { return false };
        if begin || leaves {
            self.forget(node);
            if leaves || self.nodes.len() >= NODES_MAX {
                return false;
            }
            self.nodes.insert(node, NodeCounts { next_number: number, heard_at: now, topics: HashMap::new() });
        }
        let Some(known) = self.nodes.get_mut(&node).filter(|known| known.next_number == number) else { return true };
        (known.next_number, known.heard_at) = (number + 1, now);
        for (topic, count) in counts {
            if let Ok(topic) = TopicName::parse(&topic, usize::MAX) {
                self.set(node, topic, count.min(COUNT_MAX));
            }
        }
        false
    }

    fn set(&mut self, node: Node, topic: TopicName, count: usize) {
        let Some(known) = self.nodes.get_mut(&node) else { return };
        let is_full = known.topics.len() >= TOPICS_MAX;
        let before = if count == 0 {
            known.topics.remove(&topic)
        } else if is_full && !known.topics.contains_key(&topic) {
            return;
        } else {
            known.topics.insert(topic.clone(), count)
        };
        change(&mut self.totals, topic, before.unwrap_or_default(), count);
    }

    /// Forgets the servers that have said nothing for a while.
    pub(super) fn forget_gone(&mut self, now: Instant) {
        let is_gone = |known: &NodeCounts| now.duration_since(known.heard_at) >= GONE_AFTER;
        let gone: Vec<Node> = self.nodes.iter().filter(|(_, known)| is_gone(known)).map(|(node, _)| *node).collect();
        for node in gone {
            tracing::info!(%node, "another server of the cluster is gone");
            self.forget(node);
        }
    }

    fn forget(&mut self, node: Node) {
        for (topic, count) in self.nodes.remove(&node).map(|known| known.topics).unwrap_or_default() {
            change(&mut self.totals, topic, count, 0);
        }
    }
}

/// Corrects the total of a topic, of which one server had `before` subscribers and now has `after`.
fn change(totals: &mut HashMap<TopicName, usize>, topic: TopicName, before: usize, after: usize) {
    let total = totals.get(&topic).copied().unwrap_or_default().saturating_sub(before).saturating_add(after);
    if total == 0 {
        totals.remove(&topic);
    } else {
        totals.insert(topic, total);
    }
}

/// The topics whose numbers have changed since this server said them.
#[derive(Default)]
pub(super) struct Changes {
    topics: HashSet<TopicName>,
    /// There were more than [`CHANGES_MAX`], so the server must begin again.
    are_too_many: bool,
}

impl Changes {
    pub(super) fn note(&mut self, topic: &TopicName) {
        if self.are_too_many || self.topics.contains(topic) {
            return;
        }
        if self.topics.len() >= CHANGES_MAX {
            (self.topics, self.are_too_many) = (HashSet::new(), true);
        } else {
            self.topics.insert(topic.clone());
        }
    }

    /// The topics; `None` if there were too many.
    pub(super) fn take(&mut self) -> Option<HashSet<TopicName>> {
        let Self { topics, are_too_many } = std::mem::take(self);
        (!are_too_many).then_some(topics)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a message as it comes from NATS.
    fn take(counts: &mut Counts, message: &[u8], own: Node, now: Instant) -> bool {
        read(message).is_some_and(|message| counts.take(message, own, now))
    }

    fn topic(name: &str) -> TopicName {
        TopicName::parse(name, 255).expect("a name")
    }

    #[test]
    fn the_counts_of_all_other_servers_add_up() {
        // Goal: each server's latest number counts once; a missing message is noticed; a silent server is forgotten; and
        // nothing is left when all are gone.
        let (own, start) = (Node::random(), Instant::now());
        let mut counts = Counts::default();
        let mut speakers = [Speaker::new(Node::random()), Speaker::new(Node::random())];
        for speaker in &mut speakers {
            for message in speaker.say(vec![(topic("a"), 2), (topic("b"), 1)], true) {
                assert!(!take(&mut counts, &message, own, start));
            }
        }
        assert_eq!((counts.of("a"), counts.of("b"), counts.of("c")), (4, 2, 0));
        let change = speakers[0].say(vec![(topic("a"), 5), (topic("b"), 0)], false);
        assert!(!take(&mut counts, &change[0], own, start));
        assert_eq!((counts.of("a"), counts.of("b")), (7, 1));
        assert!(take(&mut counts, &change[0], own, start), "a message twice is a message too many");

        speakers[1].say(vec![(topic("a"), 0)], false);
        let next = speakers[1].say(vec![(topic("b"), 9)], false);
        assert!(take(&mut counts, &next[0], own, start), "the server must begin again");
        for message in speakers[1].say(vec![(topic("b"), 9)], true) {
            assert!(!take(&mut counts, &message, own, start));
        }
        assert_eq!((counts.of("a"), counts.of("b")), (5, 9));

        let later = start + GONE_AFTER;
        assert!(!take(&mut counts, &speakers[0].say(Vec::new(), false)[0], own, later), "nothing new, but it is there");
        counts.forget_gone(later);
        assert_eq!((counts.of("a"), counts.of("b"), counts.nodes.len()), (5, 0, 1));
        counts.forget_gone(later + GONE_AFTER);
        assert!(counts.totals.is_empty() && counts.nodes.is_empty());
    }

    #[test]
    fn a_server_does_not_count_itself_and_no_message_does_harm() {
        // Goal: what comes back to its sender, what cannot be read, and counts beyond all limits change nothing.
        let (own, now) = (Node::random(), Instant::now());
        let mut counts = Counts::default();
        let own_message = &Speaker::new(own).say(vec![(topic("a"), 2)], true)[0];
        assert!(!take(&mut counts, own_message, own, now));
        for text in ["", "{}", r#"{"node":"x","number":0,"begin":true,"counts":[["a",1]]}"#] {
            assert!(!take(&mut counts, text.as_bytes(), own, now), "{text}");
        }
        assert!(counts.nodes.is_empty());
        for _ in 0..2 {
            let message = &Speaker::new(Node::random()).say(vec![(topic("a"), usize::MAX)], true)[0];
            assert!(!take(&mut counts, message, own, now));
        }
        assert_eq!(counts.of("a"), 2 * COUNT_MAX);
    }

    #[test]
    fn a_server_that_leaves_is_forgotten_at_once_and_many_changes_are_a_new_beginning() {
        // Goal: a restart does not count subscribers twice; and changes that nobody takes do not use ever more memory.
        let (own, node, now) = (Node::random(), Node::random(), Instant::now());
        let mut counts = Counts::default();
        assert!(!take(&mut counts, &Speaker::new(node).say(vec![(topic("a"), 2)], true)[0], own, now));
        assert!(!take(&mut counts, &farewell(Node::random()), own, now) && counts.of("a") == 2);
        assert!(!take(&mut counts, &farewell(node), own, now) && counts.of("a") == 0 && counts.nodes.is_empty());

        let mut changes = Changes::default();
        for n in (0..CHANGES_MAX).chain(0..CHANGES_MAX) {
            changes.note(&topic(&n.to_string()));
        }
        assert_eq!(changes.take().map(|topics| topics.len()), Some(CHANGES_MAX));
        for n in 0..=CHANGES_MAX {
            changes.note(&topic(&n.to_string()));
        }
        assert!(changes.topics.is_empty() && changes.take().is_none());
        changes.note(&topic("a"));
        assert_eq!(changes.take().map(|topics| topics.len()), Some(1));
    }

    #[test]
    fn many_topics_are_said_in_several_messages() {
        // Goal: a message stays far below the largest one that NATS takes by default.
        let (own, now) = (Node::random(), Instant::now());
        let many: Vec<_> = (0..10_000).map(|n| (topic(&format!("topic-{n:05}")), 1)).collect();
        let messages = Speaker::new(Node::random()).say(many, true);
        assert!(messages.len() > 3 && messages.iter().all(|message| message.len() < 4 * MESSAGE_BYTES));
        let mut counts = Counts::default();
        for message in &messages {
            assert!(!take(&mut counts, message, own, now));
        }
        assert_eq!(counts.totals.len(), 10_000);
    }
}
