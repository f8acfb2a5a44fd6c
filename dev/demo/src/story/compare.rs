//! The state of Kanidm itself: every migrated user once, in the right groups, and no others.

use std::collections::{BTreeMap, BTreeSet};

use super::migrate::Migrated;
use super::{Demo, people};
use crate::Result;
use crate::output::{self, fact};
use sidle::proto::AuthMethod;

/// A person as Kanidm has it.
struct Person {
    uuid: String,
    name: String,
    mail: String,
}

/// Compares the persons and groups in Kanidm, read as its administrator, with Sidle's users.
pub async fn with_kanidm(demo: &mut Demo<'_>, migrated: &Migrated) -> Result<()> {
    let step = output::step(12, "Kanidm's own view, past Sidle");
    let persons = persons(demo).await?;
    let before: BTreeSet<&str> = demo.expected.kanidm_preexisting.iter().map(|person| person.name.as_str()).collect();
    let (old, new): (Vec<&Person>, Vec<&Person>) = persons.iter().partition(|p| before.contains(p.name.as_str()));
    fact("persons", format!("{}, {} of them new", persons.len(), new.len()));
    let checks = &mut demo.checks;
    checks.number("Kanidm: persons from before", before.len(), old.len());
    checks.number("Kanidm: new persons", demo.expected.migration.succeeds, new.len());

    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for person in &new {
        *times.entry(&person.uuid).or_default() += 1;
    }
    let once = migrated.linked.keys().filter(|id| times.get(id.as_str()) == Some(&1)).count();
    checks.number("Kanidm: migrated users, each once", demo.expected.migration.succeeds, once);
    let as_planned = |person: &&&Person| {
        let planned = migrated.linked.get(&person.uuid);
        planned.is_some_and(|planned| planned.name == person.name && planned.mail == person.mail)
    };
    let planned = new.iter().filter(as_planned).count();
    checks.same("Kanidm: names and addresses as planned", &demo.expected.migration.succeeds, &planned);

    let names: BTreeMap<String, String> = new.iter().map(|p| (p.uuid.clone(), p.name.clone())).collect();
    let (mut grouped, mut linked) = (0, 0);
    for (slug, tenant_id) in demo.tenants.clone() {
        let users = people::of_tenant(demo, &tenant_id).await?;
        linked += users.iter().filter(|u| u.auth_method() == AuthMethod::Dual && u.kanidm_user_id == u.user_id).count();
        let of_tenant: BTreeSet<String> = users.iter().filter_map(|user| names.get(&user.user_id).cloned()).collect();
        grouped += groups(demo, &slug, &of_tenant).await?;
    }
    demo.checks.number("Kanidm: persons in their tenant's group", demo.expected.migration.succeeds, grouped);
    demo.checks.number("Sidle: users with both ways to sign in", demo.expected.migration.succeeds, linked);
    step.done();
    Ok(())
}

async fn persons(demo: &Demo<'_>) -> Result<Vec<Person>> {
    let attribute = |person: &serde_json::Value, name: &str| person[name][0].as_str().unwrap_or_default().to_owned();
    let persons = demo.kanidm.persons().await?;
    Ok(persons
        .iter()
        .map(|person| Person {
            uuid: attribute(person, "uuid"),
            name: attribute(person, "name"),
            mail: attribute(person, "mail"),
        })
        .collect())
}

/// Compares the groups of a tenant; returns how many of its persons are members.
async fn groups(demo: &mut Demo<'_>, slug: &str, of_tenant: &BTreeSet<String>) -> Result<usize> {
    let members = demo.kanidm.members(&format!("tenant_{slug}_users")).await?;
    let admins = demo.kanidm.members(&format!("tenant_{slug}_admins")).await?;
    fact(slug, format!("{}, {}", output::count(members.len(), "member"), output::count(admins.len(), "administrator")));
    let expected = &demo.expected.migration;
    let failed = expected.fails_by_tenant.get(slug).copied().unwrap_or_default();
    let checks = &mut demo.checks;
    checks.same(&format!("Kanidm: members of {slug}"), &(expected.total_by_tenant[slug] - failed), &members.len());
    checks.same(&format!("Kanidm: administrators of {slug}"), &expected.group_admins_by_tenant[slug], &admins.len());
    let (members, admins): (BTreeSet<String>, BTreeSet<String>) =
        (members.into_iter().collect(), admins.into_iter().collect());
    checks.same(&format!("Kanidm: who is a member of {slug}"), of_tenant, &members);
    checks.holds(&format!("administrators of {slug} are among its users"), admins.is_subset(of_tenant));
    Ok(members.intersection(of_tenant).count())
}
