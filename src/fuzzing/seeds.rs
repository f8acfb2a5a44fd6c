//! Seeds that are made rather than written: a request for every RPC, filled in from the contract, so that validation has
//! something to find fault with. `SIDLE_WRITE_SEEDS=1 cargo test --lib fuzzing` writes those that are missing.

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, Value};

use super::tests::folder;
use crate::access::policies;
use crate::proto::DESCRIPTORS;

/// Deeper messages stay empty: those that hold themselves would never end.
const DEEPEST: usize = 4;

fn text(name: &str) -> String {
    let text = match name {
        _ if name.ends_with("_id") || name == "id" => "018f2f6e-7c1b-7c3a-9d5e-0a1b2c3d4e5f",
        _ if name.contains("email") || name == "identifier" => "ann@example.com",
        _ if name.ends_with("etag") => "v1",
        _ if name.ends_with("uri") || name.ends_with("url") => "https://app.example.com/return",
        "page_token" | "cursor" => "",
        "paths" => "name",
        "refresh_token" => "sidle_rt_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "api_key" => "sidle_ak_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "permissions" | "scopes" => "users.read",
        "password_hash" => "$2b$10$abcdefghijklmnopqrstuuAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAC",
        _ if name.contains("code") => "123456",
        _ => "harbour",
    };
    text.to_owned()
}

fn value(field: &FieldDescriptor, kind: &Kind, depth: usize) -> Value {
    match kind {
        Kind::Double => Value::F64(1.5),
        Kind::Float => Value::F32(1.5),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(10),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(1_800_000_000),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(10),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(10),
        Kind::Bool => Value::Bool(true),
        Kind::String => Value::String(text(field.name())),
        Kind::Bytes => Value::Bytes(vec![7; 32].into()),
        Kind::Message(message) => Value::Message(filled(message, depth + 1)),
        Kind::Enum(_) => Value::EnumNumber(1),
    }
}

fn filled(kind: &prost_reflect::MessageDescriptor, depth: usize) -> DynamicMessage {
    let mut message = DynamicMessage::new(kind.clone());
    if depth > DEEPEST {
        return message;
    }
    for field in kind.fields() {
        // Of several that exclude each other the first.
        if field.containing_oneof().is_some_and(|one| one.fields().next() != Some(field.clone())) {
            continue;
        }
        let filled = if field.is_map() {
            let Kind::Message(entry) = field.kind() else { continue };
            let of = entry.map_entry_value_field();
            Value::Map([(MapKey::String("key".to_owned()), value(&of, &of.kind(), depth))].into())
        } else if field.is_list() {
            Value::List(vec![value(&field, &field.kind(), depth)])
        } else {
            value(&field, &field.kind(), depth)
        };
        message.set_field(&field, filled);
    }
    message
}

/// The seed of an RPC: its path, the caller, the message.
fn seed(pool: &DescriptorPool, path: &str) -> Vec<u8> {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap();
    let service = pool.get_service_by_name(service).unwrap();
    let input = service.methods().find(|known| known.name() == method).unwrap().input();
    let mut seed = format!("{}\n\0", path.trim_start_matches("/sidle.v1.")).into_bytes();
    seed.extend(filled(&input, 0).encode_to_vec());
    seed
}

#[test]
fn every_rpc_has_a_seed() {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let mut missing = Vec::new();
    for (path, _) in policies() {
        let name = path.trim_start_matches("/sidle.v1.").replace('/', ".");
        let file = folder("seeds/calls").join(&name);
        if std::env::var("SIDLE_WRITE_SEEDS").is_ok() && !file.exists() {
            std::fs::create_dir_all(folder("seeds/calls")).unwrap();
            std::fs::write(&file, seed(&pool, path)).unwrap();
        }
        if !file.exists() {
            missing.push(name);
        }
    }
    assert!(missing.is_empty(), "no seeds for {missing:?}: run SIDLE_WRITE_SEEDS=1 cargo test --lib fuzzing");
}
