//! Tickets, with times that are given.

use std::{collections::BTreeSet, num::NonZeroU32, time::UNIX_EPOCH};

use super::*;
use crate::{
    auth::{Forbidden, Right, caller::Verified, rights::Rights},
    config::OwnLimits,
    event::TopicName,
};

const TTL: Duration = Duration::from_secs(30);
const MILLISECOND: Duration = Duration::from_millis(1);

/// Times that a test moves on.
#[derive(Clone, Copy)]
struct Clock {
    start: Instant,
    passed: Duration,
}

impl Clock {
    fn new() -> Self {
        Self { start: Instant::now(), passed: Duration::ZERO }
    }

    fn after(self, passed: Duration) -> Self {
        Self { passed: self.passed + passed, ..self }
    }

    fn mono(self) -> Instant {
        self.start + self.passed
    }

    fn wall(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_hours(500_000) + self.passed
    }

    fn now(self) -> Now {
        Now { mono: self.mono(), wall: self.wall() }
    }
}

fn tickets(max: usize, per_key_max: usize) -> Tickets {
    let config =
        AuthConfig { ticket_ttl: TTL, tickets_max: max, tickets_per_key_max: per_key_max, ..AuthConfig::default() };
    Tickets::new(&config)
}

/// A caller with a token of `key`, which may do everything and ends at `expires_at`.
fn caller(key: &str, subject: Option<&str>, expires_at: Option<SystemTime>) -> Caller {
    let all = ["**".to_owned()];
    let identity = Arc::new(Identity { key: key.into(), subject: subject.map(Into::into) });
    let rights = Rights::parse([&all, &all, &all], subject).expect("rights");
    let limits = OwnLimits { subscribers_max: NonZeroU32::new(7), ..OwnLimits::default() };
    Caller::verified(Arc::new(Verified { identity, rights, limits, starts_at: None, expires_at }))
}

fn topic(name: &str) -> TopicName {
    TopicName::parse(name, 255).expect("a topic")
}

fn take(tickets: &Tickets, caller: &Caller, topics: &[&str], clock: Clock) -> Result<NewTicket, TicketError> {
    let grants: Vec<_> = topics.iter().map(|name| caller.grant(topic(name)).expect("a grant")).collect();
    tickets.take(caller, grants.into_iter(), clock.mono(), clock.now())
}

fn spend(tickets: &Tickets, text: &str, clock: Clock) -> Result<Caller, Refused> {
    tickets.redeem(text, TicketUse::Spend, clock.now())
}

/// How many tickets and topics are held, after all that is counted was found to agree.
fn held(tickets: &Tickets) -> (usize, usize) {
    let store = tickets.lock();
    let topics: usize = store.held.values().map(|held| held.ticket.topics()).sum();
    assert_eq!((topics, store.held.len()), (store.topic_count, store.numbers.len()));
    assert_eq!(store.topic_counts.values().sum::<usize>(), topics);
    assert!(store.topic_counts.values().all(|count| *count > 0), "an identity without tickets uses no memory");
    (store.held.len(), topics)
}

#[test]
fn a_ticket_opens_one_stream_of_its_topics_and_nothing_else() {
    let (tickets, clock) = (tickets(10, 10), Clock::new());
    let ann = caller("k", Some("ann"), None);
    let text = take(&tickets, &ann, &["b", "a"], clock).expect("a ticket").text;
    let by_ticket = spend(&tickets, &text, clock).expect("the first use");
    assert_eq!((by_ticket.identity(), by_ticket.limits()), (ann.identity(), ann.limits()));
    for name in ["a", "b"] {
        assert!(by_ticket.grant::<Subscribe>(topic(name)).is_ok(), "{name}");
    }
    for name in ["c", "", "ab", "A"] {
        assert!(!by_ticket.may::<Subscribe>(name), "{name:?}");
    }
    let forbidden = by_ticket.grant::<Subscribe>(topic("c")).map(drop);
    let expected =
        Forbidden { right: Right::Subscribe, topic: Some(topic("c")), credential: crate::auth::Credential::Ticket };
    assert_eq!(forbidden, Err(expected));
    for refused in [
        by_ticket.grant::<crate::auth::Publish>(topic("a")).map(drop),
        by_ticket.grant::<crate::auth::Manage>(topic("a")).map(drop),
        by_ticket.check_any::<crate::auth::Publish>(),
        by_ticket.grant_all::<Subscribe>().map(drop),
        by_ticket.grant_all::<crate::auth::Manage>().map(drop),
    ] {
        assert!(refused.is_err(), "the token could, the ticket cannot");
    }
    assert_eq!(spend(&tickets, &text, clock).err(), Some(Refused::Ticket), "the second use");
    assert_eq!(held(&tickets), (0, 0));
}

