//! Carrying a password over: when it was just right here, and Kanidm takes a password alone, it is set there too. The
//! password is in wiped memory for some seconds and nowhere else: what cannot be done immediately is not done, and the
//! next login tries again.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::Enrolment;
use super::store::{self as store, Enrollee, Lease};
use crate::access::Call;
use crate::audit::{Event, EventType, Outcome};
use crate::authenticate::Outcome as Login;
use crate::correlation;
use crate::db::Scope;
use crate::fault::{Fault, Reason, Result};
use crate::kanidm::{Kanidm, KanidmError, Update};
use crate::mail::{Kind, Message};
use crate::metrics::CarriedOver;

impl Enrolment {
    /// Whether the password of this login may have to be carried over.
    pub(in crate::authenticate) fn carries_over(&self, login: &Login) -> bool {
        let is_on = self.config.enrolment.carry_over && self.kanidm.is_some();
        // Never half a login: a user with a second factor shows that in another call, without the password.
        matches!(login, Login::SignedIn(user) if is_on && user.user.auth_method == "dual" && !user.must_change_password)
    }

    /// Begins to carry a password over that was right in this version in a login that is complete, if that is switched
    /// on and a permit is free. Called after the answer; waits for the database only, and goes on by itself.
    pub(in crate::authenticate) async fn carry_over(
        &self,
        call: &Call,
        user: Uuid,
        password_version: i64,
        password: &Zeroizing<String>,
    ) {
        let config = &self.config.enrolment;
        let Some(kanidm) = self.kanidm.clone().filter(|_| config.carry_over) else { return };
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            self.metrics.carried_over(CarriedOver::Shed);
            return;
        };
        let lease = Lease { id: self.context.new_id(), time: config.carry_over_timeout + Duration::from_secs(5) };
        let begun = self.lease_to_carry_over(user, password_version, lease).await;
        let Some(what) = begun.inspect_err(|fault| left(user, fault)).ok().flatten() else { return };
        let (enrolment, correlation, password) = (self.clone(), call.correlation_id, password.clone());
        correlation::spawn(async move {
            let task = Task { kanidm, user, what, lease, _permit: permit };
            let outcome = enrolment.within_time(&task, password).await;
            if let Err(fault) = enrolment.ended(&task, outcome, correlation).await {
                left(user, &fault);
            }
        });
    }

    /// Takes the lease on the person of a user whose password may be carried over: one of this version.
    async fn lease_to_carry_over(&self, user: Uuid, version: i64, lease: Lease) -> Result<Option<CarryOver>> {
        let config = &self.config.enrolment;
        let mut tx = self.db.begin(Scope::Platform).await?;
        let now = self.context.now();
        store::lock_user(&mut tx, user).await?;
        let enrollee = store::enrollee(&mut tx, user).await?.filter(|enrollee| {
            may_be_carried_over(enrollee, now)
                && enrollee.password_version == version
                && (config.tenants.is_empty() || config.tenants.contains(&enrollee.tenant))
        });
        let Some((person, enrollee)) = enrollee.and_then(|enrollee| Some((enrollee.person?, enrollee))) else {
            return Ok(None);
        };
        let (tenant_id, password_changed_at) = (enrollee.tenant_id, enrollee.password_changed_at);
        let again_after = config.carry_over_again_after;
        let leased = store::lease_to_carry_over(&mut tx, person, password_changed_at, now, again_after, lease).await?;
        tx.commit().await?;
        Ok(leased.then_some(CarryOver { person, tenant_id, password_changed_at }))
    }

    /// Whether the password may still be carried over.
    async fn still_may(&self, task: &Task) -> Result<bool> {
        let mut tx = self.db.begin(Scope::Platform).await?;
        let what = &task.what;
        store::lock_user(&mut tx, task.user).await?;
        let enrollee = store::enrollee(&mut tx, task.user).await?.filter(|enrollee| {
            enrollee.person == Some(what.person)
                && may_be_carried_over(enrollee, self.context.now())
                && enrollee.password_changed_at == what.password_changed_at
        });
        let may = enrollee.is_some() && store::is_leased(&mut tx, what.person, task.lease).await?;
        // Before Kanidm is asked again: no call waits for it with a row of ours locked.
        tx.commit().await?;
        Ok(may)
    }

    /// Carries over until the time is up; the password goes with the time.
    async fn within_time(&self, task: &Task, password: Zeroizing<String>) -> CarriedOver {
        let limit = self.config.enrolment.carry_over_timeout;
        let carried = tokio::time::timeout(limit, self.carry(task, password)).await;
        match carried {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(Failure::Kanidm(error))) if is_unavailable(&error) => CarriedOver::Unavailable,
            Ok(Err(Failure::Kanidm(KanidmError::Refused(_, code)))) if code == "passwordquality" => CarriedOver::Weak,
            Ok(Err(Failure::Kanidm(error))) => {
                tracing::info!(event = "password_carry_over_refused", %error, user_id = %task.user);
                CarriedOver::Refused
            }
            Ok(Err(Failure::Other(fault))) => {
                left(task.user, &fault);
                CarriedOver::Dropped
            }
            Err(_) => CarriedOver::Dropped,
        }
    }

    async fn carry(&self, task: &Task, password: Zeroizing<String>) -> Result<CarriedOver, Failure> {
        let kanidm = &task.kanidm;
        if kanidm.has_credential(task.what.person).await? {
            return Ok(CarriedOver::Credential);
        }
        let update = kanidm.begin_update(task.what.person).await?;
        let status = kanidm.set_password(&update, &password).await;
        drop(password);
        let status = match status {
            Ok(status) => status,
            Err(error) => return Err(self.cancel(kanidm, &update, error).await),
        };
        let refusal = match (status.can_commit, status.needs_second_factor) {
            (_, true) => Some(CarriedOver::SecondFactor),
            (false, false) => Some(CarriedOver::Refused),
            (true, false) => None,
        };
        // While Kanidm was asked the user may have got a second factor, another password, or be locked.
        let may = refusal.is_none() && self.still_may(task).await?;
        if !may {
            kanidm.cancel_update(&update).await?;
            return Ok(refusal.unwrap_or(CarriedOver::Dropped));
        }
        kanidm.commit_update(&update).await?;
        Ok(CarriedOver::Done)
    }

    async fn cancel(&self, kanidm: &Kanidm, update: &Update, error: KanidmError) -> Failure {
        // One that cannot be cancelled lapses by itself.
        if !error.is_outcome_unknown() {
            let _ = kanidm.cancel_update(update).await;
        }
        error.into()
    }

    async fn ended(&self, task: &Task, outcome: CarriedOver, correlation: Uuid) -> Result<()> {
        self.metrics.carried_over(outcome);
        let by_system =
            |event| Event::by_system(event, correlation).target("user", task.user).tenant(task.what.tenant_id);
        let event = match outcome {
            CarriedOver::Done => Some(by_system(EventType::MigrationPasswordCarriedOver)),
            CarriedOver::SecondFactor | CarriedOver::Weak | CarriedOver::Refused => {
                let event = by_system(EventType::MigrationPasswordNotCarriedOver).outcome(Outcome::Failed);
                Some(event.reason(outcome.as_str()))
            }
            // Nothing about the user; the metric has it.
            _ => None,
        };
        let mut change = self.changes.begin(Scope::Platform).await?;
        let (person, now) = (task.what.person, change.now);
        store::lock_user_of(&mut change.tx, person).await?;
        if matches!(outcome, CarriedOver::Done | CarriedOver::Credential) {
            store::credential_seen(&mut change.tx, person, now).await?;
        }
        store::carried_over(&mut change.tx, person, task.lease, outcome.as_str(), now).await?;
        if let Some(event) = event {
            change.record(event).await?;
        }
        if outcome == CarriedOver::Done {
            change.notify(Message::to_user(Kind::PasswordCarriedOver, task.user)).await?;
        }
        change.commit().await?;
        let outcome = outcome.as_str();
        tracing::info!(event = "password_carry_over_ended", outcome, user_id = %task.user);
        Ok(())
    }
}

