//! What must hold after a load, whatever has failed meanwhile. The checker gets what publishers were answered, what
//! subscribers were sent, what each server says that it holds and what NATS says that it has. It lists what does not fit
//! together.
//!
//! The limits of the log are so large that nothing is removed, no topic is deleted, and the stream is never made anew. So
//! no `broker.gap` and no `broker.deleted` is justified.

use std::collections::{BTreeSet, HashMap};

use crate::storm::{
    checker::{Fault as SeenFault, Seen, check},
    seq,
};

/// An event that a publisher has sent until it was acknowledged.
#[derive(Clone, Debug)]
pub struct Sent {
    pub topic: usize,
    /// It begins with the topic, and no other event has the same.
    pub content: String,
    /// The ids of all acknowledgements, that of a repeated publish included.
    pub ids: Vec<String>,
}

/// An event that a server holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub id: String,
    /// The type of the event: `message`, except for those of the server.
    pub event: String,
    pub content: String,
}

/// What one subscriber got over all its connections.
#[derive(Clone, Debug)]
pub struct Received {
    pub topics: BTreeSet<usize>,
    /// It is owed all events of its topics after this position; `None` if it never got a cursor.
    pub joined: Option<u64>,
    pub seen: Vec<Seen>,
    /// Gaps, deletions, and answers that end an `EventSource` for good.
    pub notices: Vec<String>,
}

/// The stream, as NATS describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    pub first: u64,
    pub last: u64,
    /// Messages that are events.
    pub events: u64,
    /// Messages of the servers to each other.
    pub commands: u64,
}

/// All that is known of a load.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// What each publisher has sent, one after the other.
    pub published: Vec<Vec<Sent>>,
    /// What each server holds.
    pub histories: Vec<Vec<Held>>,
    pub received: Vec<Received>,
    pub stored: Option<Stored>,
    /// Answers that no publisher may get.
    pub unexpected: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An acknowledged event is not held under its id.
    Lost {
        id: String,
        content: String,
        instead: Option<String>,
    },
    /// The answers to one key name several events.
    OtherId(Vec<String>),
    /// A publisher got an id that is not above the one before.
    Order {
        before: String,
        id: String,
    },
    /// A content is held at two positions.
    HeldTwice {
        content: String,
        ids: [String; 2],
    },
    /// An event is held that nobody has published, or a notice is in its place.
    Unknown(Held),
    /// The ids that a server holds do not grow, or are of two histories.
    Disorder {
        before: String,
        id: String,
    },
    /// Two servers differ at a place.
    Unequal {
        servers: [usize; 2],
        at: usize,
        held: [Option<Held>; 2],
    },
    /// A server holds another number of events than NATS.
    Stored {
        stored: Option<Stored>,
        held: usize,
    },
    /// A subscriber has got something else than its events.
    Received {
        subscriber: usize,
        fault: SeenFault,
    },
    /// A subscriber has got a notice that nothing justifies.
    Notice {
        subscriber: usize,
        notice: String,
    },
    /// A subscriber has never got a cursor.
    NoCursor {
        subscriber: usize,
    },
    Unexpected(String),
}

/// Everything that is wrong.
pub fn faults(observed: &Observed) -> Vec<Fault> {
    let mut faults: Vec<Fault> = observed.unexpected.iter().cloned().map(Fault::Unexpected).collect();
    let truth = observed.histories.first().map_or(&[][..], Vec::as_slice);
    check_history(truth, observed, &mut faults);
    check_servers(observed, &mut faults);
    check_published(truth, observed, &mut faults);
    check_received(truth, observed, &mut faults);
    faults
}

