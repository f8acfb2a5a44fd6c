use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// What a verifier does, written from docs/audit-leaf.md: tags and values in the order in which they stand.
fn decode(leaf: &[u8]) -> Option<BTreeMap<u8, Vec<u8>>> {
    let mut rest = leaf.strip_prefix(MAGIC)?;
    let mut fields = BTreeMap::new();
    while let Some((&tag, after)) = rest.split_first() {
        let (length, after) = after.split_at_checked(4)?;
        let length = u32::from_be_bytes(length.try_into().ok()?);
        let (value, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
        if fields.last_key_value().is_some_and(|(last, _)| *last >= tag) {
            return None;
        }
        fields.insert(tag, value.to_vec());
        rest = after;
    }
    Some(fields)
}

fn fixed(details: &Map<String, Value>) -> Leaf<'_> {
    Leaf {
        position: 42,
        event_id: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001),
        event_type: "session.revoked",
        outcome: "refused",
        reason: Some("not_owner"),
        occurred_at_micros: 1_767_225_600_000_001,
        recorded_at_micros: 1_767_225_600_050_000,
        tenant_id: Some(Uuid::from_u128(7)),
        actor_kind: "user",
        actor_id: Some(Uuid::from_u128(8)),
        target_kind: Some("session"),
        target_id: Some("00000000-0000-0000-0000-000000000009"),
        session_id: None,
        correlation_id: Some(Uuid::from_u128(10)),
        request_id: None,
        source: None,
        details,
        origin: Commitment::To([0xab; 32]),
        personal: Commitment::Erased,
    }
}

#[test]
fn the_bytes_of_a_fixed_event_never_change() {
    let details = json!({"count": 3, "by": "admin"});
    let leaf = fixed(details.as_object().unwrap()).encode();
    // One line for the beginning and one for each field, made by hand from docs/audit-leaf.md in another language.
    let expected = [
        "7369646c65206175646974206c65616620310a",
        "0100000008000000000000002a",
        "020000001001900000000070008000000000000001",
        "030000000f73657373696f6e2e7265766f6b6564",
        "040000000772656675736564",
        "05000000096e6f745f6f776e6572",
        "06000000080006474846204001",
        "07000000080006474846210350",
        "080000001000000000000000000000000000000007",
        "090000000475736572",
        "0a0000001000000000000000000000000000000008",
        "0b0000000773657373696f6e",
        "0c0000002430303030303030302d303030302d303030302d303030302d303030303030303030303039",
        "0e000000100000000000000000000000000000000a",
        "11000000187b226279223a2261646d696e222c22636f756e74223a337d",
        "1200000020abababababababababababababababababababababababababababababababab",
        "1500000006657261736564",
    ];
    assert_eq!(HEXLOWER.encode(&leaf), expected.concat());
    assert_eq!(HEXLOWER.encode(&hash(&leaf)), "c85783fdcbed9c1c63defebdff39df34cb0df461e68592dd58f29bed216ff03f");
}

#[test]
fn a_leaf_hash_is_that_of_rfc_6962() {
    // The hash of the empty leaf, as other implementations of RFC 6962 publish it.
    assert_eq!(HEXLOWER.encode(&hash(b"")), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
}

/// What an event is made of: position, ids, words, times, which of the optional parts it has, details, commitments.
type Parts = (i64, [u128; 5], [String; 6], [i64; 2], [bool; 8], Map<String, Value>, [Commitment; 2]);

prop_compose! {
    fn events()(
        position in 1i64..,
        ids in prop::array::uniform5(any::<u128>()),
        words in prop::array::uniform6("[a-z.]{1,12}"),
        times in prop::array::uniform2(any::<i64>()),
        has in prop::array::uniform8(any::<bool>()),
        count in -1000i64..1000,
        digests in prop::array::uniform2(0u8..4),
    ) -> Parts {
        let details = json!({"count": count, "word": words[5]}).as_object().unwrap().clone();
        let commitment = |kind| match kind {
            0 => Commitment::None,
            1 => Commitment::Lost,
            2 => Commitment::Erased,
            _ => Commitment::To([kind; 32]),
        };
        (position, ids, words, times, has, details, digests.map(commitment))
    }
}

fn leaf_of((position, ids, words, times, has, details, commitments): &Parts) -> Leaf<'_> {
    let id = |at: usize| has[at].then(|| Uuid::from_u128(ids[at]));
    Leaf {
        position: *position,
        event_id: Uuid::from_u128(ids[0]),
        event_type: &words[0],
        outcome: &words[1],
        reason: has[0].then_some(words[2].as_str()),
        occurred_at_micros: times[0],
        recorded_at_micros: times[1],
        tenant_id: id(1),
        actor_kind: &words[3],
        actor_id: id(2),
        target_kind: has[5].then_some(words[4].as_str()),
        target_id: has[6].then_some(words[5].as_str()),
        session_id: id(3),
        correlation_id: id(4),
        request_id: has[7].then(|| Uuid::from_u128(ids[3])),
        source: has[7].then_some(words[1].as_str()),
        details,
        origin: commitments[0],
        personal: commitments[1],
    }
}

