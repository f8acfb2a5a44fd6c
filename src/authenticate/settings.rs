//! The sections of the configuration that authentication goes by.

use crate::config::{
    Config, EnrolmentConfig, KanidmConfig, MailConfig, MfaConfig, PasswordConfig, StepUpConfig, ThrottleConfig,
    TokenConfig,
};

/// What is configured of authentication.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(super) passwords: PasswordConfig,
    pub(super) mfa: MfaConfig,
    pub(super) throttle: ThrottleConfig,
    pub(super) step_up: StepUpConfig,
    pub(super) mail: MailConfig,
    pub(super) kanidm: KanidmConfig,
    pub(super) enrolment: EnrolmentConfig,
    pub(super) tokens: TokenConfig,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self {
            passwords: config.passwords.clone(),
            mfa: config.mfa.clone(),
            throttle: config.throttle.clone(),
            step_up: config.step_up.clone(),
            mail: config.mail.clone(),
            kanidm: config.kanidm.clone(),
            enrolment: config.enrolment.clone(),
            tokens: config.tokens.clone(),
        }
    }
}
