//! What DynamoDB's failures mean to a caller.

use std::fmt;

use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

use super::NAME;
use crate::store::{ErrorKind, Operation, StoreError};

/// A cause that may be logged: the service's code, or where in the client it failed. The service's
/// texts may quote keys.
#[derive(Debug)]
pub(super) struct Cause(pub(super) String);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Cause {}

pub(super) fn refused(kind: ErrorKind, operation: Operation) -> StoreError {
    StoreError::new(kind, NAME, operation)
}

pub(super) fn failed<E, R>(error: SdkError<E, R>, operation: Operation) -> StoreError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: fmt::Debug,
{
    let writes = matches!(operation, Operation::Append | Operation::Delete);
    let lost = if writes { ErrorKind::Ambiguous } else { ErrorKind::Unavailable };
    let (kind, cause) = match &error {
        SdkError::ConstructionFailure(_) => (ErrorKind::Misconfigured, "the request could not be made".to_owned()),
        SdkError::TimeoutError(_) => (lost, "no answer in time".to_owned()),
        SdkError::DispatchFailure(failure) => {
            let kind = if failure.is_user() { ErrorKind::Misconfigured } else { lost };
            (kind, format!("{}", DisplayErrorContext(&error)))
        }
        SdkError::ServiceError(service) => {
            let code = service.err().code().unwrap_or("unknown");
            let too_large =
                service.err().message().is_some_and(|text| text.contains("exceeded the maximum allowed size"));
            (of_code(code, too_large, lost), code.to_owned())
        }
        _ => (lost, "the answer could not be read".to_owned()),
    };
    StoreError::new(kind, NAME, operation).with_source(Cause(cause))
}

fn of_code(code: &str, too_large: bool, lost: ErrorKind) -> ErrorKind {
    match code {
        "ValidationException" if too_large => ErrorKind::TooLarge,
        _ if is_busy(code) => ErrorKind::Unavailable,
        "InternalServerError" | "InternalServerErrorException" | "ServiceUnavailable" => lost,
        "ResourceNotFoundException"
        | "AccessDeniedException"
        | "UnrecognizedClientException"
        | "InvalidSignatureException"
        | "ExpiredTokenException"
        | "MissingAuthenticationTokenException"
        | "IncompleteSignatureException" => ErrorKind::Misconfigured,
        "ItemCollectionSizeLimitExceededException" => ErrorKind::Full,
        _ => ErrorKind::Other,
    }
}

/// Whether nothing was written and waiting helps, be it a call's code or the reason of a cancelled transaction.
pub(super) fn is_busy(code: &str) -> bool {
    matches!(
        code,
        "ThrottlingException"
            | "ThrottlingError"
            | "ProvisionedThroughputExceeded"
            | "ProvisionedThroughputExceededException"
            | "RequestLimitExceeded"
            | "TransactionConflict"
            | "TransactionConflictException"
            | "TransactionInProgressException"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_what_a_caller_can_do() {
        let of = |code| of_code(code, false, ErrorKind::Ambiguous);
        assert_eq!(of("ThrottlingException"), ErrorKind::Unavailable);
        assert_eq!(of("InternalServerError"), ErrorKind::Ambiguous);
        assert_eq!(of("ResourceNotFoundException"), ErrorKind::Misconfigured);
        assert_eq!(of("ValidationException"), ErrorKind::Other);
        assert_eq!(of_code("ValidationException", true, ErrorKind::Ambiguous), ErrorKind::TooLarge);
    }
}
