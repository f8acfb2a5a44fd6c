//! What Sidle reads of a tenant's free settings. Pure: it says whether they can be used, and whom they admit.

use serde_json::{Map, Value};

use super::names;
use crate::fault::{Fault, Result};

/// Members of `sidle` that are known.
const KNOWN: [&str; 2] = ["kanidm_first_login", "domains"];

/// Refuses settings that Sidle reads itself and could not use. `field` is where they stand in the request; each problem
/// names the member.
pub(super) fn check(field: &str, settings: &Value) -> Result<()> {
    let mut problems: Vec<(String, String)> = Vec::new();
    let mut expect = |is_fine: bool, member: &str, problem: &str| {
        if !is_fine {
            problems.push((format!("{field}.{member}"), problem.to_owned()));
        }
    };
    let is_flag = |value: Option<&Value>| value.is_none_or(Value::is_boolean);
    expect(is_flag(settings.get("allow_registration")), "allow_registration", "must be true or false, or left out");
    let empty = Map::new();
    let own = match settings.get("sidle") {
        None => &empty,
        Some(Value::Object(own)) => own,
        Some(_) => {
            expect(false, "sidle", "must be an object, or left out");
            &empty
        }
    };
    expect(is_flag(own.get("kanidm_first_login")), "sidle.kanidm_first_login", "must be true or false, or left out");
    expect(
        own.get("domains").is_none_or(are_domains),
        "sidle.domains",
        "must be a list of 1 to 100 domains in lower case, or left out",
    );
    // A misspelt member would be without effect, and nobody would be told.
    let unknown = own.keys().any(|member| !KNOWN.contains(&member.as_str()));
    expect(!unknown, "sidle", &format!("has a member that is not known; known: {}", KNOWN.join(", ")));
    let mut problems = problems.into_iter();
    match problems.next() {
        None => Ok(()),
        Some((member, problem)) => {
            Err(problems
                .fold(Fault::field(member, problem), |fault, (member, problem)| fault.and_field(member, problem)))
        }
    }
}

fn are_domains(value: &Value) -> bool {
    value.as_array().is_some_and(|domains| {
        (1..=100).contains(&domains.len()) && domains.iter().all(|domain| domain.as_str().is_some_and(names::is_domain))
    })
}

/// The domains that a tenant's users are confined to; none without the setting.
pub(super) fn domains(settings: &Value) -> Option<&Value> {
    settings.get("sidle")?.get("domains")
}

/// Whether these settings admit users whom those before did not: who registers, who is made a user at their first login
/// through Kanidm, and of which domains.
pub(super) fn lets_in_more(before: &Value, after: &Value) -> bool {
    let is_on = |settings: &Value, path: &str| settings.pointer(path) == Some(&Value::Bool(true));
    let opened = |path| is_on(after, path) && !is_on(before, path);
    let widened = domains(before).is_some() && domains(before) != domains(after);
    opened("/allow_registration") || opened("/sidle/kanidm_first_login") || widened
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_lets_in_more_people_is_told_from_what_does_not() {
        let open = json!({ "allow_registration": true });
        let first = json!({ "sidle": { "kanidm_first_login": true } });
        let confined = json!({ "sidle": { "domains": ["a.example"] } });
        for (before, after, more) in [
            (Value::Null, json!({}), false),
            (Value::Null, open.clone(), true),
            (json!({}), open.clone(), true),
            (open.clone(), open.clone(), false),
            (open, json!({ "theme": "dark" }), false),
            (json!({}), first.clone(), true),
            (first, json!({}), false),
            (json!({}), confined.clone(), false),
            (confined.clone(), json!({ "sidle": { "domains": ["a.example", "b.example"] } }), true),
            (confined.clone(), json!({}), true),
            (confined.clone(), confined, false),
        ] {
            assert_eq!(lets_in_more(&before, &after), more, "{before} to {after}");
        }
    }

    #[test]
    fn domains_that_could_not_be_compared_are_refused() {
        let domains = |list: Value| check("settings", &json!({ "sidle": { "domains": list } })).is_ok();
        assert!(domains(json!(["a.example"])) && check("settings", &json!({ "sidle": {} })).is_ok());
        for bad in
            [json!([]), json!(null), json!("a.example"), json!([1]), json!(["A.example"]), json!(["@a"]), json!([""])]
        {
            assert!(!domains(bad.clone()), "{bad}");
        }
    }

    #[test]
    fn every_unusable_member_is_named_where_it_stands() {
        let settings = json!({
            "allow_registration": "yes",
            "theme": { "anything": 1 },
            "sidle": { "kanidm_first_login": 1, "domain": ["a.example"] },
        });
        let fault = check("tenant.settings", &settings).unwrap_err();
        let named: Vec<&str> = fault.fields().iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(
            named,
            ["tenant.settings.allow_registration", "tenant.settings.sidle.kanidm_first_login", "tenant.settings.sidle"]
        );
        let fault = check("settings", &json!({ "sidle": true })).unwrap_err();
        assert_eq!(fault.fields()[0].0, "settings.sidle");
    }
}
