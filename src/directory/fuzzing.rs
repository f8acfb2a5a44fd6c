//! Fuzz targets of this module.

use super::names;
pub(crate) use super::rpc::fuzzing::settings;
use crate::access::names::username;
use crate::fault::Result;
use crate::fuzzing::{Input, check_refusal};

/// A name is refused by its field, or is one that the constraints of the tables accept.
pub(crate) fn resource_names(data: &[u8]) {
    let mut input = Input::new(data);
    let text = input.rest_as_text();
    let slug = taken(names::slug("slug", &text));
    let others = [
        taken(username("username", &text)).flatten(),
        taken(names::role("name", &text)),
        taken(names::service_account("name", &text)),
        taken(names::description("description", &text)),
    ];
    assert!(
        slug.as_ref().is_none_or(|slug| uuid::Uuid::try_parse(slug).is_err() || slug.len() != 36),
        "a slug that is an id"
    );
    for name in others.iter().flatten().chain(&slug) {
        assert!(!name.chars().any(char::is_control) && name.chars().count() <= 500, "{name}");
    }
    let certificates: Vec<_> = text.lines().filter_map(|line| line.split_once(' ')).collect();
    if let Some(known) = taken(names::certificates("certificates", certificates.into_iter())) {
        // Two columns are joined by a blank, and none of them holds another.
        assert!(known.iter().all(|one| one.is_ascii() && one.matches(' ').count() == 1 && !one.contains('*')));
    }
    let listed: Vec<String> = text.lines().map(str::to_owned).collect();
    if let Some(permissions) = taken(names::permissions("permissions", &listed)) {
        assert!(permissions.windows(2).all(|pair| pair[0] < pair[1]), "sorted and each once");
        // As they stand in a token, separated by spaces.
        assert!(permissions.iter().all(|name| !name.is_empty() && name.is_ascii() && !name.contains(' ')));
    }
}

fn taken<T>(result: Result<T>) -> Option<T> {
    result.inspect_err(check_refusal).ok()
}
