//! Tests that fail when the host misrepresents the engine, or its development controls do not do what they say.

mod accounts;
mod controls;
mod sign_in;
mod support;
