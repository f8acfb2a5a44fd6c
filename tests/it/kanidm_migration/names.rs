//! Derived names, checked by Kanidm itself.

use sidle::migration::names;
use sidle_dev::random_word;
use uuid::Uuid;

use crate::support;

#[tokio::test]
async fn kanidm_accepts_what_is_derived() {
    let kanidm = support::kanidm().await;
    let word = random_word(10);
    let awkward = [
        "Zoë Ünderwood",
        "北京 用户",
        "Ω-meganame",
        "o'brien",
        "a b\tc",
        "ALL.CAPS",
        "trailing-",
        "..dots..",
        "😀 smile",
        "ab/cd\\ef",
        "ﬁligature",
        "mixed.Ünïcode_name",
        "tab\u{200b}zero",
        "Ærøskøbing",
        "İstanbul",
        "straße",
    ];
    let mut entries = Vec::new();
    for (at, text) in awkward.iter().enumerate() {
        for (form, username) in
            [format!("{text}{word}{at}"), format!("{at}{word}{text}"), format!("{}{word}{at}{text}", "x".repeat(60))]
                .into_iter()
                .enumerate()
        {
            let id = Uuid::new_v4();
            let first = names::first_choice(id, Some(&username), "", "");
            // The long ones are cut to the same, for which numbers are added.
            let name = names::choice(&first, if form == 2 { at + 1 } else { 1 });
            entries.push(serde_json::json!({ "attrs": {
                "class": ["object", "account", "person"], "uuid": [id], "name": [name], "displayname": ["Test"],
            }}));
        }
    }
    // Names that Kanidm reserves, which must be written differently.
    for kept in ["anonymous", "root"] {
        let name = names::first_choice(Uuid::new_v4(), Some(kept), "", "");
        assert_ne!(name, kept);
        let name = names::choice(&name, usize::from_str_radix(&word[..4], 36).unwrap());
        entries.push(serde_json::json!({ "attrs": {
            "class": ["object", "account", "person"], "uuid": [Uuid::new_v4()], "name": [name], "displayname": ["Test"],
        }}));
    }
    for entry in entries {
        let name = entry["attrs"]["name"][0].clone();
        let created = kanidm.post("/v1/raw/create", &serde_json::json!({ "entries": [entry] })).await;
        assert!(created.is_ok(), "{name}: {created:?}");
    }
}
