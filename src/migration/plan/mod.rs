//! Plans: what a migration of a cohort would do, user by user, before it does anything.

mod assign;
mod forecast;
mod make;
mod model;
mod store;

pub use self::make::Plans;
pub use self::model::{Cohort, Plan, PlanItem};
