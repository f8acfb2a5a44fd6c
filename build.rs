//! Compiles `proto/` without an installed protoc, and turns the options in it into tables: the policy of every RPC,
//! the code, remedy and text of every error reason. An RPC or a reason without its option fails the build.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, EnumValueDescriptor, MethodDescriptor, Value, prost_types};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=migrations");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);

    let mut files: Vec<PathBuf> =
        std::fs::read_dir("proto/sidle/v1")?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.retain(|file| file.extension().is_some_and(|ext| ext == "proto"));
    files.sort();
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(&files)?;
    let descriptors = compiler.encode_file_descriptor_set();
    let pool = DescriptorPool::decode(descriptors.as_slice())?;

    let comments = comments(&descriptors)?;
    std::fs::write(out.join("sidle_descriptor.bin"), with_comments(&descriptors, &Comments::default())?)?;
    std::fs::write(out.join("sidle_described.bin"), with_comments(&descriptors, &comments)?)?;
    std::fs::write(out.join("policies.rs"), policies(&pool)?)?;
    std::fs::write(out.join("reasons.rs"), reasons(&pool, &descriptors)?)?;
    std::fs::write(out.join("migrations.rs"), migrations(Path::new("migrations"))?)?;

    // In two modules, since the codec, which the services know, answers with faults, whose reasons are messages.
    let set: prost_types::FileDescriptorSet = prost::Message::decode(descriptors.as_slice())?;
    let mut config = tonic_prost_build::Config::new();
    // The type name leads to the descriptor of a message, with which the command line prints it as JSON.
    config.enable_type_names();
    config.out_dir(&out);
    config.compile_fds(set.clone())?;
    let services = out.join("services");
    std::fs::create_dir_all(&services)?;
    tonic_prost_build::configure()
        .out_dir(services)
        .extern_path(".sidle.v1", "crate::messages")
        .codec_path("crate::proto::Codec")
        // Comments of the proto files are for readers of the API; rustdoc would take their examples for code.
        .disable_comments(["."])
        .compile_fds(set)?;
    Ok(())
}

/// Where each of our files has comments: for reflection, whose clients show them.
type Comments = BTreeMap<String, prost_types::SourceCodeInfo>;

/// The comments in `descriptors`. Of our own files only: who needs Google's knows where they are. And only places with a
/// comment: the others say where in its file a thing is, which is most of the bytes and nothing that a client shows.
fn comments(descriptors: &[u8]) -> Result<Comments, Box<dyn Error>> {
    let set: prost_types::FileDescriptorSet = prost::Message::decode(descriptors)?;
    let ours = set.file.into_iter().filter(|file| file.package() == "sidle.v1");
    Ok(ours
        .map(|file| {
            let name = file.name().to_owned();
            let mut info = file.source_code_info.unwrap_or_default();
            info.location.retain(|place| place.leading_comments.is_some() || place.trailing_comments.is_some());
            // Blocks above that belong to nothing, such as a licence, and where it is in the file.
            info.location.iter_mut().for_each(|place| {
                place.leading_detached_comments.clear();
                place.span = vec![0, 0, 0];
            });
            (name, info)
        })
        .collect())
}

/// `descriptors` with these comments and no others. Not decoded into types, which would lose our options.
fn with_comments(descriptors: &[u8], comments: &Comments) -> Result<Vec<u8>, Box<dyn Error>> {
    let pool = DescriptorPool::decode(descriptors)?;
    let type_of = |name| {
        // The descriptor of descriptors comes along because policy.proto extends its options.
        let found = pool.get_message_by_name(name);
        found.ok_or("google/protobuf/descriptor.proto is not among the imports")
    };
    let mut set = DynamicMessage::decode(type_of("google.protobuf.FileDescriptorSet")?, descriptors)?;
    let info_type = type_of("google.protobuf.SourceCodeInfo")?;
    if let Some(Value::List(files)) = set.get_field_by_name_mut("file") {
        for file in files {
            let Value::Message(file) = file else { continue };
            match comments.get(&text(file, "name")) {
                None => file.clear_field_by_name("source_code_info"),
                Some(info) => {
                    let info = DynamicMessage::decode(info_type.clone(), info.encode_to_vec().as_slice())?;
                    file.set_field_by_name("source_code_info", Value::Message(info));
                }
            }
        }
    }
    Ok(set.encode_to_vec())
}

