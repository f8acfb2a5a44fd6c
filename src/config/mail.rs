//! `[mail]`

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::secret::Secret;
use super::value;

/// How the connection to the mail server is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MailTls {
    /// In the clear at first; nothing is sent before the server has switched to TLS.
    Starttls,
    /// TLS from the first byte.
    Tls,
    /// In the clear.
    None,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MailConfig {
    /// Name of the SMTP server; empty for no mail.
    pub host: String,
    pub port: u16,
    /// How the connection is protected.
    pub tls: MailTls,
    /// Send in the clear to a server that is not on this machine.
    pub allow_plaintext: bool,
    /// PEM file with the authority of its certificate, where the system does not know it.
    #[serde(deserialize_with = "value::optional")]
    pub ca_file: Option<PathBuf>,
    /// Name to sign in with; empty for none.
    pub username: String,
    /// Password to sign in with.
    pub password: Secret,
    /// File with the password; used when `password` is empty.
    #[serde(deserialize_with = "value::optional")]
    pub password_file: Option<PathBuf>,
    /// Sender, as `name@example.com` or `Name <name@example.com>`.
    pub from: String,
    /// Where answers go; empty for the sender.
    pub reply_to: String,
    /// What messages call the service.
    pub service_name: String,
    /// The only origin that links point to.
    pub origin: String,
    /// Page for `VerifyEmail`; the token follows as `#token=`.
    pub verify_path: String,
    /// Page for `ResetPassword`; the token follows as `#token=`.
    pub reset_path: String,
    /// Page for an invitation to Kanidm; the token follows as `#token=`.
    pub enrol_path: String,
    /// Page to sign in at.
    pub sign_in_path: String,
    /// Folder whose files replace the templates of the same name.
    #[serde(deserialize_with = "value::optional")]
    pub templates: Option<PathBuf>,
    /// Longest time that connecting, and each answer of the server, may take.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How often a replica looks for messages.
    #[serde(with = "humantime_serde")]
    pub poll: Duration,
    /// How long a replica that gives no sign of life keeps a message before another takes over.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// Wait after the first failure of a message; doubled after each further one.
    #[serde(with = "humantime_serde")]
    pub retry_after: Duration,
    /// Longest such wait.
    #[serde(with = "humantime_serde")]
    pub retry_at_most: Duration,
    /// When a message that could not be sent is given up.
    #[serde(with = "humantime_serde")]
    pub give_up_after: Duration,
    /// How long it stays known that a message was sent or given up.
    #[serde(with = "humantime_serde")]
    pub keep: Duration,
    /// Messages an hour to one address: of all kinds that anybody can request together, and of each kind of notice.
    pub per_address_and_hour: u32,
    /// How long the token that verifies an address is valid.
    #[serde(with = "humantime_serde")]
    pub verification_lifetime: Duration,
    /// How long the token that sets a new password is valid.
    #[serde(with = "humantime_serde")]
    pub reset_lifetime: Duration,
}

impl MailConfig {
    /// Whether there is a mail server.
    pub fn is_configured(&self) -> bool {
        !self.host.is_empty()
    }
}
