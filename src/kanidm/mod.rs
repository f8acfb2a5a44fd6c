//! The client of Kanidm, and all that speaks to it. Knows persons, groups and OpenID Connect as Kanidm has them, and
//! nothing of tenants, users or migrations.

mod administrator;
mod api_token;
mod breaker;
mod checkup;
mod client;
mod credentials;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod groups;
mod id_token;
mod oidc;
mod persons;
mod provider;
mod setup;
mod version;

pub use self::administrator::{Administrator, NotLetIn, Question};
pub use self::api_token::ApiToken;
pub use self::checkup::{Checkup, MailIndex, Published, Reached, Whoami};
pub use self::client::{Answer, Body, Credential, Kanidm};
pub use self::credentials::{ResetLink, SHORTEST_LINK, Update, UpdateStatus};
pub use self::error::{Concern, KanidmError, Result};
pub use self::groups::Group;
pub use self::oidc::{AccessClaims, Authorization, Oidc, Renewed, SignedIn, unavailable};
pub use self::persons::{NewPerson, Person, UsedNames};
pub use self::setup::{Difference, Found, LoginAddress, Names, RIGHTS, Step, Wanted};
pub use self::version::{Known, known};
