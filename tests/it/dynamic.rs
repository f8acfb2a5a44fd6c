//! Calls made from the contract's descriptors, so that a test reaches every RPC and every field, also those that come
//! later.

use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use tonic::client::Grpc;
use tonic::codec::{DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::support::LIMIT;

/// Sends and receives messages as bytes.
#[derive(Default)]
pub struct Bytes;

pub struct Writer;
pub struct Reader;

impl tonic::codec::Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Writer;
    type Decoder = Reader;
    fn encoder(&mut self) -> Writer {
        Writer
    }
    fn decoder(&mut self) -> Reader {
        Reader
    }
}

impl Encoder for Writer {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl Decoder for Reader {
    type Item = Vec<u8>;
    type Error = Status;
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = bytes::Buf::remaining(buffer);
        Ok(Some(bytes::Buf::copy_to_bytes(buffer, length).to_vec()))
    }
}

/// Every RPC of ours.
pub fn rpcs() -> Vec<MethodDescriptor> {
    let pool = DescriptorPool::decode(sidle::proto::DESCRIPTORS).unwrap();
    let ours = pool.services().filter(|service| service.parent_file().package_name() == "sidle.v1");
    ours.flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

/// The path of an RPC.
pub fn path(rpc: &MethodDescriptor) -> String {
    format!("/{}/{}", rpc.parent_service().full_name(), rpc.name())
}

/// Makes a call with one message. Of a stream the first answer counts, which every stream has.
pub async fn call(
    channel: &Channel,
    rpc: &MethodDescriptor,
    message: &DynamicMessage,
    token: &str,
) -> Result<Option<DynamicMessage>, Status> {
    let request = Request::new(message.encode_to_vec());
    let answer = exchange(channel, rpc, request, token).await?;
    Ok(answer.map(|bytes| DynamicMessage::decode(rpc.output(), bytes.as_slice()).unwrap()))
}

/// The same with an encoded message, and the answer as it came.
pub async fn send(
    channel: &Channel,
    rpc: &MethodDescriptor,
    message: Vec<u8>,
    token: &str,
) -> Result<Option<Vec<u8>>, Status> {
    exchange(channel, rpc, Request::new(message), token).await
}

/// The same with metadata.
pub async fn exchange(
    channel: &Channel,
    rpc: &MethodDescriptor,
    request: Request<Vec<u8>>,
    token: &str,
) -> Result<Option<Vec<u8>>, Status> {
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(64 << 20);
    grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let mut request = request.map(tokio_stream::once);
    if !token.is_empty() {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let path = PathAndQuery::try_from(path(rpc)).unwrap();
    // Whatever a stream is asked for, it answers immediately: with its state, or with its end. To take silence for
    // success would miss an error that comes a little later.
    let answer = async {
        let mut stream = grpc.streaming(request, path, Bytes).await?.into_inner();
        stream.message().await
    };
    let late = |_| Err(Status::deadline_exceeded(format!("nothing within {LIMIT:?}")));
    tokio::time::timeout(LIMIT, answer).await.unwrap_or_else(late)
}
