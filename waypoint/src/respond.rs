// SPDX-License-Identifier: Apache-2.0
//! Answers of this proxy's own: what a client is told of a request that failed.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use plan::Fault;

use crate::{body::Body, exchange::Spoken};

/// The answer to a request that failed; a call of gRPC gets its own kind, with all it has to say in the head.
pub fn fault(fault: &Fault, spoken: Spoken) -> Response<Body> {
    let meaning = fault.meaning();
    match spoken {
        Spoken::Http => {
            let mut response = Response::new(Body::whole(Bytes::from(format!("{}\n", told(fault)))));
            *response.status_mut() = StatusCode::from_u16(meaning.status).unwrap_or(StatusCode::BAD_GATEWAY);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            response
        }
        Spoken::Grpc => {
            let mut response = Response::new(Body::default());
            let fields = response.headers_mut();
            fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            fields.insert("grpc-status", HeaderValue::from(u16::from(meaning.grpc)));
            fields.insert("grpc-message", HeaderValue::from_static(told(fault)));
            response
        }
    }
}

/// What the client is told: the kind of failure, never an address, a name or a policy of the mesh.
fn told(fault: &Fault) -> &'static str {
    match fault {
        Fault::Unreached(_) if fault.meaning().flag == "UH" => "no healthy upstream",
        Fault::Unreached(_) => "upstream connect error",
        Fault::Reset(_) | Fault::Rested(_) => "upstream reset before the answer",
        Fault::Protocol(_) => "upstream protocol error",
        Fault::TimedOut(_) => "upstream request timeout",
        Fault::Malformed(reason) => reason,
        Fault::Stalled(_) => "request timeout",
        Fault::Cancelled => "cancelled",
        Fault::HeaderTooLarge => "header too large",
        Fault::NoRoute => "no route",
        Fault::NoBackend | Fault::Unfit(_) => "no backend",
        Fault::Denied(_) => "RBAC: access denied",
        Fault::Unauthenticated(reason) => reason,
        Fault::Injected(_) => "fault filter abort",
        Fault::Overloaded(_) => "upstream overflow",
        Fault::Unsupported(what) => what,
    }
}

#[cfg(test)]
mod tests {
    use plan::{Failure, What};

    use super::*;

    #[test]
    fn a_call_is_answered_in_its_head_alone() {
        let down = Fault::from(Failure::from(What::NoHealthyUpstream("10.0.0.1:80".parse().unwrap())));
        let response = fault(&down, Spoken::Grpc);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()["grpc-message"], "no healthy upstream");
        assert!(response.body().is_empty());
    }

    #[test]
    fn a_client_learns_nothing_of_the_inside() {
        let secret = Fault::Denied("shop/policy".to_owned());
        let response = fault(&secret, Spoken::Http);
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert!(!format!("{:?}", response.body()).contains("shop"));
    }
}
