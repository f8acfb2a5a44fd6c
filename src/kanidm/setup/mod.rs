//! What Sidle needs in Kanidm: a service account with three rights and a token, and an OAuth2 client. What is there is
//! read and compared with it; the difference is steps, each of which can be done, told, or given as a command.

mod apply;
mod found;
mod plan;
mod step;
mod wanted;

pub use self::found::{Difference, Found};
pub use self::step::Step;
pub use self::wanted::{LoginAddress, Names, RIGHTS, Wanted};
