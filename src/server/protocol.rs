//! What is no gRPC at all is refused as HTTP says, before it counts as a call: browsers can send forms and plain text
//! to any address without a preflight request (CORS), and gRPC they cannot.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;

/// Why a request is no gRPC; none when it may be.
pub(super) fn refusal(request: &Request) -> Option<(StatusCode, Response)> {
    let (status, name, value) = if request.method() != Method::POST {
        (StatusCode::METHOD_NOT_ALLOWED, header::ALLOW, "POST")
    } else if !is_grpc(request.headers()) {
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, header::ACCEPT, "application/grpc, application/grpc+proto")
    } else {
        return None;
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    Some((status, response))
}

/// Whether the one content type is that of gRPC with Protobuf; parameters say nothing.
fn is_grpc(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(given), None) = (types.next(), types.next()) else { return false };
    let Ok(given) = given.to_str() else { return false };
    let given = given.split(';').next().unwrap_or_default().trim();
    given.eq_ignore_ascii_case("application/grpc") || given.eq_ignore_ascii_case("application/grpc+proto")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(method: &str, types: &[&str]) -> Option<u16> {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = method.parse().unwrap();
        for given in types {
            request.headers_mut().append(header::CONTENT_TYPE, given.parse().unwrap());
        }
        refusal(&request).map(|(status, _)| status.as_u16())
    }

    #[test]
    fn only_posts_of_protobuf_are_grpc() {
        for fine in ["application/grpc", "application/grpc+proto", "Application/GRPC; charset=utf-8"] {
            assert_eq!(status("POST", &[fine]), None, "{fine}");
        }
        for other in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/json",
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/grpc+json",
            "application/grpcx",
            "text/plain; application/grpc",
            "",
        ] {
            assert_eq!(status("POST", &[other]), Some(415), "{other}");
        }
        assert_eq!(status("POST", &[]), Some(415));
        assert_eq!(status("POST", &["application/grpc", "text/plain"]), Some(415));
        for method in ["GET", "HEAD", "PUT", "OPTIONS", "CONNECT", "ANYTHING"] {
            assert_eq!(status(method, &["application/grpc"]), Some(405), "{method}");
        }
    }
}
