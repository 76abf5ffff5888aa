//! What must hold after a crash, whatever was under way: it is given what publishers were told, what subscribers were
//! sent and what the broker says it holds, and lists what does not fit together.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::harness::blocking::{Line, seq};

/// One publish that was tried.
#[derive(Clone, Debug)]
pub struct Sent {
    pub topic: String,
    pub content: String,
    pub key: Option<String>,
    /// The id it was acknowledged with; without one nobody knows.
    pub id: Option<String>,
}

/// All that is known so far, over every life of the process.
#[derive(Default)]
pub struct Checker {
    /// Events that a topic may hold.
    topic_events_max: usize,
    epoch: Option<String>,
    /// Every check was done up to here.
    settled: u64,
    /// Topic and content by position: nothing ever takes the place of another. Without what has been evicted since.
    truth: BTreeMap<u64, (String, String)>,
    /// Where a content is: each was sent once, so it is at one place.
    places: HashMap<String, u64>,
    tried: HashSet<(String, String)>,
    /// Acknowledged, and not yet seen to have been evicted: the topic by position.
    acknowledged: BTreeMap<u64, String>,
    /// All that ever were.
    pub acknowledgements: usize,
    pub faults: Vec<String>,
}

impl Checker {
    pub fn new(topic_events_max: usize) -> Self {
        Self { topic_events_max, ..Self::default() }
    }

    fn fault(&mut self, fault: String) {
        self.faults.push(fault);
    }

    fn know(&mut self, who: &str, id: &str, topic: &str, content: &str) {
        let epoch = id.split('-').next().unwrap_or_default().to_owned();
        let known = self.epoch.get_or_insert_with(|| epoch.clone()).clone();
        if epoch != known {
            self.fault(format!("{who}: {id} is of another history than {known}"));
        }
        let event = (topic.to_owned(), content.to_owned());
        if !self.tried.contains(&event) {
            self.fault(format!("{who}: {id} was never published: {event:?}"));
        }
        let place = *self.places.entry(event.1.clone()).or_insert(seq(id));
        if place != seq(id) {
            self.fault(format!("{who}: {id} repeats what is at {place}: {event:?}"));
        }
        if seq(id) <= self.settled && !self.truth.contains_key(&seq(id)) {
            self.fault(format!(
                "{who}: {id} was gone, or nothing, when all up to {} was known: {event:?}",
                self.settled
            ));
        }
        let there = self.truth.entry(seq(id)).or_insert_with(|| event.clone()).clone();
        if there != event {
            self.fault(format!("{who}: {id} is {event:?} and was {there:?}"));
        }
    }

    /// What one publisher did, one after the other.
    pub fn published(&mut self, sent: &[Sent]) {
        self.tried.extend(sent.iter().map(|sent| (sent.topic.clone(), sent.content.clone())));
        let mut last = 0;
        for Sent { topic, content, id, .. } in sent {
            let Some(id) = id else { continue };
            if seq(id) <= last {
                self.fault(format!("a publisher was given {id} after {last}"));
            }
            last = seq(id);
            self.know("a publisher", id, topic, content);
            self.acknowledged.insert(last, topic.clone());
            self.acknowledgements += 1;
        }
    }

    /// What the broker holds of all topics, as a subscriber that asks for everything is sent it.
    pub fn holds(&mut self, lines: &[Line]) {
        let mut held: HashMap<&str, Vec<u64>> = HashMap::new();
        let mut last = 0;
        for line in lines {
            if line.seq() <= last {
                self.fault(format!("{} comes after {last}", line.id));
            }
            last = line.seq();
            self.know("the history", &line.id, &line.topic, &line.data);
            held.entry(&line.topic).or_default().push(line.seq());
        }
        let held = |topic: &String| held.get(topic.as_str()).map_or(&[][..], Vec::as_slice);
        // Retention takes the oldest of a topic that holds as many as it may, and nothing else does.
        self.acknowledged.retain(|at, topic| {
            held(topic).len() < self.topic_events_max || held(topic).first().is_none_or(|first| at >= first)
        });
        let missing = self.acknowledged.iter().filter(|(at, topic)| held(topic).binary_search(at).is_err());
        self.faults.extend(missing.map(|(at, topic)| format!("the acknowledged event {at} of {topic} is not there")));
        // What was sent to anybody, or told, and lies in what is held, must be in it: else it was told before it was
        // safe. What is gone for good is not looked at again.
        let oldest = self.acknowledged.keys().next().copied().unwrap_or_default();
        let (truth, settled) = (&mut self.truth, self.settled);
        truth.retain(|at, (topic, _)| *at > settled || held(topic).first().is_none_or(|first| at >= first));
        let ghosts: Vec<String> = self
            .truth
            .range(oldest..)
            .filter(|(at, (topic, _))| {
                held(topic).binary_search(at).is_err() && held(topic).first().is_none_or(|first| *at > first)
            })
            .map(|(at, event)| format!("{at} was told and is not held: {event:?}"))
            .collect();
        self.faults.extend(ghosts);
    }

    /// All that was told up to `id` has been checked against all.
    pub fn settle(&mut self, id: &str) {
        self.settled = seq(id);
    }

    /// What one subscriber of `topics` was sent since it had seen everything up to `last`; up to where it has now.
    pub fn received(&mut self, topics: &[String], mut last: u64, lines: &[Line]) -> u64 {
        let begun = last;
        for line in lines {
            if line.event.as_deref().is_some_and(|event| event.starts_with("broker.")) {
                self.fault(format!("a subscriber was told {line:?}"));
                continue;
            }
            if line.seq() <= last {
                self.fault(format!("a subscriber was sent {} after {last}", line.id));
            }
            last = line.seq();
            self.know("a subscriber", &line.id, &line.topic, &line.data);
        }
        let got: HashSet<u64> = lines.iter().filter(|line| !line.id.is_empty()).map(Line::seq).collect();
        let missed: Vec<String> = self
            .truth
            .range(begun + 1..(last + 1).max(begun + 1))
            .filter(|(at, (topic, _))| topics.contains(topic) && !got.contains(at))
            .map(|(at, event)| format!("a subscriber at {last} has missed {at}: {event:?}"))
            .collect();
        self.faults.extend(missed);
        last
    }
}
