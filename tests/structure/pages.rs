//! Pages that are generated from the sources. `SIDLE_WRITE_PAGES=1 cargo test --test structure` writes them anew.

use std::fmt::Write as _;

use sidle::access::{Policy, max_request_bytes, policies, sensitive};
use sidle::fault::answers;

use crate::{files, root};

const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

fn same(page: &str, expected: &str) {
    let path = root().join(page);
    if std::env::var("SIDLE_WRITE_PAGES").is_ok() {
        std::fs::write(&path, expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "{page} is not current: run SIDLE_WRITE_PAGES=1 cargo test --test structure");
}

#[test]
fn errors_page_is_current() {
    let mut page = String::from(
        "# Errors\n\nGenerated from `proto/sidle/v1/errors.proto`. Every refusal is a `google.rpc.Status` with an `ErrorInfo` in \
         the domain `sidle`; its reason is one of these and never changes its meaning or its code. Branch on reasons, never \
         on message text. `ErrorInfo.metadata` carries the correlation id and the facts named here; `BadRequest` names \
         fields, `RetryInfo` says how long to wait. An error takes less than 4 KiB of a client's headers: where a value of the \
         metadata is cut, `KEY_left_out` counts what is missing of it (entries of a list, bytes of another text), and \
         `left_out` counts values and fields that are missing whole.\n\n",
    );
    for answer in answers() {
        let code = CODES[usize::try_from(answer.code).unwrap()];
        writeln!(page, "## {}\n\n`{code}`. {}\n\n**What to do.** {}\n", answer.name, answer.meaning, answer.remedy)
            .unwrap();
    }
    same("docs/errors.md", page.trim_end());
}

#[test]
fn permissions_page_is_current() {
    let mut page = String::from(
        "# Permissions\n\nGenerated from the `policy` option on every RPC in `proto/sidle/v1/`. What is not listed is denied. \
         Step-up: the call, or what the comment on the RPC says of it, needs a fresh proof of who is calling besides. A \
         message of the request that is larger than its limit answers `MESSAGE_TOO_LARGE`.\n\n\
         | RPC | Who may call it | Largest message of the request |\n|---|---|---|\n",
    );
    for (path, policy) in policies() {
        let rpc = path.trim_start_matches("/sidle.v1.").replace('/', ".");
        let who = match policy {
            Policy::Public => "anybody".to_owned(),
            Policy::Authenticated => "anybody who has signed in".to_owned(),
            Policy::Own("") => "anybody who has signed in, for what is their own".to_owned(),
            Policy::Own(permission) => {
                format!("anybody who has signed in, for what is their own; others' with `{permission}`")
            }
            Policy::Permission(permission) => format!("`{permission}`"),
        };
        let step_up = sensitive(path.trim_start_matches('/')).map_or("", |_| "; step-up");
        let largest = max_request_bytes(path).unwrap() / 1024;
        writeln!(page, "| {rpc} | {who}{step_up} | {largest} KiB |").unwrap();
    }
    page.push_str(
        "\n## Reserved for the platform\n\nA role or a service account with `*` in a tenant may do everything there but what reaches \
         beyond it: into the Kanidm that all tenants share, over all users, or into the service itself. These permissions \
         count in a tenant only where they are named, which takes somebody who holds them on the platform:\n\n",
    );
    for permission in sidle::access::PLATFORM_RESERVED {
        writeln!(page, "- `{permission}`").unwrap();
    }
    page.push_str(
        "\n## Permissions without an RPC of their own\n\n- `roles.assign`: to give users roles that the giver does not have \
         (`CreateMembership`, `CreateUser`, `ImportUsers`). What a role means to other services its permissions here do not \
         say, so `memberships.write` alone gives only roles that one has, and the plain member's role `user`.\n",
    );
    same("docs/permissions.md", page.trim_end());
}

/// A page that was renamed must not leave broken links.
#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut pages: Vec<(String, String)> =
        files("docs", ".md").into_iter().map(|(page, text)| (format!("docs/{page}"), text)).collect();
    for page in ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        pages.push((page.to_owned(), std::fs::read_to_string(root().join(page)).unwrap()));
    }
    let mut broken = Vec::new();
    let mut followed = 0;
    for (page, text) in &pages {
        let folder = root().join(page).parent().unwrap().to_owned();
        for link in text.split("](").skip(1) {
            let target = link.split([')', '#', ' ', '\n']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            followed += 1;
            if !folder.join(target).exists() {
                broken.push(format!("{page}: {target}"));
            }
        }
    }
    assert!(broken.is_empty(), "links to what is not there: {broken:#?}");
    assert!(followed > 50, "links are found: {followed}");
}
