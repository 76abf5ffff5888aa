//! Any bytes are one envelope or none.

use proptest::prelude::*;

use super::*;
use crate::fuzz;

const PIECES: &[&str] = &[
    "\u{1}",
    "\0",
    "\u{1}\0\u{4}news\0\0\0",
    "\u{1}\u{1}\u{4}news",
    "\u{1}\0\u{4}news\u{4}tick\u{3}key0123456789abcdef\0",
    "\u{1}\u{2}\u{4}news01234567\0\0\0",
    "\u{1}\u{4}\u{4}news\0",
    "\u{1}\u{4}\0\u{1}01234567\0\0",
    "\u{2}",
    "\u{7f}",
    "\u{4}news",
    "content",
    "broker.",
    "\n",
];

#[test]
fn the_form_of_an_envelope_stays() {
    // Goal: a release reads what an earlier one wrote. The stream outlives both.
    let topic = TopicName::parse("news", 255).expect("a name");
    let name = Some(EventName::parse("tick").expect("a name"));
    let (key, content) = (Some(("key".into(), 7)), Bytes::from_static(b"hello"));
    let event = Envelope::Event(Sent { topic: topic.clone(), name, key, subscribers: 300, content });
    let bytes = b"\x01\x00\x04news\x04tick\x03key\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x07\xac\x02hello";
    assert_eq!(event.encode(), &bytes[..]);
    assert_eq!(decoded(bytes), Some(event));
    let Some(Envelope::Event(sent)) = decoded(bytes) else { panic!("an event") };
    let imported = Envelope::Imported(sent, 0x0102_0304);
    let bytes =
        b"\x01\x02\x04news\0\0\0\0\x01\x02\x03\x04\x04tick\x03key\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x07\xac\x02hello";
    assert_eq!(imported.encode(), &bytes[..]);
    assert_eq!(decoded(bytes), Some(imported));
    let missing = |topic: Option<&TopicName>, is_unreadable, key| {
        let topic = topic.cloned();
        Envelope::Missing(Missing { topic, is_unreadable, time_ms: 9, key, subscribers: 2 })
    };
    for (missing, bytes) in [
        (missing(None, false, None), &b"\x01\x04\0\0\0\0\0\0\0\0\0\x09\0\x02"[..]),
        (
            missing(Some(&topic), true, Some(("k".into(), 1))),
            b"\x01\x04\x04news\x01\0\0\0\0\0\0\0\x09\x01k\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x02",
        ),
    ] {
        assert_eq!(missing.encode(), bytes);
        assert_eq!(decoded(bytes), Some(missing));
    }
    let deletion = Envelope::Deletion(topic);
    assert_eq!(deletion.encode(), &b"\x01\x01\x04news"[..]);
    assert_eq!(Envelope::decode(&deletion.encode()), Some(deletion));
    let end = Envelope::SubjectEnd("ann".to_owned());
    assert_eq!(end.encode(), &b"\x01\x03\x03ann"[..]);
    assert_eq!(Envelope::decode(&end.encode()), Some(end));
    assert_eq!(Envelope::Marker.encode(), &b"\x01\x05\x00"[..]);
    assert_eq!(Envelope::decode(&Envelope::Marker.encode()), Some(Envelope::Marker));
}

fn decoded(bytes: &'static [u8]) -> Option<Envelope> {
    Envelope::decode(&Bytes::from_static(bytes))
}

#[test]
fn what_is_no_envelope_is_refused() {
    for bytes in [
        &b""[..],
        b"\x01",
        b"\x02\x01\x04news",
        b"\x01\x06\x04news",
        b"\x01\x04\x04news",
        b"\x01\x01\x00",
        b"\x01\x00\x00\x00\x00\x00",
        b"\x01\x02\x04news1234567",
        b"\x01\x04\x04news\x0212345678\x00\x00",
        b"\x01\x04\x04news\x0012345678\x00\x00!",
        b"\x01\x01\x05news",
        b"\x01\x01\x04news!",
        b"\x01\x03\x03ann!",
        b"\x01\x05\x01a",
        b"\x01\x05\x00a",
        b"\x01\x01\x84\x00news",
        b"\x01\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x01\x00\x04news\x00\x03key123\x00",
        b"\x01\x00\x04news\x00\x00\x00\xff",
        b"\x01\x00\x04ne\nw\x00\x00\x00",
        b"\x01\x00\x04news\x08broker.x\x00\x00",
    ] {
        assert_eq!(Envelope::decode(&Bytes::copy_from_slice(bytes)), None, "{bytes:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_one_envelope_or_none(bytes in fuzz::bytes(PIECES)) {
        let bytes = Bytes::from(bytes);
        if let Some(envelope) = Envelope::decode(&bytes) {
            prop_assert_eq!(envelope.encode(), bytes);
        }
    }

    #[test]
    fn an_envelope_is_read_as_it_is_written(
        topic in fuzz::text(PIECES), name in fuzz::text(PIECES), key in fuzz::text(PIECES),
        print in any::<u128>(), subscribers in 0..usize::MAX / 2, content in fuzz::text(PIECES), time_ms in any::<u64>(),
    ) {
        if let Ok(topic) = TopicName::parse(&topic, 255) {
            let subject = key.clone();
            let key = (!key.is_empty()).then(|| (key.as_str().into(), print));
            let (name, content) = (EventName::parse(&name).ok(), Bytes::from(content));
            let missing = Missing { topic: None, is_unreadable: false, time_ms, key: key.clone(), subscribers };
            let lost = Missing { topic: Some(topic.clone()), is_unreadable: true, ..missing.clone() };
            let event = Sent { topic: topic.clone(), name, key, subscribers, content };
            for envelope in [
                Envelope::Event(event.clone()),
                Envelope::Imported(event, time_ms),
                Envelope::Deletion(topic),
                Envelope::SubjectEnd(subject),
                Envelope::Missing(missing),
                Envelope::Missing(lost),
            ] {
                prop_assert_eq!(Envelope::decode(&envelope.encode()), Some(envelope));
            }
        }
    }
}
