//! Services of the contract as tables: each RPC with its request, its answer and the function that serves it. What all
//! RPCs share, identifying the caller and turning a fault into a status, is implemented here once.

/// Implements the tonic trait of a service. A section that a service does not need is left out; sections come in this
/// order:
///
/// - `unary`: functions of `(&Service, &Call, Request)`.
/// - `with_metadata`: functions of `(&Service, tonic::Request<Request>)`, for what reads headers or has no caller.
/// - `streams`: functions of `(&Service, Call, Request)` that give a stream of answers.
/// - `uploads`: functions of `(&Service, Call, Streaming<Request>)` that give a stream of answers.
/// - `unimplemented` and `unimplemented_streams`: RPCs of the contract that are not implemented yet, by their names there.
macro_rules! rpcs {
    ($trait:ident for $service:ident {
        $(unary { $($name:ident($request:ident) -> $answer:ident = $handler:path;)+ })?
        $(with_metadata { $($whole:ident($whole_request:ident) -> $whole_answer:ident = $whole_handler:path;)+ })?
        $(streams { $($stream:ident($stream_request:ident) -> $stream_type:ident of $message:ident = $opens:path;)+ })?
        $(uploads { $($upload:ident($upload_request:ident) -> $upload_type:ident of $upload_answer:ident = $takes:path;)+ })?
        $(unimplemented { $($later:ident($later_request:ident) -> $later_answer:ident = $rpc:literal;)+ })?
        $(unimplemented_streams {
            $($silent:ident($silent_request:ident) -> $silent_type:ident of $silent_message:ident = $silent_rpc:literal;)+
        })?
    }) => {
        #[tonic::async_trait]
        impl $trait for $service {
            $($(async fn $name(&self, request: tonic::Request<$request>) -> Result<tonic::Response<$answer>, tonic::Status> {
                let call = $crate::access::Call::of(&request)?;
                Ok(tonic::Response::new($handler(self, &call, request.into_inner()).await?))
            })+)?
            $($(async fn $whole(
                &self,
                request: tonic::Request<$whole_request>,
            ) -> Result<tonic::Response<$whole_answer>, tonic::Status> {
                Ok(tonic::Response::new($whole_handler(self, request).await?))
            })+)?
            $($(type $stream_type = $crate::access::rpcs::Messages<$message>;

            async fn $stream(
                &self,
                request: tonic::Request<$stream_request>,
            ) -> Result<tonic::Response<Self::$stream_type>, tonic::Status> {
                let call = $crate::access::Call::of(&request)?;
                Ok(tonic::Response::new($crate::access::rpcs::messages($opens(self, call, request.into_inner()).await?)))
            })+)?
            $($(type $upload_type = $crate::access::rpcs::Messages<$upload_answer>;

            async fn $upload(
                &self,
                request: tonic::Request<tonic::Streaming<$upload_request>>,
            ) -> Result<tonic::Response<Self::$upload_type>, tonic::Status> {
                let call = $crate::access::Call::of_stream(&request)?;
                Ok(tonic::Response::new($crate::access::rpcs::messages($takes(self, call, request.into_inner()).await?)))
            })+)?
            $($(async fn $later(
                &self,
                _: tonic::Request<$later_request>,
            ) -> Result<tonic::Response<$later_answer>, tonic::Status> {
                Err($crate::fault::Fault::not_implemented($rpc).into())
            })+)?
            $($(type $silent_type = $crate::access::rpcs::Messages<$silent_message>;

            async fn $silent(
                &self,
                _: tonic::Request<$silent_request>,
            ) -> Result<tonic::Response<Self::$silent_type>, tonic::Status> {
                Err($crate::fault::Fault::not_implemented($silent_rpc).into())
            })+)?
        }
    };
}

use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, Stream};
use tonic::Status;

pub(crate) use rpcs;

use crate::fault::Result;

/// The messages of a stream as they are sent; after an error there are no more.
pub(crate) type Messages<M> = BoxStream<'static, std::result::Result<M, Status>>;

/// What a stream gives, as it is sent.
pub(crate) fn messages<M: 'static>(stream: impl Stream<Item = Result<M>> + Send + 'static) -> Messages<M> {
    stream.map(|message| Ok(message?)).boxed()
}
