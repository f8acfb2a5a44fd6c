//! Outcomes and states that are labels.

/// How a login ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoginOutcome {
    /// Signed in.
    Success,
    /// Refused.
    Refused,
    /// Shed: too much waits already.
    Shed,
    /// Refused by the rate limit of its address.
    Throttled,
    /// The password was right, and a second factor is asked for.
    SecondFactor,
    /// Something did not answer.
    Failed,
}

impl LoginOutcome {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Refused => "refused",
            Self::Shed => "shed",
            Self::Throttled => "throttled",
            Self::SecondFactor => "second_factor",
            Self::Failed => "failed",
        }
    }
}

/// Authentication method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoginMethod {
    /// Legacy password.
    Password,
    /// Kanidm.
    Kanidm,
    /// Second factor after the legacy password.
    SecondFactor,
    /// API key.
    ApiKey,
}

impl LoginMethod {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Kanidm => "kanidm",
            Self::SecondFactor => "second_factor",
            Self::ApiKey => "api_key",
        }
    }
}

/// How carrying a password over to Kanidm ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CarriedOver {
    /// It is set there.
    Done,
    /// The person has a credential already.
    Credential,
    /// Kanidm asks for a second factor.
    SecondFactor,
    /// Kanidm finds the password too weak.
    Weak,
    /// Kanidm refused for another reason.
    Refused,
    /// Kanidm did not answer.
    Unavailable,
    /// It took too long, or the user changed meanwhile.
    Dropped,
    /// Too many others were under way.
    Shed,
}

impl CarriedOver {
    /// Its name in the database and in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Credential => "credential",
            Self::SecondFactor => "second_factor",
            Self::Weak => "weak",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Dropped => "dropped",
            Self::Shed => "shed",
        }
    }
}

/// What the circuit breaker before Kanidm does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// Calls go through.
    Closed,
    /// One call is let through to find out.
    HalfOpen,
    /// Calls are refused immediately.
    Open,
}

impl Circuit {
    /// Its label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}
