//! Parses `since=`: a point in time, or a duration before now.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jiff::{SignedDuration, civil::DateTime, fmt::temporal::Pieces};

/// The Unix epoch, in UTC.
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// Parses `since`, and returns milliseconds since the Unix epoch. It accepts seconds since the epoch, a time in the
/// format of RFC 3339, or a duration before now, such as `5m`.
pub(super) fn since_ms(since: &str) -> Option<u64> {
    let duration = if since.bytes().all(|b| b.is_ascii_digit()) {
        Duration::from_secs(since.parse().ok()?)
    } else if let Some(time) = rfc3339(since) {
        Duration::try_from(time).ok()?
    } else {
        let ago = humantime::parse_duration(since).ok()?;
        SystemTime::now().duration_since(UNIX_EPOCH).ok()?.saturating_sub(ago)
    };
    u64::try_from(duration.as_millis()).ok()
}

/// Parses a time with an offset from UTC, such as `2026-11-25T10:00:00+02:00`, and returns the time since the epoch.
///
/// In a query, an unencoded plus means a blank. So a blank before the offset is read as a plus.
fn rfc3339(text: &str) -> Option<SignedDuration> {
    let (local, offset) = text.split_at_checked(text.len().checked_sub("+02:00".len())?)?;
    let text = match offset.strip_prefix(' ') {
        Some(offset) => Cow::Owned(format!("{local}+{offset}")),
        None => Cow::Borrowed(text),
    };
    // `jiff::Timestamp` ends before 9999-12-31, but many programs write the last second of that year for "never".
    let pieces = Pieces::parse(text.as_bytes()).ok().filter(|_| ends_as_rfc3339(&text))?;
    let offset = SignedDuration::from_secs(pieces.to_numeric_offset()?.seconds().into());
    Some(pieces.date().to_datetime(pieces.time()?).duration_since(EPOCH) - offset)
}

/// Whether a time ends with `Z`, or with an offset of hours and minutes that is shorter than a day. Jiff also accepts
/// the other offsets of ISO 8601, and names of time zones.
fn ends_as_rfc3339(time: &str) -> bool {
    match time.as_bytes() {
        [.., b'Z' | b'z'] => true,
        [.., b'+' | b'-', ten, one, b':', _, _] => [*ten, *one] < *b"24",
        _ => false,
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
            "2025-11-25T12:00:00.0Z",
            "20251125T12Z",
        ] {
            assert_eq!(since_ms(text), Some(NOON), "{text}");
        }
        for (text, expected) in [
            ("2025-11-25T14:00:00.250+02:00", NOON + 250),
            // Before 1970 in local time, and after it in UTC.
            ("1969-12-31T23:30:00-01:00", 1_800_000),
            ("9999-12-31T23:59:59Z", 253_402_300_799_000),
            ("9999-12-31T23:59:59-23:59", 253_402_387_139_000),
            ("2024-02-29T12:00:00Z", 1_709_208_000_000),
            // A leap second is read as the second before it.
            ("2016-12-31T23:59:60Z", 1_483_228_799_000),
        ] {
            assert_eq!(since_ms(text), Some(expected), "{text}");
        }
        for text in [
            "2025-11-25",
            "2025-11-25T14:00:00",
            "2025-11-25T14:00:00+2:00",
            "2025-11-25T14:00:00+24:00",
            "2025-11-25T14:00:00+02:60",
            "2025-11-25T14:00:00+0200",
            "2025-11-25T14:00:00+02",
            "2025-11-25T14:00:00+02:00:30",
            "2025-11-25T14:00:00+02:00[Europe/Berlin]",
            "2025-11-25T14:00:00++2:00",
            "2025-11-25T25:00:00+02:00",
            "2025-13-25T14:00:00Z",
            "2025-02-29T12:00:00Z",
            "2100-02-29T12:00:00Z",
            "1970-01-01T00:30:00+01:00",
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
