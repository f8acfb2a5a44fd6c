//! Errors over HTTP: the status codes and bodies of Kanidm.

use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use kanidm_proto::oauth2::ErrorResponse;
use kanidmd_lib::idm::oauth2::Oauth2Error;
use kanidmd_lib::prelude::OperationError;

pub const ANY_ORIGIN: (HeaderName, &str) = (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");
const BEARER: (HeaderName, &str) = (header::WWW_AUTHENTICATE, "Bearer");

#[derive(Debug)]
pub enum ApiError {
    Operation(OperationError),
    OAuth2(Oauth2Error),
    /// A body that was JSON but not what the call takes.
    Malformed(String),
}

impl From<OperationError> for ApiError {
    fn from(cause: OperationError) -> Self {
        ApiError::Operation(cause)
    }
}

impl From<Oauth2Error> for ApiError {
    fn from(cause: Oauth2Error) -> Self {
        ApiError::OAuth2(cause)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        match self {
            ApiError::Operation(cause) => operation(&cause),
            ApiError::OAuth2(Oauth2Error::AuthenticationRequired) => {
                (StatusCode::UNAUTHORIZED, [BEARER, ANY_ORIGIN]).into_response()
            }
            ApiError::OAuth2(cause) => {
                let body = ErrorResponse { error: cause.to_string(), ..Default::default() };
                (StatusCode::BAD_REQUEST, [ANY_ORIGIN], json(&body)).into_response()
            }
            ApiError::Malformed(why) => (StatusCode::INTERNAL_SERVER_ERROR, why).into_response(),
        }
    }
}

fn operation(cause: &OperationError) -> Response {
    let status = match cause {
        OperationError::NotAuthenticated | OperationError::SessionExpired => {
            return (StatusCode::UNAUTHORIZED, [BEARER], json(cause)).into_response();
        }
        OperationError::SystemProtectedObject | OperationError::AccessDenied => StatusCode::FORBIDDEN,
        OperationError::NoMatchingEntries => StatusCode::NOT_FOUND,
        OperationError::PasswordQuality(_)
        | OperationError::EmptyRequest
        | OperationError::InvalidAttribute(_)
        | OperationError::InvalidAttributeName(_)
        | OperationError::SchemaViolation(_)
        | OperationError::CU0003WebauthnUserNotVerified
        | OperationError::VL0001ValueSshPublicKeyString => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, json(cause)).into_response()
}

// Plain text, not `Json`: Kanidm labels its error bodies text/plain as well.
fn json(body: &impl serde::Serialize) -> String {
    serde_json::to_string(body).unwrap_or_default()
}
