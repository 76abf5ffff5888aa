//! The latest commands to end the streams of identities, for streams that are handed over later.
//!
//! HTTP checks the right of a stream, and hands the stream over a little later. If a key is removed in between, the
//! command to end the streams of this key comes before the stream. So the hub remembers the command, and applies it to
//! each later stream whose right was checked before the command.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{command::EndWhere, connection::CheckedRight, end::End};

/// How many commands are remembered. In the time between the check and the hand-over there are usually none.
const KEPT_MAX: usize = 64;

/// The latest commands.
pub(super) struct RecentEnds {
    commands: VecDeque<EndWhere>,
    /// `commands` has all commands from this moment on. Earlier ones may have been forgotten.
    known_since: Instant,
}

impl RecentEnds {
    pub(super) fn new(now: Instant) -> Self {
        Self { commands: VecDeque::new(), known_since: now }
    }

    pub(super) fn push(&mut self, command: EndWhere) {
        self.commands.push_back(command);
        if self.commands.len() > KEPT_MAX
            && let Some(dropped) = self.commands.pop_front()
        {
            // A stream that began at the same moment as the dropped command may be one that it was for.
            self.known_since = self.known_since.max(dropped.at + Duration::from_nanos(1));
        }
    }

    /// Why a stream that is handed over with this right must end at once; `None` if it need not. If a command that the
    /// stream needs may have been forgotten, the stream ends: its client comes back, and the right is checked again.
    pub(super) fn end_of(&self, right: &CheckedRight) -> Option<End> {
        if right.checked_at < self.known_since {
            return Some(End::Unauthorized);
        }
        let command = self.commands.iter().find(|command| {
            let was_checked_before = right.checked_at <= command.at;
            was_checked_before && (command.matches)(&right.identity)
        });
        command.map(|command| command.end)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::identity::Identity;

    #[test]
    fn a_right_that_was_checked_before_a_command_is_checked_again() {
        // Goal: a stream that was on its way to the hub ends, too; one whose right was checked later does not; and
        // commands beyond the limit are not forgotten silently.
        let start = Instant::now();
        let at = |second: u64| start + Duration::from_secs(second);
        let right = |key: &str, second| {
            let identity = Identity { key: key.into(), subject: None };
            CheckedRight { identity: Arc::new(identity), checked_at: at(second), ends_at: None }
        };
        let mut recent = RecentEnds::new(at(1));
        assert_eq!(recent.end_of(&right("old", 0)), Some(End::Unauthorized), "from before the hub");
        assert_eq!(recent.end_of(&right("old", 1)), None);
        let matches = Arc::new(|identity: &Identity| &*identity.key == "old");
        let command = EndWhere { matches, at: at(5), end: End::Ended };
        recent.push(command.clone());
        let ends =
            [("old", 4), ("old", 5), ("old", 6), ("new", 4)].map(|(key, second)| recent.end_of(&right(key, second)));
        assert_eq!(ends, [Some(End::Ended), Some(End::Ended), None, None]);
        for second in 6..6 + 64 {
            recent.push(EndWhere { at: at(second), ..command.clone() });
        }
        assert_eq!(recent.end_of(&right("new", 5)), Some(End::Unauthorized), "the first command is forgotten");
        assert_eq!(recent.end_of(&right("new", 6)), None);
    }
}