/// What the first server holds: in order, published, and each event once.
fn check_history(truth: &[Held], observed: &Observed, faults: &mut Vec<Fault>) {
    let published: BTreeSet<&str> = observed.published.iter().flatten().map(|sent| sent.content.as_str()).collect();
    let mut ids: HashMap<&str, &str> = HashMap::new();
    for held in truth {
        if held.event != "message" || !published.contains(held.content.as_str()) {
            faults.push(Fault::Unknown(held.clone()));
        }
        if let Some(first) = ids.insert(&held.content, &held.id) {
            let ids = [first.to_owned(), held.id.clone()];
            faults.push(Fault::HeldTwice { content: held.content.clone(), ids });
        }
    }
    for pair in truth.windows(2) {
        let [before, id] = [&pair[0].id, &pair[1].id];
        if epoch(before) != epoch(id) || seq(before) >= seq(id) {
            faults.push(Fault::Disorder { before: before.clone(), id: id.clone() });
        }
    }
}

/// All servers hold the same, and as many events as NATS.
fn check_servers(observed: &Observed, faults: &mut Vec<Fault>) {
    let truth = observed.histories.first().map_or(&[][..], Vec::as_slice);
    for (server, history) in observed.histories.iter().enumerate().skip(1) {
        let length = truth.len().max(history.len());
        if let Some(at) = (0..length).find(|at| truth.get(*at) != history.get(*at)) {
            let held = [truth.get(at).cloned(), history.get(at).cloned()];
            faults.push(Fault::Unequal { servers: [0, server], at, held });
        }
    }
    let held = truth.len();
    let is_all = |stored: &Stored| {
        let Stored { first, last, events, commands } = *stored;
        first == 1 && last == events + commands && usize::try_from(events) == Ok(held)
    };
    if !observed.stored.as_ref().is_some_and(is_all) {
        faults.push(Fault::Stored { stored: observed.stored, held });
    }
}

/// What was acknowledged is held, under the id of every acknowledgement.
fn check_published(truth: &[Held], observed: &Observed, faults: &mut Vec<Fault>) {
    let contents: HashMap<&str, &str> = truth.iter().map(|held| (&*held.id, &*held.content)).collect();
    for sent in &observed.published {
        for Sent { content, ids, .. } in sent {
            let Some(id) = ids.first() else { continue };
            if ids.iter().any(|other| other != id) {
                faults.push(Fault::OtherId(ids.clone()));
            }
            let held = contents.get(id.as_str()).copied();
            if held != Some(content) {
                let instead = held.map(str::to_owned);
                faults.push(Fault::Lost { id: id.clone(), content: content.clone(), instead });
            }
        }
        let ids: Vec<&String> = sent.iter().filter_map(|sent| sent.ids.first()).collect();
        for pair in ids.windows(2).filter(|pair| seq(pair[0]) >= seq(pair[1])) {
            faults.push(Fault::Order { before: pair[0].clone(), id: pair[1].clone() });
        }
    }
}

/// Each subscriber has got exactly its events, once and in order, and no notice.
fn check_received(truth: &[Held], observed: &Observed, faults: &mut Vec<Fault>) {
    let topics: HashMap<&str, usize> =
        observed.published.iter().flatten().map(|sent| (sent.content.as_str(), sent.topic)).collect();
    for (subscriber, received) in observed.received.iter().enumerate() {
        let notices = received.notices.iter().cloned();
        faults.extend(notices.map(|notice| Fault::Notice { subscriber, notice }));
        let Some(joined) = received.joined else {
            faults.push(Fault::NoCursor { subscriber });
            continue;
        };
        let is_owed = |held: &&Held| {
            let topic = topics.get(held.content.as_str());
            seq(&held.id) > joined && topic.is_some_and(|topic| received.topics.contains(topic))
        };
        let owed = truth.iter().filter(is_owed).map(|held| Seen { seq: seq(&held.id), content: held.content.clone() });
        if let Err(fault) = check(&owed.collect::<Vec<_>>(), &received.seen) {
            faults.push(Fault::Received { subscriber, fault });
        }
    }
}

fn epoch(id: &str) -> &str {
    id.split('-').next().unwrap_or_default()
}

/// Fails with the first faults, if there are some.
#[track_caller]
pub fn assert_none(faults: &[Fault]) {
    assert!(faults.is_empty(), "{} faults, the first of them: {:#?}", faults.len(), &faults[..faults.len().min(10)]);
}

