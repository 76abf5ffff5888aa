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
#[path = "../../tests/it/harness/nats.rs"]
#[expect(dead_code, reason = "the other tests need more of it")]
mod nats;
#[path = "../../tests/it/harness/tools.rs"]
#[expect(dead_code, clippy::let_underscore_must_use, reason = "the other tests need more of it")]
mod tools;

#[test]
fn a_feed_holds_bytes_max_bytes() {
    // Goal: commits of exactly `BYTES_MAX` wait. With one byte more, the first one is dropped.
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
            fn is_left_out() -> bool {
                super::steps::is_left_out(stringify!($engine))
            }

            $(mod $kind { conforms!(@ $kind $engine); })*
        }
    };
    (@ exact $engine:ident) => {
        conforms!(@ exact, |config| super::super::steps::$engine(config, super::super::steps::all_keys(), None);
            positions_grow_by_one_over_all_topics, concurrent_appends_have_one_order,
            a_feed_has_the_commits_after_its_opening, a_commit_is_in_the_feed_before_any_answer_shows_it,
            an_append_whose_future_is_dropped_is_published, a_page_is_complete_up_to_its_end,
            a_subscription_begins_where_it_asks, a_topic_can_be_used_again_after_its_deletion,
            a_full_feed_drops_its_commits_and_reports_it, a_deletion_is_on_the_page_that_includes_its_position,
            every_missing_event_is_reported,
        );
        conforms!(@ idempotency, |keys| super::super::steps::$engine(super::super::steps::roomy(), keys, None);
            a_retry_gets_the_first_receipt, a_key_for_another_event_is_refused,
            a_key_whose_future_is_dropped_answers_a_retry, equal_keys_at_once_publish_one_event,
            a_key_is_forgotten_after_its_window, above_a_limit_the_oldest_key_is_forgotten,
            a_deletion_forgets_the_keys_of_its_topic, after_a_deletion_no_retry_gets_a_deleted_event,
        );
    };
    (@ conservative $engine:ident) => {
        conforms!(@ conservative, |config| super::super::steps::$engine(config, super::super::steps::all_keys(), None);
            retention_keeps_what_its_limits_allow_and_in_the_end_no_more,
            an_event_stays_for_age_max_and_is_removed_in_the_end, held_is_right_in_the_end,
            a_start_by_time_leaves_out_no_event, a_deletion_is_remembered,
        );
    };
    (@ local $engine:ident) => {
        conforms!(@ local, |config| super::super::steps::$engine(config, super::super::steps::all_keys(), None);
            a_topic_keeps_topic_events_max_events, a_topic_keeps_topic_bytes_max_bytes,
            all_topics_keep_bytes_max_bytes, all_topics_keep_events_max_events, a_large_deletion_leaves_nothing,
            an_event_is_kept_until_it_is_too_old, an_append_removes_what_is_too_old,
            a_page_reports_exactly_what_is_missing, a_start_before_a_removed_event_has_a_gap,
            a_deletion_is_a_gap_only_for_a_start_before_its_events, held_is_exact,
            the_memory_of_empty_topics_is_bounded, a_start_before_a_reported_deletion_has_no_gap,
        );
    };
    (@ clocks $engine:ident) => {
        conforms!(@ clocks, |config, wall| super::super::steps::$engine(config, super::super::steps::all_keys(), wall);
            a_wall_clock_that_jumps_removes_no_event, a_start_by_time_reports_later_removed_events,
        );
    };
    (@ $kind:ident, $new:expr; $($behaviour:ident,)*) => {
        $(#[test] fn $behaviour() {
            if !super::is_left_out() {
                super::super::$kind::$behaviour($new);
            }
        })*
    };
}

conforms!(in_memory: exact, conservative, local, clocks);
conforms!(on_disk: exact, conservative, local, clocks);
// The clock of NATS gives the times of events, so they cannot be set here.
conforms!(in_cluster: exact, conservative, local);
