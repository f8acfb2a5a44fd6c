//! Mail: messages to people, written in the transaction of their cause and sent by a worker of every
//! replica. Owns the outbox, the templates and the connections to the mail server. Knows nothing of why a message is sent.

mod failure;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod mailer;
mod message;
mod outbox;
mod smtp;
mod store;
mod templates;
mod transport;
mod worker;

pub use self::failure::{Failure, Unconnected};
pub use self::mailer::{Letter, Mailer, Renderer};
pub use self::message::{Kind, Message};
pub use self::outbox::Outbox;
pub use self::store::NewMessage;
pub use self::templates::{Rendered, sample};
pub use self::worker::Worker;