/// Whose password may be carried over, as the user is now, before anything is known of the person.
fn may_be_carried_over(enrollee: &Enrollee, now: DateTime<Utc>) -> bool {
    enrollee.is_pending
        && !enrollee.must_change_password
        && enrollee.locked_until.is_none_or(|until| until <= now)
        && !enrollee.has_second_factor
}

/// A password that may be carried over.
#[derive(Clone, Copy, Debug)]
struct CarryOver {
    person: Uuid,
    tenant_id: Uuid,
    password_changed_at: Option<DateTime<Utc>>,
}

/// A password that is being carried over, but for the password.
struct Task {
    kanidm: Kanidm,
    user: Uuid,
    what: CarryOver,
    lease: Lease,
    _permit: OwnedSemaphorePermit,
}

/// Why it could not be.
enum Failure {
    Kanidm(KanidmError),
    Other(Fault),
}

impl From<KanidmError> for Failure {
    fn from(error: KanidmError) -> Self {
        Self::Kanidm(error)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Other(fault)
    }
}

/// Whether Kanidm did not answer, or is not asked because it did not of late.
fn is_unavailable(error: &KanidmError) -> bool {
    Fault::from(error.clone()).reason() == Reason::KanidmUnavailable
}

/// There will be another login.
fn left(user: Uuid, fault: &Fault) {
    tracing::info!(event = "password_not_carried_over", %fault, user_id = %user);
}
