//! `sidle jwks`.

use serde_json::{Map, Value};

use super::Global;
use super::connect::Caller;
use super::failure::Result;
use super::output::Out;
use crate::proto::{GetJwksRequest, Jwk};

pub(super) async fn run(global: &Global, out: &Out) -> Result<()> {
    let answer = Caller::open(global)?.anonymous().get_jwks(GetJwksRequest {}).await?.into_inner();
    let keys: Vec<Value> = answer.keys.into_iter().map(write).collect();
    // A key set is JSON, whatever `--output` says.
    out.json(&serde_json::json!({ "keys": keys }))
}

/// A key as RFC 7517 writes it: without the members that its kind does not have.
fn write(key: Jwk) -> Value {
    let members = [
        ("kid", key.kid),
        ("kty", key.kty),
        ("alg", key.alg),
        ("use", key.r#use),
        ("crv", key.crv),
        ("x", key.x),
        ("y", key.y),
        ("n", key.n),
        ("e", key.e),
    ];
    let members = members.into_iter().filter(|(_, value)| !value.is_empty());
    Value::Object(members.map(|(name, value)| (name.to_owned(), Value::String(value))).collect::<Map<_, _>>())
}