fn extension(options: DynamicMessage, pool: &DescriptorPool, name: &str) -> Option<DynamicMessage> {
    let extension = pool.get_extension_by_name(name)?;
    options.has_extension(&extension).then(|| options.get_extension(&extension).as_message().cloned()).flatten()
}

fn text(message: &DynamicMessage, field: &str) -> String {
    message.get_field_by_name(field).and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The table that the access layer looks every call up in.
fn policies(pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let mut methods: Vec<MethodDescriptor> = pool
        .services()
        .filter(|service| service.parent_file().package_name() == "sidle.v1")
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .collect();
    methods.sort_by_key(|method| method.full_name().to_owned());
    let mut out = String::from("pub(super) static POLICIES: &[(&str, Policy)] = &[\n");
    let mut aside = String::from("pub(super) static ASIDE: &[(&str, &[u32])] = &[\n");
    let mut sensitive = String::from("pub(super) static STEP_UP: &[&str] = &[\n");
    let mut limits = String::from("pub(super) static REQUEST_BYTES: &[(&str, u32)] = &[\n");
    for method in methods {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let policy = extension(method.options(), pool, "sidle.v1.policy")
            .ok_or_else(|| format!("{path} declares no policy: add `option (policy) = {{ access: ... }};` to it"))?;
        let access = policy.get_field_by_name("access").and_then(|v| v.as_enum_number()).unwrap_or(0);
        let permission = text(&policy, "permission");
        if policy.get_field_by_name("step_up").and_then(|v| v.as_bool()).unwrap_or(false) {
            writeln!(sensitive, "    {path:?},")?;
            // Neither changes what the call does: see access/proven.rs.
            let beside = ["request_id", "validate_only"].map(|name| method.input().get_field_by_name(name));
            let beside: Vec<u32> = beside.into_iter().flatten().map(|field| field.number()).collect();
            writeln!(aside, "    ({path:?}, &{beside:?}),")?;
        }
        let largest = policy.get_field_by_name("max_request_bytes").and_then(|v| v.as_u32()).unwrap_or(0);
        let largest = match (largest, access) {
            // Anonymous callers can make the service read and hold this much, in as many calls as there are permits.
            (0, 1) => 64 * 1024,
            (0, _) => 256 * 1024,
            (more, 1) if more > 64 * 1024 => return Err(format!("{path} reads {more} bytes of anybody").into()),
            (declared, _) => declared,
        };
        writeln!(limits, "    ({path:?}, {largest}),")?;
        let policy = match (access, permission.as_str()) {
            (1, "") => "Policy::Public".to_owned(),
            (2, "") => "Policy::Authenticated".to_owned(),
            (3, permission) => format!("Policy::Own({permission:?})"),
            (4, permission) if !permission.is_empty() => format!("Policy::Permission({permission:?})"),
            _ => return Err(format!("{path} declares a policy that makes no sense: {policy:?}").into()),
        };
        writeln!(out, "    ({path:?}, {policy}),")?;
    }
    writeln!(out, "];\n{sensitive}];\n{aside}];\n{limits}];")?;
    Ok(out)
}

/// Code, remedy and comment of every reason, for answers and for docs/errors.md.
fn reasons(pool: &DescriptorPool, descriptors: &[u8]) -> Result<String, Box<dyn Error>> {
    let comments = enum_comments(descriptors, "Reason")?;
    let reason = pool.get_enum_by_name("sidle.v1.Reason").ok_or("errors.proto defines no Reason")?;
    let mut values: Vec<EnumValueDescriptor> = reason.values().filter(|value| value.number() != 0).collect();
    values.sort_by_key(EnumValueDescriptor::number);
    let mut out = String::from("pub(crate) static ANSWERS: &[Answer] = &[\n");
    for value in values {
        let answer = extension(value.options(), pool, "sidle.v1.answer")
            .ok_or_else(|| format!("{} declares no answer", value.name()))?;
        let code = answer.get_field_by_name("code").and_then(|v| v.as_i32()).unwrap_or(0);
        let comment = comments.iter().find(|(name, _)| name == value.name()).map(|(_, text)| text.as_str());
        writeln!(
            out,
            "    Answer {{ reason: {}, name: {:?}, code: {code}, meaning: {:?}, remedy: {:?} }},",
            value.number(),
            value.name().trim_start_matches("REASON_"),
            comment.unwrap_or_default(),
            text(&answer, "remedy"),
        )?;
    }
    out.push_str("];\n");
    Ok(out)
}

/// Leading comments of an enum's values, which sit in the source info under the path (5, enum, 2, value).
fn enum_comments(descriptors: &[u8], name: &str) -> Result<Vec<(String, String)>, Box<dyn Error>> {
    let set: prost_types::FileDescriptorSet = prost::Message::decode(descriptors)?;
    let mut comments = Vec::new();
    for file in &set.file {
        let Some(index) = file.enum_type.iter().position(|e| e.name() == name) else { continue };
        let Some(info) = &file.source_code_info else { continue };
        for location in &info.location {
            if let [5, at, 2, value] = location.path[..]
                && at as usize == index
            {
                let value = file.enum_type[index].value[value as usize].name().to_owned();
                let lines: Vec<&str> = location.leading_comments().lines().map(str::trim).collect();
                comments.push((value, lines.join(" ").trim().to_owned()));
            }
        }
    }
    Ok(comments)
}

/// The versioned files of the schema and the files of its functions, embedded in order, so that the binary needs no
/// files beside it: the tables of `src/schema/files.rs`.
fn migrations(folder: &Path) -> Result<String, Box<dyn Error>> {
    let mut names: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(stem) = name.strip_suffix(".up.sql") {
            names.push(stem.to_owned());
        }
    }
    names.sort();
    let text = |file: &Path| format!("Cow::Borrowed(include_str!({file:?}))");
    let mut out = String::from("pub(super) static MIGRATIONS: &[MigrationFile] = &[\n");
    for name in names {
        let (version, description) = name
            .split_once('_')
            .ok_or_else(|| format!("migrations/{name}.up.sql is not {{version}}_{{description}}"))?;
        let version: i64 = version.parse()?;
        let up = folder.join(format!("{name}.up.sql")).canonicalize()?;
        let down = folder.join(format!("{name}.down.sql"));
        let down = down.canonicalize().map_err(|_| format!("migrations/{name}.down.sql is missing"))?;
        writeln!(
            out,
            "    MigrationFile {{ version: {version}, description: Cow::Borrowed({description:?}), \
                filename: Cow::Borrowed({:?}), up: {}, down: {} }},",
            format!("{name}.up.sql"),
            text(&up),
            text(&down),
        )?;
    }
    out.push_str("];\npub(super) static FUNCTIONS: &[FunctionFile] = &[\n");
    for (name, file) in functions(&folder.join("functions"))? {
        let path = file.strip_prefix(folder)?.to_string_lossy().into_owned();
        let sql = text(&file.canonicalize()?);
        writeln!(
            out,
            "    FunctionFile {{ name: Cow::Borrowed({name:?}), path: Cow::Borrowed({path:?}), sql: {sql} }},",
        )?;
    }
    out.push_str("];\n");
    Ok(out)
}

/// The functions' files by the name of the function, which is the same only once over all services.
fn functions(folder: &Path) -> Result<BTreeMap<String, PathBuf>, Box<dyn Error>> {
    let mut found = BTreeMap::new();
    for service in std::fs::read_dir(folder)? {
        for file in std::fs::read_dir(service?.path())? {
            let file = file?.path();
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let name = name.strip_suffix(".sql").ok_or_else(|| format!("{} is not *.sql", file.display()))?;
            if let Some(other) = found.insert(name.to_owned(), file.clone()) {
                return Err(format!("{} and {} are one function", file.display(), other.display()).into());
            }
        }
    }
    Ok(found)
}
