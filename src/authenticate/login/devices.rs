//! Known devices: a random secret that a complete login leaves with the device it was made from. Attempts that come with it are
//! counted apart, so that guessing by attackers locks no user out of their own device. It proves nothing else.

use chrono::TimeDelta;
use zeroize::Zeroizing;

use super::Login;
use super::store::types::NewKnownDevice;
use crate::token::opaque;

/// Prefix of the secrets.
const PREFIX: &str = "sidle_kd_";

/// The secret for a device that is not known yet.
pub(in crate::authenticate) struct NewDevice {
    /// The secret itself.
    pub token: Zeroizing<String>,
    /// What the database is to keep of it.
    pub record: NewKnownDevice,
}

/// What a device's secret is looked up by; none for what cannot be one, which is then a device like any other.
pub(in crate::authenticate) fn digest(token: &str) -> Option<[u8; 32]> {
    opaque::is_plausible(PREFIX, token).then(|| opaque::digest(token))
}

impl Login {
    /// A secret to leave with the device of a complete login, should it not be known by then.
    pub(in crate::authenticate) fn new_device(&self) -> NewDevice {
        let token = opaque::mint(PREFIX, &self.context.entropy);
        let limits = &self.config.passwords;
        let lifetime = TimeDelta::from_std(limits.known_device_lifetime).unwrap_or_default();
        let record = NewKnownDevice {
            known_device_id: self.context.new_id(),
            token_hash: opaque::digest(token.as_bytes()).to_vec(),
            expires_at: self.context.now() + lifetime,
            most: i32::try_from(limits.known_devices).unwrap_or(i32::MAX),
        };
        NewDevice { token, record }
    }
}
