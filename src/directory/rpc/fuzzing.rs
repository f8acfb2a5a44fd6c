//! Fuzz targets of the directory's conversions.

use prost::Message as _;
use prost_types::Struct;

use super::settings as convert;
use crate::fuzzing::check_refusal;

/// Settings that are taken can be stored, are of bounded size and depth, and come back as they were read.
pub(crate) fn settings(data: &[u8]) {
    // As the wire has them, and as a client that writes JSON has them.
    let wire = Struct::decode(data).ok();
    let json = serde_json::from_slice(data).ok().map(convert::write);
    for settings in [wire, json].into_iter().flatten() {
        match convert::read("settings", Some(settings)) {
            Ok(read) => {
                let text = read.to_string();
                // After a backslash that stands for itself, `u0000` is only text.
                let has_nul = text.replace(r"\\", "").contains(r"\u0000");
                assert!(text.len() <= 64 * 1024 && !has_nul, "Postgres cannot store {text}");
                let again = convert::read("settings", Some(convert::write(read.clone())));
                assert_eq!(again.expect("settings that were taken are taken again"), read);
            }
            Err(fault) => check_refusal(&fault),
        }
    }
}