#[test]
fn only_the_very_text_is_a_ticket_and_no_two_are_alike() {
    let (tickets, clock) = (tickets(1000, 1000), Clock::new());
    let ann = caller("k", Some("ann"), None);
    let texts: BTreeSet<String> =
        (0..100).map(|_| take(&tickets, &ann, &["a"], clock).expect("a ticket").text).collect();
    assert_eq!(texts.len(), 100);
    for text in &texts {
        assert!(text.len() == 48 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{text}");
        for wrong in [
            format!("{text} "),
            text.to_uppercase(),
            text.replace(|c: char| c.is_ascii_digit(), "0"),
            text.chars().skip(1).collect(),
        ] {
            assert!(wrong == *text || spend(&tickets, &wrong, clock).is_err(), "{wrong}");
        }
    }
    assert_eq!(spend(&tickets, "", clock).err(), Some(Refused::Ticket));
    assert_eq!(held(&tickets), (100, 100), "what is no ticket uses none up");
}

#[test]
fn a_look_does_not_use_a_ticket_up() {
    let (tickets, clock) = (tickets(10, 10), Clock::new());
    let text = take(&tickets, &caller("k", None, None), &["a"], clock).expect("a ticket").text;
    for _ in 0..2 {
        assert!(tickets.redeem(&text, TicketUse::Look, clock.now()).is_ok());
    }
    assert!(spend(&tickets, &text, clock).is_ok());
    assert!(tickets.redeem(&text, TicketUse::Look, clock.now()).is_err());
}

#[test]
fn a_ticket_expires_with_its_ttl_or_its_token_whichever_is_first() {
    let clock = Clock::new();
    let lasting = clock.wall() + TTL * 2;
    let short = clock.wall() + TTL / 2;
    for (expires_at, valid_for) in [(None, TTL), (Some(lasting), TTL), (Some(short), TTL / 2)] {
        let tickets = tickets(10, 10);
        let ann = caller("k", Some("ann"), expires_at);
        for (passed, is_valid) in
            [(valid_for.saturating_sub(MILLISECOND), true), (valid_for, false), (valid_for + TTL, false)]
        {
            let ticket = take(&tickets, &ann, &["a"], clock).expect("a ticket");
            assert_eq!(ticket.valid_for, valid_for);
            assert_eq!(spend(&tickets, &ticket.text, clock.after(passed)).is_ok(), is_valid, "{passed:?}");
        }
        assert_eq!(held(&tickets), (0, 0), "an expired one is used up, too");
    }
}

#[test]
fn a_ticket_of_a_certificate_ends_with_the_certificate() {
    let (tickets, clock) = (tickets(10, 10), Clock::new());
    let token = caller("auth.certificates", Some("billing"), None);
    let verified = Arc::clone(token.verified_credential().expect("a credential"));
    let billing = Caller::certified(verified, clock.wall() + TTL / 2);
    let ticket = take(&tickets, &billing, &["a"], clock).expect("a ticket");
    assert_eq!(ticket.valid_for, TTL / 2);
    let by_ticket = spend(&tickets, &ticket.text, clock).expect("the first use");
    assert_eq!(by_ticket.valid_for(clock.wall()), Some(TTL / 2), "and so does its stream");
    let text = take(&tickets, &billing, &["a"], clock).expect("a ticket").text;
    assert!(spend(&tickets, &text, clock.after(TTL / 2)).is_err());
}

#[test]
fn the_wall_clock_may_be_set_and_no_ticket_outlives_its_token() {
    let (tickets, clock) = (tickets(10, 10), Clock::new());
    let ann = caller("k", Some("ann"), Some(clock.wall() + TTL));
    let [one, two] = [(); 2].map(|()| take(&tickets, &ann, &["a"], clock).expect("a ticket").text);
    let forward = Now { mono: clock.mono(), wall: clock.wall() + TTL };
    assert!(tickets.redeem(&one, TicketUse::Spend, forward).is_err());
    let back = Now { mono: clock.after(TTL).mono(), wall: clock.wall() };
    assert!(tickets.redeem(&two, TicketUse::Spend, back).is_err());
}

#[test]
fn each_limit_counts_topics_and_one_identity_takes_nothing_from_another() {
    let (tickets, clock) = (tickets(6, 4), Clock::new());
    let (ann, bob, service) =
        (caller("k", Some("ann"), None), caller("k", Some("bob"), None), caller("service", None, None));
    let first = take(&tickets, &ann, &["a", "b"], clock).expect("2 of 4").text;
    let error = |result: Result<NewTicket, TicketError>| result.map(|_| "given").unwrap_err();
    assert_eq!(error(take(&tickets, &ann, &["a", "b", "c"], clock)), TicketError::TooManyOfKey(4), "one past");
    take(&tickets, &ann, &["a", "b"], clock).expect("4 of 4");
    assert_eq!(error(take(&tickets, &ann, &["a"], clock)), TicketError::TooManyOfKey(4), "one past");
    take(&tickets, &bob, &["a", "b"], clock).expect("6 of 6 in all");
    assert_eq!(error(take(&tickets, &service, &["a"], clock)), TicketError::TooMany(6), "one past");
    assert_eq!(held(&tickets), (3, 6));
    spend(&tickets, &first, clock).expect("nobody has pushed it out");
    take(&tickets, &service, &["a", "b"], clock).expect("there is room again");
    let too_many = TicketError::TooManyTopics { max: 4, topics: 5 };
    assert_eq!(error(take(&tickets, &bob, &["a", "b", "c", "d", "e"], clock)), too_many, "never room for it");
}

#[test]
fn expired_tickets_leave_room() {
    let (tickets, clock) = (tickets(2, 2), Clock::new());
    let ann = caller("k", Some("ann"), None);
    take(&tickets, &ann, &["a", "b"], clock).expect("a ticket");
    assert!(take(&tickets, &ann, &["a"], clock.after(TTL.saturating_sub(MILLISECOND))).is_err(), "not yet");
    take(&tickets, &ann, &["a"], clock.after(TTL)).expect("the other one has expired");
    assert_eq!(held(&tickets), (1, 1));
    tickets.remove_expired(clock.after((TTL * 2).saturating_sub(MILLISECOND)).mono());
    assert_eq!(held(&tickets), (1, 1));
    tickets.remove_expired(clock.after(TTL * 2).mono());
    assert_eq!(held(&tickets), (0, 0));
}

#[test]
fn the_tickets_of_a_removed_key_or_an_ended_subject_are_gone() {
    let (tickets, clock) = (tickets(100, 100), Clock::new());
    let callers = [("old", "ann"), ("new", "ann"), ("new", "bob")].map(|(key, sub)| caller(key, Some(sub), None));
    let texts = || callers.each_ref().map(|caller| take(&tickets, caller, &["a"], clock).expect("a ticket").text);
    let valid = |texts: [String; 3]| texts.map(|text| spend(&tickets, &text, clock).is_ok());
    assert_eq!(valid(texts()), [true; 3], "the control");
    let taken = texts();
    tickets.remove_subject("ann");
    assert_eq!(valid(taken), [false, false, true]);
    let taken = texts();
    tickets.remove_keys(|identity| &*identity.key == "old", clock.mono());
    assert_eq!(valid(taken), [false, true, true]);
}

#[test]
fn a_key_that_is_removed_while_a_ticket_is_asked_for_gives_none() {
    // Goal: no ticket for a token that was checked with the earlier keys; a client that asks again is checked again.
    let (tickets, clock) = (tickets(100, 100), Clock::new());
    let ann = caller("k", Some("ann"), None);
    let (checked, changed, later) = (clock, clock.after(MILLISECOND), clock.after(MILLISECOND * 2));
    tickets.remove_keys(|identity| &*identity.key == "k", changed.mono());
    let grants = || [ann.grant(topic("a")).expect("a grant")].into_iter();
    for at in [checked, changed] {
        let taken = tickets.take(&ann, grants(), at.mono(), later.now());
        assert_eq!(taken.map(|ticket| ticket.text).err(), Some(TicketError::Unavailable));
    }
    assert!(tickets.take(&ann, grants(), later.mono(), later.now()).is_ok());
}

#[test]
fn a_caller_without_a_token_gets_no_ticket() {
    let (tickets, clock) = (tickets(100, 100), Clock::new());
    let taken = take(&tickets, &Caller::local(), &["a"], clock);
    assert_eq!(taken.map(|ticket| ticket.text).err(), Some(TicketError::Anonymous));
}
