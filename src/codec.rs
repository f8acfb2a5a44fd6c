//! Protobuf over gRPC, with undecodable bytes answered as the caller's mistake rather than ours.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::fault::{Fault, Reason};

/// The codec of every service and client here.
#[derive(Debug)]
pub struct Codec<Encode, Decode>(PhantomData<(Encode, Decode)>);

impl<Encode, Decode> Default for Codec<Encode, Decode> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Encode, Decode> tonic::codec::Codec for Codec<Encode, Decode>
where
    Encode: Message + Send + 'static,
    Decode: Message + Default + Send + 'static,
{
    type Encode = Encode;
    type Decode = Decode;
    type Encoder = Writer<Encode>;
    type Decoder = Reader<Decode>;

    fn encoder(&mut self) -> Self::Encoder {
        Writer(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        Reader(PhantomData)
    }
}

/// Encodes messages.
#[derive(Debug)]
pub struct Writer<T>(PhantomData<T>);

impl<T: Message> Encoder for Writer<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buffer).map_err(|e| Fault::internal(e).into())
    }
}

/// Decodes messages.
#[derive(Debug)]
pub struct Reader<T>(PhantomData<T>);

impl<T: Message + Default> Decoder for Reader<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        match T::decode(buffer) {
            Ok(message) => Ok(Some(message)),
            // The decoder's message names fields, never contents.
            Err(error) => {
                Err(Fault::new(Reason::MalformedRequest, format!("The message cannot be decoded: {error}.")).into())
            }
        }
    }
}
