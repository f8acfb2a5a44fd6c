//! Plans: what a migration of a cohort would do, user by user, before it does anything.

mod assign;
mod forecast;
mod make;
mod store;

pub use self::make::{Cohort, Plan, PlanItem, Plans};
