//! Tests of the guarantees that every engine gives ([`super`]). One line at the end of this file tests an engine.
//!
//! [`exact`], [`idempotency`] and [`conservative`] hold for every engine. [`local`] and [`clocks`] test that an
//! engine in this process is also exact where the guarantees are only conservative.

use super::{Arc, Batch, Commit, Event, Feed};
use crate::event::Content;

mod exact;
mod idempotency;
mod conservative;
mod local;
mod clocks;
mod steps;

#[test]
fn a_feed_holds_its_bytes() {
    // Goal: commits of exactly the limit wait; with one byte more they are lost.
    let [topic] = steps::names(["a"]);
    let event = |seq, bytes| {
        let (name, content, frame) = (None, Content::Within(0..0), vec![b'x'; bytes].into());
        Commit::Event(Arc::new(Event { seq, time_ms: 0, topic: topic.clone(), name, content, frame }))
    };
    for (last, dropped_to, left) in [(Feed::BYTES_MAX / 2, 0, 2), (Feed::BYTES_MAX / 2 + 1, 1, 1)] {
        let (feed, mut batch) = (Feed::default(), Batch::default());
        feed.push(event(1, Feed::BYTES_MAX / 2));
        feed.push(event(2, last));
        feed.take(&mut batch);
        assert_eq!((batch.dropped_to, batch.commits.len()), (dropped_to, left));
    }
}

macro_rules! conforms {
    ($engine:ident: $($kind:ident),*) => {
        mod $engine {
            $(mod $kind { conforms!(@ $kind $engine); })*
        }
    };
    (@ exact $engine:ident) => {
        conforms!(@ exact, |config| super::super::steps::$engine(config, super::super::steps::all_keys(), None);
            positions_count_from_one_over_all_topics, concurrent_appends_come_out_in_one_order,
            a_feed_carries_what_comes_after_it_was_opened, the_feed_is_told_first,
            an_append_that_nobody_awaits_is_published, a_page_ends_where_it_says, a_subscription_begins_where_it_asks,
            a_deleted_topic_is_forgotten_and_lives_again, a_feed_that_nobody_takes_is_lost_and_says_so,
            a_deletion_has_its_place_in_the_order, no_loss_is_passed_over_in_silence,
        );
        conforms!(@ idempotency, |keys| super::super::steps::$engine(super::super::steps::roomy(), keys, None);
            a_retry_gets_the_first_receipt, a_key_for_another_event_is_refused, a_key_that_nobody_awaits_answers,
            equal_keys_at_once_publish_once, a_key_is_forgotten_after_its_window,
            past_the_most_keys_the_oldest_is_forgotten, a_deletion_forgets_keys,
            a_deletion_among_publishes_leaves_no_answer_without_its_event,
        );
    };
    (@ conservative $engine:ident) => {
        conforms!(@ conservative, |config| super::super::steps::$engine(config, super::super::steps::all_keys(), None);
            retention_keeps_what_its_limits_allow_and_in_the_end_no_more,
            an_event_stays_for_its_time_and_goes_in_the_end, what_is_held_is_counted_in_the_end,
            a_start_by_time_gives_no_less_than_was_asked_for, a_deletion_is_remembered,
        );
    };
    (@ local $engine:ident) => {
        conforms!(@ local, |config| super::super::steps::$engine(config, super::super::steps::all_keys(), None);
            a_topic_keeps_its_number_of_events, a_topic_keeps_its_bytes, all_topics_keep_their_bytes,
            all_topics_keep_their_number_of_events, a_large_deletion_leaves_nothing,
            an_event_is_kept_until_it_is_too_old, an_append_drives_out_what_is_too_old,
            a_reader_is_told_exactly_of_what_it_misses, a_cursor_before_a_loss_is_told_of_it,
            a_deletion_is_a_gap_only_to_a_start_before_an_event_that_went_with_it, what_is_held_is_known,
            the_memory_of_empty_topics_is_bounded,
            a_cursor_before_a_deletion_that_it_is_told_of_has_no_gap,
        );
        conforms!(@ clocks, |config, wall| super::super::steps::$engine(config, super::super::steps::all_keys(), wall);
            a_wall_clock_that_jumps_is_followed_and_loses_nothing, since_a_time_tells_of_what_is_gone_after_it,
        );
    };
    (@ $kind:ident, $new:expr; $($behaviour:ident,)*) => {
        $(#[test] fn $behaviour() { super::super::$kind::$behaviour($new); })*
    };
}

conforms!(in_memory: exact, conservative, local);
conforms!(on_disk: exact, conservative, local);