proptest! {
    #[test]
    fn everything_in_an_event_is_read_back_from_its_leaf(event in events()) {
        let leaf = leaf_of(&event);
        let fields = decode(&leaf.encode()).expect("a verifier can read it");
        let text = |tag: u8| fields.get(&tag).map(|value| String::from_utf8(value.clone()).unwrap());
        let id = |tag: u8| fields.get(&tag).map(|value| Uuid::from_slice(value).unwrap());
        let number = |tag: u8| i64::from_be_bytes(fields[&tag].as_slice().try_into().unwrap());
        prop_assert_eq!((number(1), number(6), number(7)), (leaf.position, leaf.occurred_at_micros, leaf.recorded_at_micros));
        prop_assert_eq!((id(2), id(8), id(10)), (Some(leaf.event_id), leaf.tenant_id, leaf.actor_id));
        prop_assert_eq!((id(13), id(14), id(15)), (leaf.session_id, leaf.correlation_id, leaf.request_id));
        let texts = [(3, Some(leaf.event_type)), (4, Some(leaf.outcome)), (5, leaf.reason), (9, Some(leaf.actor_kind)),
            (11, leaf.target_kind), (12, leaf.target_id), (16, leaf.source)];
        for (tag, value) in texts {
            prop_assert_eq!(text(tag), value.map(str::to_owned));
        }
        prop_assert_eq!(&serde_json::from_slice::<Map<String, Value>>(&fields[&17]).unwrap(), leaf.details);
        for (tag, commitment) in [(18, leaf.origin), (20, leaf.personal)] {
            let read = match (fields.get(&tag), text(tag + 1).as_deref()) {
                (Some(digest), None) => Commitment::To(digest.as_slice().try_into().unwrap()),
                (None, Some("lost")) => Commitment::Lost,
                (None, Some("erased")) => Commitment::Erased,
                (None, None) => Commitment::None,
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(read, commitment);
        }
    }

    #[test]
    fn different_events_never_have_equal_bytes(event in events(), id: u128, text in "[A-Z]{1,9}", number in 1001i64..) {
        let leaf = leaf_of(&event);
        let (id, text) = (Uuid::from_u128(id), text.as_str());
        let details = json!({"count": number}).as_object().unwrap().clone();
        let others = [
            Leaf { position: leaf.position - 1, ..leaf.clone() },
            Leaf { event_id: id, ..leaf.clone() },
            Leaf { event_type: text, ..leaf.clone() },
            Leaf { outcome: text, ..leaf.clone() },
            Leaf { reason: Some(text), ..leaf.clone() },
            Leaf { occurred_at_micros: !leaf.occurred_at_micros, ..leaf.clone() },
            Leaf { recorded_at_micros: !leaf.recorded_at_micros, ..leaf.clone() },
            Leaf { tenant_id: Some(id), ..leaf.clone() },
            Leaf { actor_kind: text, ..leaf.clone() },
            Leaf { actor_id: Some(id), ..leaf.clone() },
            Leaf { target_kind: Some(text), ..leaf.clone() },
            Leaf { target_id: Some(text), ..leaf.clone() },
            Leaf { session_id: Some(id), ..leaf.clone() },
            Leaf { correlation_id: Some(id), ..leaf.clone() },
            Leaf { request_id: Some(id), ..leaf.clone() },
            Leaf { source: Some(text), ..leaf.clone() },
            Leaf { details: &details, ..leaf.clone() },
            Leaf { origin: Commitment::To([9; 32]), ..leaf.clone() },
            Leaf { personal: Commitment::To([9; 32]), ..leaf.clone() },
        ];
        let all: std::collections::HashSet<Vec<u8>> = others.iter().chain([&leaf]).map(Leaf::encode).collect();
        prop_assert_eq!(all.len(), others.len() + 1);
    }

    #[test]
    fn moving_a_letter_from_one_field_to_the_next_changes_the_bytes(word in "[a-z]{2,12}", cut in 1usize..11) {
        let details = Map::new();
        let cut = cut.min(word.len() - 1);
        let (kind, id) = word.split_at(cut);
        let (short_kind, long_id) = word.split_at(cut - 1);
        let a = Leaf { target_kind: Some(kind), target_id: Some(id), ..fixed(&details) };
        let b = Leaf { target_kind: Some(short_kind), target_id: Some(long_id), ..fixed(&details) };
        prop_assert_ne!(a.encode(), b.encode());
    }
}
