//! What a login says besides who signs in, whichever way they do.

use super::lookup;
use crate::proto::{Device, DeviceType};

/// The tenant to act in, as requests name it: by id or by slug, or not at all.
pub(super) struct Tenant {
    pub id: String,
    pub slug: String,
}

impl Tenant {
    /// The tenant that was named on the command line, if any.
    pub fn named(name: Option<String>) -> Self {
        let name = name.unwrap_or_default();
        match lookup::is_id(&name) {
            true => Self { id: name, slug: String::new() },
            false => Self { id: String::new(), slug: name },
        }
    }
}

/// What this device says of itself.
pub(super) fn this_device() -> Device {
    Device { r#type: DeviceType::Desktop.into(), platform: std::env::consts::OS.to_owned(), ..Default::default() }
}
