//! Fuzz targets of imports.

use uuid::Uuid;

use super::mapping::{Header, Mapping};
use super::row::{Row, Unreadable};
use crate::access::input;
use crate::access::names::email_key;
use crate::credential::hash_form;
use crate::fuzzing::Input;

/// A byte of flags, nine lines of fields, then the mapping of tenants and roles: a value and what it stands for on
/// alternate lines. A row is refused with findings, or has everything that the tables ask of a user.
pub(crate) fn import_rows(data: &[u8]) {
    let mut reader = Input::new(data);
    let flags = reader.byte();
    let mut next = || reader.text().into_owned();
    let row = Row {
        line: i64::from(flags),
        legacy_id: next(),
        email: next(),
        username: next(),
        full_name: next(),
        password_hash: next(),
        is_active: flags & 1 != 0,
        created_at: if flags & 2 != 0 { Err(()) } else { Ok(None) },
        tenant: next(),
        role: next(),
        unreadable: if flags & 4 != 0 { Unreadable::read("created_at", next()) } else { None },
    };
    let default_role = next();
    let mut header = Header { default_role, ..Header::default() };
    for _ in 0..8 {
        header.tenants.insert(next(), "harbour".to_owned());
        header.roles.insert(next(), next());
    }
    let mapping = Mapping::of(&header);
    assert_eq!(row.digest(), row.clone().digest());
    match row.judge(&mapping, "disabled", Uuid::from_u128(7)) {
        Ok(candidate) => {
            assert!(input::email("email", &candidate.email).is_ok(), "{}", candidate.email);
            assert_eq!(candidate.email_key, email_key(&candidate.email_key));
            let texts = [Some(&candidate.full_name), candidate.legacy_id.as_ref(), candidate.username.as_ref()];
            assert!(texts.into_iter().flatten().all(|text| !text.chars().any(char::is_control)));
            assert!(candidate.username_key().is_none_or(|key| !key.is_empty()));
            assert!(!candidate.tenant_id.is_nil() && !candidate.role_id.is_nil());
            if let Some(hash) = &candidate.password_hash {
                assert_eq!(hash_form::read(hash).ok(), candidate.form);
            }
        }
        Err(findings) => {
            assert!(!findings.is_empty(), "refused for nothing");
            let details = || findings.iter().map(|finding| &finding.detail);
            assert!(details().all(|text| text.chars().count() <= 256 && !text.chars().any(char::is_control)));
        }
    }
}
