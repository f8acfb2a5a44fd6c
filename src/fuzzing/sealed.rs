//! Sealed values, as a database gives them back that somebody else may have written to.

use uuid::Uuid;
use zeroize::Zeroizing;

use super::Input;
use crate::context::Entropy;
use crate::seal::{Keyring, SealContext};

/// Nothing opens but what was sealed, and that only where it was sealed for and unchanged.
pub(super) fn sealed_values(data: &[u8]) {
    let keyring = Keyring::new([(1, Zeroizing::new([1; 32])), (7, Zeroizing::new([7; 32]))]).expect("two keys");
    let context = SealContext { table: "signing_keys", column: "private_key", row: Uuid::from_u128(1) };
    assert!(keyring.open(context, data).is_err(), "something opened that nobody sealed");

    let mut input = Input::new(data);
    let (at, flip) = (input.number().unsigned_abs(), input.byte());
    let plain = input.rest();
    let mut sealed = keyring.seal(&Entropy::system(), context, plain);
    assert_eq!(keyring.open(context, &sealed).expect("what was sealed opens").as_slice(), plain);
    let elsewhere = SealContext { row: Uuid::from_u128(2), ..context };
    assert!(keyring.open(elsewhere, &sealed).is_err(), "a sealed value opened in another row");
    let at = usize::try_from(at % sealed.len() as u64).unwrap_or_default();
    sealed[at] ^= flip;
    assert!(flip == 0 || keyring.open(context, &sealed).is_err(), "a changed value opened");
    sealed.truncate(at);
    assert!(keyring.open(context, &sealed).is_err(), "half a value opened");
}
