//! What `since=` takes: a time, or how long ago.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time, in milliseconds since the Unix epoch.
pub(super) fn since_ms(since: &str) -> Option<u64> {
    let duration = if since.bytes().all(|b| b.is_ascii_digit()) {
        Duration::from_secs(since.parse().ok()?)
    } else if let Some(time) = rfc3339(since) {
        time.duration_since(UNIX_EPOCH).ok()?
    } else {
        let ago = humantime::parse_duration(since).ok()?;
        SystemTime::now().duration_since(UNIX_EPOCH).ok()?.saturating_sub(ago)
    };
    u64::try_from(duration.as_millis()).ok()
}

/// A time with its offset from UTC: `2026-11-25T10:00:00+02:00`. In a query a plus stands for a blank unless it is encoded,
/// so a blank is taken for a plus.
fn rfc3339(text: &str) -> Option<SystemTime> {
    const DATE: usize = "2026-11-25".len();
    let (date, rest) = text.split_at_checked(DATE)?;
    let clock = rest.strip_prefix(['T', 't', ' '])?;
    let (clock, offset) = match clock.strip_suffix(['Z', 'z']) {
        Some(clock) => (clock, Offset::East(Duration::ZERO)),
        None => clock
            .split_at_checked(clock.len().checked_sub("+02:00".len())?)
            .and_then(|(clock, offset)| Some((clock, Offset::parse(offset)?)))?,
    };
    let local = humantime::parse_rfc3339(&format!("{date}T{clock}Z")).ok()?;
    match offset {
        Offset::East(by) => local.checked_sub(by),
        Offset::West(by) => local.checked_add(by),
    }
}

/// How far a local time is before or behind UTC.
enum Offset {
    East(Duration),
    West(Duration),
}

impl Offset {
    fn parse(text: &str) -> Option<Self> {
        let (of, text): (fn(Duration) -> Self, _) = match text.strip_prefix(['+', ' ']) {
            Some(text) => (Self::East, text),
            None => (Self::West, text.strip_prefix('-')?),
        };
        let (hours, minutes) = text.split_once(':')?;
        let number = |text: &str, most: u64| {
            let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
            text.parse::<u64>().ok().filter(|n| digits && *n <= most)
        };
        let minutes = number(hours, 23)? * 60 + number(minutes, 59)?;
        Some(of(Duration::from_mins(minutes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_may_be_given_with_its_offset() {
        const NOON: u64 = 1_764_072_000_000;
        for text in [
            "1764072000",
            "2025-11-25T12:00:00Z",
            "2025-11-25t12:00:00z",
            "2025-11-25 12:00:00Z",
            "2025-11-25T14:00:00+02:00",
            "2025-11-25T14:00:00 02:00",
            "2025-11-25T12:00:00-00:00",
            "2025-11-25T06:30:00-05:30",
            "2025-11-26T11:59:00+23:59",
            "2025-11-24T12:01:00-23:59",
        ] {
            assert_eq!(since_ms(text), Some(NOON), "{text}");
        }
        assert_eq!(since_ms("2025-11-25T14:00:00.250+02:00"), Some(NOON + 250));
        for text in [
            "2025-11-25",
            "2025-11-25T14:00:00",
            "2025-11-25T14:00:00+2:00",
            "2025-11-25T14:00:00+24:00",
            "2025-11-25T14:00:00+02:60",
            "2025-11-25T14:00:00+0200",
            "2025-11-25T14:00:00++2:00",
            "2025-11-25T25:00:00+02:00",
            "2025-13-25T14:00:00Z",
            "yesterday",
            "订2025-11-25T14:00:00Z",
            "2025-11-25T14:00:0订Z",
            "+02:00",
            "",
        ] {
            assert_eq!(since_ms(text), None, "{text}");
        }
    }
}