/// Ten events of two topics, that two servers hold and a subscriber of both has got.
fn sound() -> Observed {
    let (mut sent, mut held, mut seen) = (Vec::new(), Vec::new(), Vec::new());
    for n in 1..=10 {
        let topic = n % 2;
        let (id, content) = (format!("e-{n}"), format!("t{topic} {n}"));
        let ids = vec![id.clone(), id.clone()];
        sent.push(Sent { topic, content: content.clone(), ids });
        held.push(Held { id, event: "message".to_owned(), content: content.clone() });
        seen.push(Seen { seq: u64::try_from(n).expect("small"), content });
    }
    let received = Received { topics: BTreeSet::from([0, 1]), joined: Some(0), seen, notices: Vec::new() };
    Observed {
        published: vec![sent],
        histories: vec![held.clone(), held],
        received: vec![received],
        stored: Some(Stored { first: 1, last: 12, events: 10, commands: 2 }),
        unexpected: Vec::new(),
    }
}

#[test]
fn the_checker_finds_each_fault() {
    // Goal: what is sound has no fault, and each kind of fault is found when there is nothing else wrong.
    assert_none(&faults(&sound()));
    let found = |spoil: &dyn Fn(&mut Observed)| {
        let mut observed = sound();
        spoil(&mut observed);
        faults(&observed)
    };
    let lost = found(&|o| o.histories.iter_mut().for_each(|history| drop(history.remove(4))));
    assert!(matches!(lost[..], [Fault::Stored { .. }, Fault::Lost { .. }, Fault::Received { .. }]), "{lost:?}");
    let unstored = found(&|o| o.published[0][4].ids = vec!["e-6".to_owned()]);
    assert!(matches!(unstored[..], [Fault::Lost { instead: Some(_), .. }, Fault::Order { .. }]), "{unstored:?}");
    let other_id = found(&|o| o.published[0][4].ids[1] = "e-6".to_owned());
    assert!(matches!(other_id[..], [Fault::OtherId(_)]), "{other_id:?}");
    let missed = found(&|o| drop(o.received[0].seen.remove(4)));
    assert!(matches!(missed[..], [Fault::Received { fault: SeenFault::Missing(_), .. }]), "{missed:?}");
    let fifth = sound().received[0].seen[4].clone();
    let twice = found(&|o| o.received[0].seen.insert(5, fifth.clone()));
    assert!(matches!(twice[..], [Fault::Received { fault: SeenFault::Twice(_), .. }]), "{twice:?}");
    let swapped = found(&|o| o.received[0].seen.swap(4, 5));
    assert!(matches!(swapped[..], [Fault::Received { fault: SeenFault::Disorder(_), .. }]), "{swapped:?}");
    let unequal = found(&|o| o.histories[1].swap(4, 5));
    assert!(matches!(unequal[..], [Fault::Unequal { at: 4, .. }]), "{unequal:?}");
    let deleted = found(&|o| o.received[0].notices.push("broker.deleted".to_owned()));
    assert!(matches!(deleted[..], [Fault::Notice { .. }]), "{deleted:?}");
    let evicted = found(&|o| o.stored = Some(Stored { first: 2, last: 12, events: 9, commands: 2 }));
    assert!(matches!(evicted[..], [Fault::Stored { .. }]), "{evicted:?}");
    let cut = found(&|o| o.received[0].joined = None);
    assert!(matches!(cut[..], [Fault::NoCursor { .. }]), "{cut:?}");
    let again = found(&|o| {
        let held = Held { id: "e-11".to_owned(), ..o.histories[0][9].clone() };
        o.histories.iter_mut().for_each(|history| history.push(held.clone()));
        o.stored = Some(Stored { first: 1, last: 13, events: 11, commands: 2 });
    });
    assert!(again.iter().any(|fault| matches!(fault, Fault::HeldTwice { .. })), "{again:?}");
}
