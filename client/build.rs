//! Compiles the part of the contract that this crate calls, without an installed protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true);
    compiler.open_files(["sidle/v1/authenticate.proto", "sidle/v1/session.proto"])?;
    let set = prost::Message::decode(compiler.encode_file_descriptor_set().as_slice())?;
    tonic_prost_build::configure().build_server(false).disable_comments(["."]).compile_fds(set)?;
    Ok(())
}
